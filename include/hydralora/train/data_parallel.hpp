// SPDX-License-Identifier: MIT
//
// One step on several processes: each takes a share of the batch, their gradients are summed, all take the same step.
//
// What that needs of an engine is a communicator, anything with
//   int rank() const;                             // 0 … size() − 1
//   int size() const;
//   void sum(Scalar* data, Index count);          // data = Σ of all ranks' data, the same bits on every rank
//   void broadcast(Scalar* data, Index count);    // data = rank 0's data
// Both are collective: every rank calls them, in the same order, with the same count. interop/mpi.hpp has one for MPI.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/train/parameter_group.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Positions begin … begin + count − 1 of a batch.
struct Share {
  Index begin;  ///< the first
  Index count;  ///< how many
};

/// The share of a batch of `total` samples that a rank takes: in order, sizes that differ by one at most.
inline Share share_of(Index total, int rank, int size) {
  expects(total >= 0 && rank >= 0 && rank < size, "share_of: ", total, " samples, rank ", rank, " of ", size);
  const Index begin = total / size * rank + std::min<Index>(total % size, rank);
  return {begin, total / size + (rank < total % size ? 1 : 0)};
}

/// FNV-1a over bytes, 64 bits, to tell parameters, settings or texts apart. `hash` is that of the bytes before them.
inline std::uint64_t fnv1a(const void* data, std::size_t bytes, std::uint64_t hash = 0xcbf29ce484222325U) {
  const auto* byte = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < bytes; ++i) hash = (hash ^ byte[i]) * 0x100000001b3U;
  return hash;
}

namespace detail {

// A count or a hash goes over a wire of Scalars in digits of 12 bits: float sums them exactly over 4096 ranks.
inline constexpr Index wire_digits = 6, wire_digit_bits = 12;
inline constexpr int most_ranks = 4096;

template <class Scalar>
void write_digits(std::uint64_t number, Scalar* to) {
  for (Index i = 0; i < wire_digits; ++i) {
    to[i] =
        static_cast<Scalar>((number >> static_cast<unsigned>(i * wire_digit_bits)) & ((1U << wire_digit_bits) - 1U));
  }
}
template <class Scalar>
Index read_digits(const Scalar* from) {
  Index number = 0;
  for (Index i = wire_digits - 1; i >= 0; --i) number = (number << wire_digit_bits) + static_cast<Index>(from[i]);
  return number;
}

}  // namespace detail

/// Collective: whether every rank has this number (a size, a hash). The answer is the same on all of them.
template <class Scalar, class Communicator>
bool same_on_all_ranks(Communicator& communicator, std::uint64_t number) {
  Scalar own[detail::wire_digits], first[detail::wire_digits];
  detail::write_digits(number, own);
  std::copy_n(own, detail::wire_digits, first);
  communicator.broadcast(first, detail::wire_digits);
  Scalar differing = std::equal(own, own + detail::wire_digits, first) ? Scalar(0) : Scalar(1);
  communicator.sum(&differing, 1);
  return differing == Scalar(0);
}

/// Keeps the parameters of several processes equal, and makes their gradients those of the whole batch:
///
///   g = Σ_ranks g_rank / Σ_ranks samples_rank,       g_rank the gradient of the SUM of that rank's losses
///
///   DataParallel<float, MpiCommunicator> parallel(communicator, optimizer.groups());
///   …                                        // forward and backward on this rank's share: gradients of the summed loss
///   const auto batch = parallel.reduce(samples, loss_sum);     // now gradients of the mean loss of the whole batch
///   clip_global_norm(optimizer.groups(), 1.0);                 // after the reduction: of the whole gradient
///   optimizer.step();                                          // on every rank the same
///
/// Shares may be uneven, or empty. Construct layers with the same seed on every rank and give CallOptions::first_token the
/// place of the share in the batch: dropout then draws what one process would have drawn. A balance loss (train/balance.hpp) is taken over the tokens of one rank.
///
/// Only parameters are made equal: who loads a checkpoint does so on every rank, or broadcasts AdamW's state() and steps() too.
///
/// Cost     one reduction of all gradients and seven numbers a step; a buffer of that size, allocated at construction.
/// Numerics sums in Scalar; ranks of equal programs on equal processors stay equal bit for bit. A NaN on one rank is a NaN
///          on all, so all of them notice a run that diverges at the same step.
template <class Scalar, class Communicator>
class DataParallel {
 public:
  /// What all ranks did together.
  struct Batch {
    Index samples;     ///< of all ranks
    double mean_loss;  ///< sum of all losses over them
  };

