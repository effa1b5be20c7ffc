// SPDX-License-Identifier: MIT
// AdamW over flat parameter buffers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/train/parameter_group.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

struct AdamWConfig {
  double beta1 = 0.9;     ///< decay of the mean of the gradients, in [0, 1)
  double beta2 = 0.999;   ///< decay of the mean of their squares, in [0, 1)
  double epsilon = 1e-8;  ///< > 0, added to the square root
};

namespace detail {

/// The constants of one step, as Scalar or in every lane of a register.
template <class Number>
struct AdamWFactors {
  Number mean_share;         // 1 - β1
  Number square_share;       // 1 - β2
  Number decay;              // η · weight decay
  Number rate;               // η / (1 - β1^t)
  Number square_correction;  // 1 / (1 - β2^t)
  Number epsilon;
};

/// Updates one number, or one register of them. Means are computed as m += (1-β)(g - m): the rounding of 1-β then does
/// not bias the mean. Decay and update are subtracted together: 1 - ηλ, rounded to float, would lose most digits of ηλ.
template <class Number>
void adamw_update(Number& p, const Number& g, Number& m, Number& v, const AdamWFactors<Number>& f) {
  using std::sqrt;  // xsimd's sqrt is found by ADL
  m = m + f.mean_share * (g - m);
  v = v + f.square_share * (g * g - v);
  p = p - (f.decay * p + f.rate * m / (sqrt(v * f.square_correction) + f.epsilon));
}

/// adamw_update() in registers: compilers do not vectorise a loop with sqrt unless -fno-math-errno is set.
template <class Arch, class Scalar>
void adamw_simd(Scalar* p, const Scalar* g, Scalar* m, Scalar* v, Index count, const AdamWFactors<Scalar>& f) {
  using Batch = simd::Batch<Scalar, Arch>;
  const AdamWFactors<Batch> factors{Batch(f.mean_share), Batch(f.square_share),      Batch(f.decay),
                                    Batch(f.rate),       Batch(f.square_correction), Batch(f.epsilon)};
  constexpr Index width = simd::lanes<Scalar, Arch>;
  for (Index i = 0; i < count; i += width) {
    const Index rest = (std::min)(width, count - i);
    Batch parameter = simd::load_first<Arch>(p + i, rest);
    Batch mean = simd::load_first<Arch>(m + i, rest);
    Batch square = simd::load_first<Arch>(v + i, rest);
    adamw_update(parameter, simd::load_first<Arch>(g + i, rest), mean, square, factors);
    simd::store_first<Arch>(parameter, p + i, rest);
    simd::store_first<Arch>(mean, m + i, rest);
    simd::store_first<Arch>(square, v + i, rest);
  }
}

/// base^exponent by squaring. Unlike libm's pow it gives the same bits on every platform.
inline double integer_power(double base, std::int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 == 1) result *= base;
    base *= base;
  }
  return result;
}

}  // namespace detail

/// Adam with decoupled weight decay. Step t, for every number p of a group with gradient g:
///
///   m = β1 m + (1-β1) g          v = β2 v + (1-β2) g²
///   p = p - η · weight_decay · p - η · m̂ / (√v̂ + ε),     m̂ = m / (1-β1^t),  v̂ = v / (1-β2^t),
///                                                 η = learning_rate · schedule
///
/// Source   Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; η also scales the decay, as in PyTorch.
/// Cost     15 flop per parameter, including a square root and a division, and 7 numbers of memory traffic. m and v are
///          one allocation of 2 · parameters numbers, made at construction; step() allocates nothing.
/// Numerics constants in double, everything per number in Scalar; moments start at 0. The bits do not depend on the
///          number of threads. A NaN in a gradient stays in m and v: check the result of clip_global_norm() first.
///
/// The buffers are borrowed and must not move: assigning a temporary Eigen vector to one swaps its memory. A copy of an
/// optimiser has its own state but trains the same parameters.
template <class Scalar>
class AdamW {
 public:
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;  ///< moments

