// SPDX-License-Identifier: MIT
// An MPI communicator for train/data_parallel.hpp. The only header that includes <mpi.h>.
#pragma once

#include <mpi.h>
#include <algorithm>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/train/data_parallel.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The order in which ranks are summed.
enum class Summation {
  fastest,     ///< MPI_Allreduce: the order may differ between runs and numbers of machines
  rank_order,  ///< ((rank 0 + rank 1) + rank 2) + …: the same bits in every run. As many bytes sent, one more buffer
};

/// A duplicate of the host's MPI communicator, so that messages of the host and the library are separate.
///
/// The host calls MPI_Init before construction and should call MPI_Finalize after destruction. All calls come from the
/// thread that constructed it (MPI_THREAD_FUNNELED is enough), each on all ranks.
/// If a rank stops early, the others wait forever in their next call: catch exceptions and call MPI_Abort.
/// @throws std::runtime_error  on an MPI error, with MPI's message.
class MpiCommunicator {
 public:
  /// Collective: duplicates the host's communicator. @throws std::invalid_argument before MPI_Init.
  explicit MpiCommunicator(MPI_Comm host = MPI_COMM_WORLD, Summation summation = Summation::fastest)
      : summation_(summation) {
    expects(running(), "MpiCommunicator: MPI_Init has not been called, or MPI_Finalize has");
    check(MPI_Comm_dup(host, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~MpiCommunicator() {
    if (running()) MPI_Comm_free(&comm_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  template <class Scalar>
  void sum(Scalar* data, Index count) {
    in_pieces(data, count, [&](Scalar* piece, int piece_count) {
      if (summation_ == Summation::rank_order) return sum_in_rank_order(piece, piece_count);
      check(MPI_Allreduce(MPI_IN_PLACE, piece, piece_count, type<Scalar>(), MPI_SUM, comm_), "MPI_Allreduce");
    });
  }
  template <class Scalar>
  void broadcast(Scalar* data, Index count) {
    in_pieces(data, count, [&](Scalar* piece, int piece_count) {
      check(MPI_Bcast(piece, piece_count, type<Scalar>(), 0, comm_), "MPI_Bcast");
    });
  }

 private:
  template <class Scalar>
  static MPI_Datatype type() {
    static_assert(std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>,
                  "hydralora: gradients are float or double.");
    return std::is_same_v<Scalar, float> ? MPI_FLOAT : MPI_DOUBLE;
  }
  static bool running() {
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    return initialized != 0 && finalized == 0;
  }
  static void check(int status, const char* what) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(status, text, &length);
    throw std::runtime_error(std::string(what) + ": " + text);
  }
  /// MPI counts in int. Pieces of 2^24 numbers also bound the buffer of sum_in_rank_order().
  template <class Scalar, class Function>
  static void in_pieces(Scalar* data, Index count, Function&& f) {
    constexpr Index piece = Index{1} << 24U;
    for (Index begin = 0; begin < count; begin += piece) {
      f(data + begin, static_cast<int>((std::min)(piece, count - begin)));
    }
  }
  /// Every rank receives its share of all ranks' numbers, adds them in rank order and sends the sums to all. Like a
  /// ring, a rank sends and receives 2 (size − 1) / size of the numbers.
  template <class Scalar>
  void sum_in_rank_order(Scalar* data, int count) {
    const auto own = static_cast<int>(share_of(count, rank_, size_).count);
    std::vector<int> counts, begins, own_counts, own_begins;
    for (int r = 0; r < size_; ++r) {
      const Share share = share_of(count, r, size_);
      begins.push_back(static_cast<int>(share.begin));
      counts.push_back(static_cast<int>(share.count));
      own_begins.push_back(r * own);
      own_counts.push_back(own);
    }
    std::vector<Scalar> all(counts.size() * static_cast<std::size_t>(own));
    check(MPI_Alltoallv(data, counts.data(), begins.data(), type<Scalar>(), all.data(), own_counts.data(),
                        own_begins.data(), type<Scalar>(), comm_),
          "MPI_Alltoallv");
    for (auto from = all.begin() + own; from < all.end(); from += own) {
      std::transform(all.begin(), all.begin() + own, from, all.begin(), std::plus<>());
    }
    check(MPI_Allgatherv(all.data(), own, type<Scalar>(), data, counts.data(), begins.data(), type<Scalar>(), comm_),
          "MPI_Allgatherv");
  }

  Summation summation_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
