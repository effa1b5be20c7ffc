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
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
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

namespace detail {

/// FNV-1a over the bytes of all parameters, 64 bits.
template <class Scalar>
std::uint64_t parameters_hash(const std::vector<ParameterGroup<Scalar>>& groups) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const auto& group : groups) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(group.parameters.data());
    const Index size = group.parameters.size() * static_cast<Index>(sizeof(Scalar));
    for (Index i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3U;
  }
  return hash;
}

}  // namespace detail

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
    constexpr int most_ranks = 4096;
    expects(communicator_.size() <= most_ranks, "DataParallel: ", communicator_.size(), " ranks, at most ", most_ranks,
            " can be counted");
    Index size = 0;
    std::uint64_t sizes = 0;
    for (const auto& group : groups_) {
      size += group.parameters.size();
      sizes = (sizes + static_cast<std::uint64_t>(group.parameters.size())) * 0x9e3779b97f4a7c15U;
    }
    // Before anything of these sizes goes over the wire: a broadcast of different sizes would hang, or worse.
    expects_equal(sizes, "the ranks' parameters differ in number or groups: this one has ", size, " in ",
                  groups_.size());
    buffer_.resize(static_cast<std::size_t>(size + digits + 1));
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
    write_digits(static_cast<std::uint64_t>(samples), to);
    to[digits] = static_cast<Scalar>(loss_sum);
    communicator_.sum(buffer_.data(), static_cast<Index>(buffer_.size()));

    const Index total = read_digits(to);
    expects(total > 0, "DataParallel::reduce: no rank has samples");
    const Scalar* from = buffer_.data();
    const auto count = static_cast<Scalar>(total);
    for (auto& group : groups_) {
      group.gradients =
          Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>(from, group.gradients.size()) / count;
      from += group.gradients.size();
    }
    return {total, static_cast<double>(to[digits]) / static_cast<double>(total)};
  }

  /// Collective: whether ranks still have the same parameters, bit for bit, as they should at any time.
  /// @throws std::invalid_argument  on every rank alike, where they do not.
  void expects_equal_parameters() {
    expects_equal(detail::parameters_hash(groups_), "the ranks' parameters differ: rank ", communicator_.rank(),
                  " has ", "other bits than rank 0, or another rank has");
  }

 private:
  // A count or a hash goes over a wire of Scalars in digits of 12 bits: float sums them exactly over 4096 ranks.
  static constexpr Index digits = 6, digit_bits = 12;

  static void write_digits(std::uint64_t number, Scalar* to) {
    for (Index i = 0; i < digits; ++i) {
      to[i] = static_cast<Scalar>((number >> static_cast<unsigned>(i * digit_bits)) & ((1U << digit_bits) - 1U));
    }
  }
  static Index read_digits(const Scalar* from) {
    Index number = 0;
    for (Index i = digits - 1; i >= 0; --i) number = (number << digit_bits) + static_cast<Index>(from[i]);
    return number;
  }

  template <class... Parts>
  void expects_equal(std::uint64_t mine, const Parts&... parts) {
    Scalar own[digits], first[digits];
    write_digits(mine, own);
    std::copy_n(own, digits, first);
    communicator_.broadcast(first, digits);
    Scalar differing = std::equal(own, own + digits, first) ? Scalar(0) : Scalar(1);
    communicator_.sum(&differing, 1);
    expects(differing == Scalar(0), "DataParallel: ", parts...);
  }

  Communicator& communicator_;
  std::vector<ParameterGroup<Scalar>> groups_;
  std::vector<Scalar> buffer_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