  /// Collective: rank 0's parameters replace those of all others, and a hash of them is compared.
  ///
  /// @param communicator, groups  borrowed, must outlive this. The groups' sizes must be the same on every rank.
  /// @throws std::invalid_argument  on every rank alike, where sizes differ, or parameters do after the broadcast.
  DataParallel(Communicator& communicator, std::vector<ParameterGroup<Scalar>> groups)
      : communicator_(communicator), groups_(std::move(groups)) {
    detail::expects_groups("DataParallel", groups_);
    expects(communicator_.size() <= detail::most_ranks, "DataParallel: ", communicator_.size(), " ranks, at most ",
            detail::most_ranks, " can be counted");
    Index size = 0;
    std::uint64_t sizes = 0;
    for (const auto& group : groups_) {
      const Index own = group.parameters.size();
      size += own;
      sizes = fnv1a(&own, sizeof(own), sizes);
    }
    // Before anything of these sizes goes over the wire: a broadcast of different sizes would hang, or worse.
    expects(same_on_all_ranks<Scalar>(communicator_, sizes),
            "DataParallel: the ranks' parameters differ in number or groups: this one has ", size, " in ",
            groups_.size());
    buffer_.resize(static_cast<std::size_t>(size + detail::wire_digits + 1));
    for (auto& group : groups_) communicator_.broadcast(group.parameters.data(), group.parameters.size());
    expects_equal_parameters();
  }

  /// Collective: the gradients of all groups become those of the mean loss over all ranks' samples.
  ///
  /// @param samples   of this rank, ≥ 0. Its gradients are those of the SUM of their losses (a mean times `samples`).
  /// @param loss_sum  the sum itself.
  /// @throws std::invalid_argument  on a negative number, or, on every rank alike, where there are no samples at all; the
  ///         gradients are then untouched.
  Batch reduce(Index samples, double loss_sum) {
    expects(samples >= 0, "DataParallel::reduce: ", samples, " samples");
    Scalar* to = buffer_.data();
    for (const auto& group : groups_) to = std::copy_n(group.gradients.data(), group.gradients.size(), to);
    detail::write_digits(static_cast<std::uint64_t>(samples), to);
    to[detail::wire_digits] = static_cast<Scalar>(loss_sum);
    communicator_.sum(buffer_.data(), static_cast<Index>(buffer_.size()));

    const Index total = detail::read_digits(to);
    expects(total > 0, "DataParallel::reduce: no rank has samples");
    const Scalar* from = buffer_.data();
    const auto count = static_cast<Scalar>(total);
    for (auto& group : groups_) {
      group.gradients =
          Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>(from, group.gradients.size()) / count;
      from += group.gradients.size();
    }
    return {total, static_cast<double>(to[detail::wire_digits]) / static_cast<double>(total)};
  }

  /// Collective: whether ranks still have the same parameters, bit for bit, as they should at any time.
  /// @throws std::invalid_argument  on every rank alike, where they do not.
  void expects_equal_parameters() {
    std::uint64_t hash = fnv1a(nullptr, 0);
    for (const auto& group : groups_) {
      hash = fnv1a(group.parameters.data(), static_cast<std::size_t>(group.parameters.size()) * sizeof(Scalar), hash);
    }
    expects(same_on_all_ranks<Scalar>(communicator_, hash), "DataParallel: the ranks' parameters differ: rank ",
            communicator_.rank(), " has other bits than rank 0, or another rank has");
  }

 private:
  Communicator& communicator_;
  std::vector<ParameterGroup<Scalar>> groups_;
  std::vector<Scalar> buffer_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
