// SPDX-License-Identifier: MIT
//
// The processes that share a training run: the ranks that mpirun started.
#pragma once

#include <memory>

#include <hydralora/core/config.hpp>

namespace finetune {

/// The communicator of hydralora/train/data_parallel.hpp, so that nothing but ranks.cpp knows MPI.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void sum(float* data, hydralora::Index count) = 0;
  virtual void broadcast(float* data, hydralora::Index count) = 0;
  /// Ends all ranks, this one with this exit code.
  [[noreturn]] virtual void abort(int code) = 0;
};

/// Starts MPI, and ends it when the result is gone.
/// @param rank_order  sums in the order of the ranks: the same bits in every run.
/// @throws InputError  where the program was built without MPI.
std::unique_ptr<Ranks> mpi_ranks(bool rank_order);

}  // namespace finetune