  /// @param groups  borrowed memory, must outlive the optimiser. Empty groups are allowed.
  /// @throws std::invalid_argument  if a group's sizes differ, two buffers share memory, a rate or decay is negative or
  ///         not finite, β is outside [0, 1), or ε is not > 0 in Scalar.
  explicit AdamW(std::vector<ParameterGroup<Scalar>> groups, AdamWConfig config = {})
      : groups_(std::move(groups)), config_(config) {
    expects(config.beta1 >= 0 && config.beta1 < 1, "AdamW: beta1 is ", config.beta1, ", expected in [0, 1)");
    expects(config.beta2 >= 0 && config.beta2 < 1, "AdamW: beta2 is ", config.beta2, ", expected in [0, 1)");
    expects(static_cast<Scalar>(config.epsilon) > 0 && std::isfinite(config.epsilon), "AdamW: epsilon is ",
            config.epsilon, ", expected > 0, finite, and not lost in the scalar type");
    detail::expects_groups("AdamW", groups_);
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const double rate = groups_[g].learning_rate, decay = groups_[g].weight_decay;
      expects(rate >= 0 && std::isfinite(rate), "AdamW: learning_rate of group ", g, " is ", rate);
      expects(decay >= 0 && std::isfinite(decay), "AdamW: weight_decay of group ", g, " is ", decay);
      size_ += groups_[g].parameters.size();
    }
    expects_disjoint();
    chunks_.resize(static_cast<std::size_t>(detail::count_chunks(groups_)));
    detail::cut_into_chunks(groups_, chunks_.data());
    state_ = Vector::Zero(checked_product(2, size_, "AdamW: state"));
  }

  /// One step. Reads the gradients, which the caller then sets to zero; OVERWRITES the parameters and state().
  /// @param schedule  factor on every group's learning rate, such as cosine_schedule(step, total).
  /// @throws std::invalid_argument  if schedule is negative or not finite; nothing is then written.
  void step(double schedule = 1) {
    expects(schedule >= 0 && std::isfinite(schedule), "AdamW::step: schedule is ", schedule,
            ", expected finite and >= 0");
    ++steps_;
    const double mean_weight = 1 - detail::integer_power(config_.beta1, steps_);
    const double square_weight = 1 - detail::integer_power(config_.beta2, steps_);
    constexpr Index flop_per_number = 15;
    parallel_for(static_cast<Index>(chunks_.size()), size_ * flop_per_number, [&](Index c) {
      const detail::GroupChunk chunk = chunks_[static_cast<std::size_t>(c)];
      ParameterGroup<Scalar>& group = groups_[chunk.group];
      const double rate = group.learning_rate * schedule;
      const detail::AdamWFactors<Scalar> factors{
          static_cast<Scalar>(1 - config_.beta1),         static_cast<Scalar>(1 - config_.beta2),
          static_cast<Scalar>(rate * group.weight_decay), static_cast<Scalar>(rate / mean_weight),
          static_cast<Scalar>(1 / square_weight),         static_cast<Scalar>(config_.epsilon)};
      Scalar* const p = group.parameters.data() + chunk.begin;
      const Scalar* const g = group.gradients.data() + chunk.begin;
      Scalar* const m = state_.data() + chunk.flat;
      Scalar* const v = m + size_;
      if constexpr (simd::has_simd<Scalar>) {
        detail::adamw_simd<simd::DefaultArch>(p, g, m, v, chunk.count, factors);
      } else {
        for (Index i = 0; i < chunk.count; ++i) detail::adamw_update(p[i], g[i], m[i], v[i], factors);
      }
    });
  }

  /// t of the formula.
  std::int64_t steps() const { return steps_; }

  /// Sets t, to restore a checkpoint together with state(). @throws std::invalid_argument if it is negative.
  void set_steps(std::int64_t steps) {
    expects(steps >= 0, "AdamW::set_steps: steps is ", steps, ", expected >= 0");
    steps_ = steps;
  }
  const std::vector<ParameterGroup<Scalar>>& groups() const { return groups_; }

  /// m of every group end to end, then v of every group. Writable, to restore a checkpoint.
  Eigen::Map<Vector> state() { return {state_.data(), state_.size()}; }
  Eigen::Map<const Vector> state() const { return {state_.data(), state_.size()}; }

 private:
  void expects_disjoint() const {
    struct Range {
      std::uintptr_t begin, end;
      std::size_t group;
      const char* what;
    };
    std::vector<Range> ranges;
    const auto address = [](const Scalar* p) { return reinterpret_cast<std::uintptr_t>(p); };
    const auto add = [&](const auto& buffer, std::size_t group, const char* what) {
      if (buffer.size() == 0) return;
      ranges.push_back({address(buffer.data()), address(buffer.data() + buffer.size()), group, what});
    };
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      add(groups_[g].parameters, g, "parameters");
      add(groups_[g].gradients, g, "gradients");
    }
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      const Range &a = ranges[i - 1], &b = ranges[i];
      expects(a.end <= b.begin, "AdamW: ", a.what, " of group ", a.group, " and ", b.what, " of group ", b.group,
              " overlap in memory");
    }
  }

  std::vector<ParameterGroup<Scalar>> groups_;
  AdamWConfig config_;
  std::vector<detail::GroupChunk> chunks_;
  Vector state_;
  Index size_ = 0;
  std::int64_t steps_ = 0;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
