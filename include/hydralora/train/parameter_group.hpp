// SPDX-License-Identifier: MIT
// Groups of borrowed parameter and gradient buffers for an optimiser, and gradient clipping.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <new>
#include <type_traits>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/workspace.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Parameters that are trained together, their gradients and their learning rate. Refers to both buffers, owns neither:
///
///   ParameterGroup<float>{layer.parameters(), gradients.parameters(), 1e-3, 0.01}
template <class Scalar>
struct ParameterGroup {
  static_assert(std::is_floating_point_v<Scalar>, "hydralora: an optimiser works on real floating-point numbers.");
  using Map = Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>;

  Map parameters;        ///< changed by step()
  Map gradients;         ///< of the same size, read by step()
  double learning_rate;  ///< η before the schedule
  double weight_decay;   ///< of AdamW

  ParameterGroup(Map p, Map g, double rate, double decay = 0)
      : parameters(p), gradients(g), learning_rate(rate), weight_decay(decay) {}
  ParameterGroup(const ParameterGroup&) = default;
  /// Refers to the other's buffers; no parameter is copied. (The assignment of an Eigen map would copy the numbers.)
  ParameterGroup& operator=(const ParameterGroup& other) {
    if (this == &other) return *this;
    ::new (&parameters) Map(other.parameters);
    ::new (&gradients) Map(other.gradients);
    learning_rate = other.learning_rate;
    weight_decay = other.weight_decay;
    return *this;
  }
};

namespace detail {

/// Numbers begin … begin + count − 1 of one group. `flat` is their position when all groups lie end to end.
struct GroupChunk {
  std::size_t group;
  Index begin, count, flat;
};

/// Independent of the number of threads, so that sums are too. About 10 µs of work; four float buffers fit into L2.
inline constexpr Index group_chunk_size = 8192;

template <class Scalar>
Index count_chunks(const std::vector<ParameterGroup<Scalar>>& groups) {
  Index chunks = 0;
  for (const auto& group : groups) chunks += (group.parameters.size() + group_chunk_size - 1) / group_chunk_size;
  return chunks;
}

/// Fills chunks[0 … count_chunks(groups)).
template <class Scalar>
void cut_into_chunks(const std::vector<ParameterGroup<Scalar>>& groups, GroupChunk* chunks) {
  Index flat = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Index size = groups[g].parameters.size();
    for (Index begin = 0; begin < size; begin += group_chunk_size) {
      *chunks++ = {g, begin, (std::min)(group_chunk_size, size - begin), flat + begin};
    }
    flat += size;
  }
}

template <class Scalar>
void expects_groups(const char* where, const std::vector<ParameterGroup<Scalar>>& groups) {
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Index parameters = groups[g].parameters.size(), gradients = groups[g].gradients.size();
    expects(parameters == gradients, where, ": group ", g, " has ", parameters, " parameters but ", gradients,
            " gradients");
    expects(parameters == 0 || (groups[g].parameters.data() != nullptr && groups[g].gradients.data() != nullptr), where,
            ": group ", g, " has ", parameters, " numbers at a null pointer");
  }
}

/// Eight interleaved sums, added in order: the order depends only on count.
template <class Scalar>
double sum_of_squares(const Scalar* x, Index count) {
  double sums[8] = {};
  Index i = 0;
  for (; i + 8 <= count; i += 8) {
    for (Index lane = 0; lane < 8; ++lane) {
      const auto number = static_cast<double>(x[i + lane]);
      sums[lane] += number * number;
    }
  }
  for (Index lane = 0; i < count; ++i, ++lane) sums[lane] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace detail

/// Scales all gradients so that their joint Euclidean norm is at most max_norm:  g *= min(1, max_norm / ‖g‖).
/// Source   Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
/// @param groups    their gradients are SCALED IN PLACE if the norm is larger. They must not overlap (AdamW checks
///                  that): a number in two groups would be counted and scaled twice.
/// @param max_norm  > 0; infinity only measures.
/// @return the norm before scaling. If it is infinite or NaN, no gradient has been changed; skip the step.
/// @throws std::invalid_argument  if a group's sizes differ or max_norm is not > 0; nothing is then written.
/// Cost     2 flop per number and one more to scale; allocates only if the thread's scratch memory must grow.
/// Numerics squares and sums in double, so float never overflows; double does from 1e154 on. The new norm is max_norm
///          up to rounding. The bits do not depend on the number of threads.
template <class Scalar>
double clip_global_norm(const std::vector<ParameterGroup<Scalar>>& groups, double max_norm) {
  expects(max_norm > 0, "clip_global_norm: max_norm is ", max_norm, ", expected > 0");
  detail::expects_groups("clip_global_norm", groups);
  ScratchFrame scratch;
  const Index count = detail::count_chunks(groups);
  auto* chunks = scratch.take<detail::GroupChunk>(count);
  auto* sums = scratch.take<double>(count);
  detail::cut_into_chunks(groups, chunks);
  const Index work = 2 * count * detail::group_chunk_size;
  parallel_for(count, work, [&](Index c) {
    sums[c] = detail::sum_of_squares(groups[chunks[c].group].gradients.data() + chunks[c].begin, chunks[c].count);
  });
  double total = 0;
  for (Index c = 0; c < count; ++c) total += sums[c];
  const double norm = std::sqrt(total);
  if (!std::isfinite(norm) || norm <= max_norm) return norm;

  const double factor = max_norm / norm;
  parallel_for(count, work, [&](Index c) {
    auto gradients = groups[chunks[c].group].gradients;  // a map of the same numbers
    Scalar* g = gradients.data() + chunks[c].begin;
    for (Index i = 0; i < chunks[c].count; ++i) g[i] = static_cast<Scalar>(static_cast<double>(g[i]) * factor);
  });
  return norm;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
