// SPDX-License-Identifier: MIT
// The processes of a run under mpirun. Without MPI, or outside mpirun, there is one.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "hydralora/lm/trainer.hpp"
#if defined(FINETUNE_LM_MPI)
#include <memory>

#include "hydralora/interop/mpi.hpp"
#endif

namespace finetune_lm {

#if defined(FINETUNE_LM_MPI)
/// Sums are made in the order of the ranks: the same bits in every run of as many ranks.
class Ranks {
 public:
  Ranks() {
    bool launched = false;
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) launched |= std::getenv(name) != nullptr;
    if (!launched) return;
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    all_ = std::make_unique<hydralora::MpiCommunicator>(MPI_COMM_WORLD, hydralora::Summation::rank_order);
  }
  ~Ranks() {
    if (!all_) return;
    all_.reset();
    MPI_Finalize();
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return all_ ? all_->rank() : 0; }
  int count() const { return all_ ? all_->size() : 1; }
  void sum(double* numbers, hydralora::Index size) const {
    if (all_) all_->sum(numbers, size);
  }
  bool same(std::uint64_t number) const { return !all_ || hydralora::same_on_all_ranks<double>(*all_, number); }
  hydralora::lm::Reduction<float> reduction() const {
    if (!all_) return {};
    return {all_->rank(), all_->size(), [this](auto gradients) { all_->sum(gradients.data(), gradients.size()); },
            [this](double* numbers, hydralora::Index size) { all_->sum(numbers, size); }};
  }
  /// Ends the other ranks, which would wait for this one.
  void abort(int code) const {
    if (count() > 1) MPI_Abort(MPI_COMM_WORLD, code);
  }

 private:
  std::unique_ptr<hydralora::MpiCommunicator> all_;
};
#else
class Ranks {
 public:
  static int rank() { return 0; }
  static int count() { return 1; }
  static void sum(double*, hydralora::Index) {}
  static bool same(std::uint64_t) { return true; }
  static hydralora::lm::Reduction<float> reduction() { return {}; }
  static void abort(int) {}
};
#endif

}  // namespace finetune_lm
