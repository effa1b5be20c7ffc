// SPDX-License-Identifier: MIT
#include "ranks.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "corpus.hpp"

namespace finetune {

void expects_same(Ranks& ranks, const std::string& text) {
  std::uint64_t hash = text_hash(text);
  float own[4], first[4];  // 16 bits each, which float holds exactly
  for (int i = 0; i < 4; ++i) own[i] = first[i] = static_cast<float>((hash >> (16 * i)) & 0xffffU);
  ranks.broadcast(first, 4);
  if (!std::equal(own, own + 4, first)) throw InputError("this rank has other text or options than rank 0");
}

}  // namespace finetune

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
