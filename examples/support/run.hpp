// SPDX-License-Identifier: MIT
//
// A training run that may be stopped and started again, and that several processes may share: checkpoints and MPI.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <hydralora/train/adamw.hpp>
#include <hydralora/train/data_parallel.hpp>
#if defined(FINETUNE_MPI)
#include <hydralora/interop/mpi.hpp>
#endif

namespace finetune {

using hydralora::Index;
struct Batch;
struct Result;
class Mlp;

#if defined(FINETUNE_MPI)
using Ranks = hydralora::MpiCommunicator;
#else
/// Never made where there is no MPI.
struct Ranks {
  static int rank() { return 0; }
  static int size() { return 1; }
  static void sum(float*, Index) {}
  static void broadcast(float*, Index) {}
};
#endif

/// Starts MPI, and ends it when the result is gone.
/// @param rank_order  sums in the order of the ranks: the same bits in every run.
/// @throws InputError  where the program was built without MPI.
std::shared_ptr<Ranks> mpi_ranks(bool rank_order);
/// Ends all ranks, this one with this exit code.
[[noreturn]] void abort_ranks(int code);

struct Run {
  std::shared_ptr<Ranks> ranks;  ///< that share every batch; none: this process takes all of it
  Index checkpoint_every = 0;    ///< steps; 0: never
  std::filesystem::path folder;  ///< of the checkpoints, one for every method
  std::string identity;          ///< settings and data. The files of another run are refused

  bool first_rank() const { return ranks == nullptr || ranks->rank() == 0; }
  bool used() const { return ranks != nullptr || checkpoint_every > 0; }
  /// @throws InputError  where ranks have another identity.
  void start(const std::filesystem::path& checkpoint_folder, const std::string& settings_and_data);
  /// The run is over: the checkpoint of the training of this name goes.
  void remove_checkpoint(const std::string& name) const;
};

/// One training of a run.
class RunState {
 public:
  /// Puts the training named result.name back to where it was saved, if it was. Rank 0's state becomes everybody's.
  /// @throws FileError, InputError  a file that is broken, or of another run.
  RunState(const Run& run, hydralora::AdamW<float>& optimizer, Result& result);

  /// The mean loss of a batch, and the gradients of it. Ranks take a share each.
  double train(Mlp& model, const Batch& batch, std::uint64_t step);

  /// Saves where it is time to, the whole file or nothing.
  void save(Index steps, bool last) const;

 private:
  const Run& run_;
  hydralora::AdamW<float>& optimizer_;
  Result& result_;
  std::optional<hydralora::DataParallel<float, Ranks>> parallel_;
};

}  // namespace finetune
