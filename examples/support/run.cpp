// SPDX-License-Identifier: MIT
#include "run.hpp"

#include <cstdlib>

#include <hydralora/io/checkpoint.hpp>

#include "../finetune_mlp/training.hpp"
#include "report.hpp"

namespace finetune {
namespace {

std::filesystem::path checkpoint_file(const std::filesystem::path& folder, std::string name) {
  for (char& c : name) c = c == ' ' ? '_' : c;
  return folder / (name + ".checkpoint.safetensors");
}

void load(const Run& run, hydralora::AdamW<float>& optimizer, Result& result) {
  const std::filesystem::path path = checkpoint_file(run.folder, result.name);
  if (run.folder.empty() || !std::filesystem::exists(path)) return;
  const auto metadata = hydralora::SafetensorsFile(path).metadata();  // looked at before anything is changed
  const auto found = metadata.find("run");
  if (found == metadata.end() || found->second != run.identity) {
    throw InputError(path.string() + " is from a run with other settings or text: remove it, or choose another --out");
  }
  try {
    read_state(metadata.at("state"), result);
  } catch (const std::exception& e) {
    throw InputError(path.string() + ": " + e.what());
  }
  hydralora::load_checkpoint(path, optimizer);
}

/// One rank's share of a batch.
Batch slice(const Batch& whole, hydralora::Share share) {
  const auto cut = [&](const auto& all) {
    return std::decay_t<decltype(all)>(all.begin() + share.begin, all.begin() + share.begin + share.count);
  };
  const auto first = whole.first + static_cast<std::uint64_t>(share.begin);
  return {whole.contexts.middleCols(share.begin, share.count), cut(whole.targets), cut(whole.parts), {}, first};
}

}  // namespace

RunState::RunState(const Run& run, hydralora::AdamW<float>& optimizer, Result& result)
    : run_(run), optimizer_(optimizer), result_(result) {
  if (run.first_rank()) load(run, optimizer, result);
  if (run.ranks == nullptr) return;
  auto steps = static_cast<float>(optimizer.steps());  // exact: runs have a million steps at most
  run.ranks->broadcast(&steps, 1);
  optimizer.set_steps(static_cast<std::int64_t>(steps));
  run.ranks->broadcast(optimizer.state().data(), optimizer.state().size());
  parallel_.emplace(*run.ranks, optimizer.groups());
}

double RunState::train(Mlp& model, const Batch& batch, std::uint64_t step) {
  if (!parallel_) return model.train(batch, step, batch.contexts.cols());
  const hydralora::Share share = hydralora::share_of(batch.contexts.cols(), run_.ranks->rank(), run_.ranks->size());
  return parallel_->reduce(share.count, model.train(slice(batch, share), step, /*divisor=*/1)).mean_loss;
}

void RunState::save(Index steps, bool last) const {
  const bool saves = run_.checkpoint_every > 0 && (last || steps % run_.checkpoint_every == 0);
  if (!saves || !run_.first_rank()) return;
  hydralora::save_checkpoint(checkpoint_file(run_.folder, result_.name), optimizer_,
                             {{"run", run_.identity}, {"state", state_text(result_)}});
}

void Run::start(const std::filesystem::path& checkpoint_folder, const std::string& settings_and_data) {
  identity = settings_and_data;
  if (checkpoint_every > 0) folder = checkpoint_folder;
  if (ranks != nullptr &&
      !hydralora::same_on_all_ranks<float>(*ranks, hydralora::fnv1a(identity.data(), identity.size()))) {
    throw InputError("--mpi: the ranks were given different text or options");
  }
}

void Run::remove_checkpoint(const std::string& name) const {
  std::error_code ignored;
  if (!folder.empty()) std::filesystem::remove(checkpoint_file(folder, name), ignored);
}

#if defined(FINETUNE_MPI)
std::shared_ptr<Ranks> mpi_ranks(bool rank_order) {
  struct Program {
    Program() { MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided); }
    ~Program() { MPI_Finalize(); }
    int provided = 0;
  };
  const auto program = std::make_shared<Program>();
  const auto summation = rank_order ? hydralora::Summation::rank_order : hydralora::Summation::fastest;
  // Holds the program, which ends after its communicator.
  return {new Ranks(MPI_COMM_WORLD, summation), [program](Ranks* ranks) { delete ranks; }};
}
void abort_ranks(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::abort();
}
#else
std::shared_ptr<Ranks> mpi_ranks(bool) { throw InputError("--mpi: this program was built without MPI"); }
void abort_ranks(int code) { std::exit(code); }
#endif

}  // namespace finetune
