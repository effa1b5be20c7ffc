// SPDX-License-Identifier: MIT
// Data-parallel training: each process takes a share of the batch, gradients are summed, and all take the same step.
//
// A communicator is any class with
//   int rank() const;                             // 0 … size() − 1
//   int size() const;
//   void sum(Scalar* data, Index count);          // data = Σ of all ranks' data, the same bits on every rank
//   void broadcast(Scalar* data, Index count);    // data = rank 0's data
// One is MpiCommunicator (interop/mpi.hpp). All ranks call sum() and broadcast() in the same order with equal counts.
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
  Index begin, count;
};

/// The share of a rank in a batch of `total` samples. Shares are in rank order; their sizes differ by at most one.
inline Share share_of(Index total, int rank, int size) {
  expects(total >= 0 && rank >= 0 && rank < size, "share_of: ", total, " samples, rank ", rank, " of ", size);
  const Index begin = total / size * rank + std::min<Index>(total % size, rank);
  return {begin, total / size + (rank < total % size ? 1 : 0)};
}

/// The 64-bit FNV-1a hash of bytes. `hash` is the hash of the bytes before them.
inline std::uint64_t fnv1a(const void* data, std::size_t bytes, std::uint64_t hash = 0xcbf29ce484222325U) {
  const auto* byte = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < bytes; ++i) hash = (hash ^ byte[i]) * 0x100000001b3U;
  return hash;
}

namespace detail {

// A count or a hash is sent as Scalars with 12 bits each: float sums them exactly over 4096 ranks.
inline constexpr Index wire_digits = 6, wire_digit_bits = 12;
inline constexpr int most_ranks = 4096;

template <class Scalar>
void write_digits(std::uint64_t number, Scalar* to) {
  for (Index i = 0; i < wire_digits; ++i, number >>= wire_digit_bits) {
    to[i] = static_cast<Scalar>(number & ((1U << wire_digit_bits) - 1U));
  }
}
template <class Scalar>
Index read_digits(const Scalar* from) {
  Index number = 0;
  for (Index i = wire_digits - 1; i >= 0; --i) number = (number << wire_digit_bits) + static_cast<Index>(from[i]);
  return number;
}

}  // namespace detail

/// Collective: whether all ranks pass the same number (a size, a hash).
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

/// Sums gradients over several processes, so that all have the same parameters and the gradient of the whole batch:
///
///   g = Σ_ranks g_rank / Σ_ranks samples_rank,       g_rank the gradient of the sum of that rank's losses
///
///   DataParallel<float, MpiCommunicator> parallel(communicator, optimizer.groups());
///   …                                                       // forward, backward: gradients of this rank's summed loss
///   const auto batch = parallel.reduce(samples, loss_sum);  // now of the mean loss of the whole batch
///   clip_global_norm(optimizer.groups(), 1.0);              // after the reduction: the whole gradient
///   optimizer.step();                                       // the same on every rank
///
/// Shares may be uneven or empty. Construct layers with the same seed on every rank and set CallOptions::first_token to
/// the first token of the share: dropout then draws the same masks as one process. A balance loss (train/balance.hpp)
/// is computed over the tokens of one rank.
///
/// Only parameters are broadcast. Load a checkpoint on every rank, or broadcast AdamW's state() and steps() too.
/// Cost     one reduction of all gradients and seven numbers per step; a buffer of that size.
/// Numerics sums in Scalar. Equal programs on equal processors have the same bits on every rank. A NaN on one rank
///          becomes a NaN on all, so all ranks notice it in the same step.
template <class Scalar, class Communicator>
class DataParallel {
 public:
  /// The batch of all ranks together.
  struct Batch {
    Index samples;
    double mean_loss;  ///< sum of all losses / samples
  };

  /// Collective: copies rank 0's parameters to all ranks and compares a hash of them.
  /// @param communicator, groups  borrowed, must outlive this. The groups' sizes must be the same on every rank.
  /// @throws std::invalid_argument  on all ranks, if sizes differ, or parameters after the broadcast.
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
    // Checked before the broadcast: with different sizes it could hang or write out of bounds.
    expects(same_on_all_ranks<Scalar>(communicator_, sizes),
            "DataParallel: the ranks' parameters differ in number or groups: this one has ", size, " in ",
            groups_.size());
    buffer_.resize(static_cast<std::size_t>(size + detail::wire_digits + 1));
    for (auto& group : groups_) communicator_.broadcast(group.parameters.data(), group.parameters.size());
    expects_equal_parameters();
  }

  /// Collective: turns the gradients of this rank's summed loss into those of the mean loss over all ranks' samples.
  /// @param samples   of this rank, ≥ 0.
  /// @param loss_sum  the sum of their losses. The gradients must be those of the sum, not of the mean.
  /// @throws std::invalid_argument  if samples is negative, or, on all ranks, 0 everywhere; gradients are untouched.
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

  /// Collective: throws std::invalid_argument on all ranks unless they have the same parameters, bit for bit.
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
