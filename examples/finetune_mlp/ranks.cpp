// SPDX-License-Identifier: MIT
#include "ranks.hpp"

#include <cstdlib>

#include "corpus.hpp"

#if defined(FINETUNE_MPI)
#include <hydralora/interop/mpi.hpp>

namespace finetune {
namespace {

struct MpiProgram {
  MpiProgram() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  }
  ~MpiProgram() { MPI_Finalize(); }
};

class MpiRanks final : public Ranks {
 public:
  explicit MpiRanks(hydralora::Summation summation) : communicator_(MPI_COMM_WORLD, summation) {}
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  void sum(float* data, hydralora::Index count) override { communicator_.sum(data, count); }
  void broadcast(float* data, hydralora::Index count) override { communicator_.broadcast(data, count); }
  void abort(int code) override {
    MPI_Abort(MPI_COMM_WORLD, code);
    std::abort();
  }

 private:
  MpiProgram program_;
  hydralora::MpiCommunicator communicator_;
};

}  // namespace

std::unique_ptr<Ranks> mpi_ranks(bool rank_order) {
  return std::make_unique<MpiRanks>(rank_order ? hydralora::Summation::rank_order : hydralora::Summation::fastest);
}

}  // namespace finetune
#else
namespace finetune {

std::unique_ptr<Ranks> mpi_ranks(bool) { throw InputError("--mpi: this program was built without MPI"); }

}  // namespace finetune
#endif
