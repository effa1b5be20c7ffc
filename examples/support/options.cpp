// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace finetune {
namespace {

/// @throws InputError  unless the text is a number from 1 to 256.
Index heads_from_text(const std::string& text) {
  Index heads = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), heads);
  if (error != std::errc() || end != text.data() + text.size() || heads < 1 || heads > 256) {
    throw InputError("--heads " + text + ": expected auto, or a number from 1 to 256");
  }
  return heads;
}

}  // namespace

int run_program(int argc, char** argv, bool study, const std::function<void(Options&)>& run) {
  Options o;
  Settings& s = o.settings;
  std::string mixture = "tasks", heads = "4", mpi;
  int threads = 0;
  const std::string name = study ? "finetune_study" : "finetune_mlp";
  CLI::App app(
      study ? "Every method and gate on both mixtures with several seeds: writes study.md and its data"
            : "Fine-tune a frozen byte-level MLP on mixed data, with LoRA, SplitLoRA and HydraLoRA side by side");
  const auto add = [&](const char* option, auto& value, const char* help) {
    return app.add_option(option, value, help)->capture_default_str();
  };
  const auto number = [&](const char* option, auto& value, auto least, auto most, const char* help) {
    return add(option, value, help)->check(CLI::Range(least, most));
  };
  add("--mixture", mixture, "tasks: one text, four conflicting instructions; domains: several texts")
      ->check(CLI::IsMember({"tasks", "domains"}));
  app.add_option("--base", o.texts.base,
                 "NAME=PATH: the text the base is pretrained on (file, folder or glob; default: text of this machine)");
  app.add_option("--domain", o.texts.domains,
                 "NAME=PATH: a text to fine-tune on; repeat for several; implies --mixture domains");
  add("--heads", heads, "number of heads, or auto: from the data (k-means and elbow)");
  number("--rank", s.rank, 1, 256, "rank of HydraLoRA");
  number("--dropout", s.dropout, 0.0, 0.95, "dropout on the adapters' input");
  add("--base-precision", s.base_precision, "what the frozen base's weights are stored as")
      ->check(CLI::IsMember({"float32", "bf16", "f16", "int8", "nf4"}));
  number("--steps", s.steps, 1, 1000000, "fine-tuning steps");
  number("--pretraining-steps", s.pretraining_steps, 1, 1000000, "steps that train the base");
  number("--batch", s.batch, 1, 1 << 16, "bytes predicted a step");
  number("--context", s.context, 2, 256, "bytes the model sees, the instruction included");
  number("--hidden", s.hidden, 1, 8192, "width of the hidden layers");
  number("--max-bytes", o.texts.max_bytes, minimum_bytes, std::size_t{1} << 31U,
         "most text taken of the base and of each domain");
  number("--evaluation-examples", s.evaluation_examples, 4, 1 << 24, "held-out bytes predicted of each part");
  add("--seed", s.seed, "of the split, the weights and the batches");
  app.add_option("--learning-rate", s.learning_rate, "for every method, instead of each method's own default")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads (default: as OpenMP decides); the results are the same bits")
      ->check(CLI::Range(1, 1024));
  add("--out", o.out, study ? "folder for study.md and its data" : "folder for curves.csv and results.json");
  if (study) {
    number("--seeds", o.seeds, 1, 100, "seeds, from --seed on");
    app.add_flag("--search-learning-rates", o.search,
                 "print each method's validation loss over a grid of learning rates, and stop");
  } else {
    app.add_option(
           "--mpi", mpi,
           "share every batch over the ranks of mpirun; rank-order: the same bits in every run of as many ranks")
        ->check(CLI::IsMember({"fastest", "rank-order"}));
    app.add_option("--checkpoint-every", s.run.checkpoint_every,
                   "steps after which a run can be started again from; a run that finds such files goes on from them")
        ->check(CLI::Range(1, 1000000));
  }
  try {
    app.parse(argc, argv);
    o.heads_from_data = heads == "auto";
    if (!o.heads_from_data) s.heads = heads_from_text(heads);
    const bool domains = mixture == "domains" || (!o.texts.domains.empty() && app.count("--mixture") == 0);
    o.kind = domains ? MixtureKind::domains : MixtureKind::tasks;
#if defined(_OPENMP)
    if (threads > 0) omp_set_num_threads(threads);
#endif
    if (!mpi.empty()) {
      s.run.ranks = mpi_ranks(mpi == "rank-order");
      if (s.batch < s.run.ranks->size()) throw InputError("--batch is smaller than the number of ranks");
    }
    run(o);
    return 0;
  } catch (const CLI::Success& e) {
    return app.exit(e);  // --help
  } catch (const std::exception& e) {
    const auto& ranks = s.run.ranks;
    std::cerr << name + ": " + (ranks ? "rank " + std::to_string(ranks->rank()) + ": " : std::string()) + e.what() +
                     '\n';
    const bool users_mistake =
        dynamic_cast<const InputError*>(&e) != nullptr || dynamic_cast<const CLI::Error*>(&e) != nullptr;
    if (ranks) abort_ranks(users_mistake ? 2 : 1);  // the others would wait for this one
    return users_mistake ? 2 : 1;
  }
}

}  // namespace finetune
