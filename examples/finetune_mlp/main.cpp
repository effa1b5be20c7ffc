// SPDX-License-Identifier: MIT
//
// Fine-tunes a frozen byte-level language model on a mixture of tasks or domains, with full fine-tuning, LoRA,
// SplitLoRA and HydraLoRA side by side. `finetune_mlp --help` lists the options; docs/finetune_mlp.md explains the
// results.
#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>

#include "experiment.hpp"
#include "report.hpp"
#include "study.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

using namespace finetune;

struct Arguments {
  Settings settings;
  TextOptions texts;
  std::string mixture = "tasks";
  std::string heads = "4";
  std::string base_precision = "float32";
  std::string out = "out";
  int threads = 0;
  bool search = false;
  bool study = false;
  Index seeds = 5;
  std::string mpi;
};

/// @throws InputError  unless the text is a number from 1 to 256.
Index heads_from_text(const std::string& text) {
  Index heads = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), heads);
  if (error != std::errc() || end != text.data() + text.size() || heads < 1 || heads > 256) {
    throw InputError("--heads " + text + ": expected auto, or a number from 1 to 256");
  }
  return heads;
}

/// The number of heads from the data: k-means on byte n-grams of what is to be predicted, and the elbow.
Index heads_from_data(const std::vector<Part>& parts, std::uint64_t seed, std::ostream& out) {
  constexpr Index most = most_heads_from_data;
  const Eigen::MatrixXd features = chunk_features(parts, seed);
  hydralora::KMeansConfig config;
  config.seed = seed;
  const std::vector<double> sse = hydralora::sse_curve(features, most, config);
  const Index heads = hydralora::elbow(sse);
  out << "heads from the data: SSE(k) for k = 1 to " << most << ":" << std::fixed << std::setprecision(1);
  for (const double s : sse) out << ' ' << s;
  out << "; the elbow is at " << heads << "\n";
  return heads;
}

void search_learning_rates(const Weights& base, const Mixture& mixture, const Settings& settings,
                           const std::vector<Method>& all, ProgressLine& line) {
  const double grid[] = {1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3};
  std::cout << std::setprecision(3) << "mean validation bits/byte by learning rate\n"
            << std::left << std::setw(18) << "method" << std::right;
  for (const double rate : grid) std::cout << std::setw(10) << rate;
  std::cout << std::endl;
  for (Method method : all) {
    std::ostringstream row;
    row << std::left << std::setw(18) << method.name << std::right << std::fixed << std::setprecision(3);
    for (const double rate : grid) {
      method.learning_rate = rate;
      try {
        row << std::setw(10) << finetune::finetune(base, mixture, method, settings, std::ref(line)).validation;
      } catch (const Diverged&) {
        row << std::setw(10) << "diverged";
      }
    }
    line.clear();
    std::cout << row.str() << std::endl;
  }
}

int run(const Arguments& a) {
  const auto start = std::chrono::steady_clock::now();
  const MixtureKind kind = a.mixture == "tasks" ? MixtureKind::tasks : MixtureKind::domains;
  const Corpus corpus(load_texts(kind, a.texts), a.settings.context, a.settings.seed);
  const std::vector<Part> parts = corpus.parts(kind);

  Settings settings = a.settings;
  const bool first_rank = settings.ranks == nullptr || settings.ranks->rank() == 0;
  if (!first_rank) std::cout.setstate(std::ios::failbit);  // one of them talks and writes

  std::unique_ptr<const OutputFolder> out;  // tried before the work begins; a search writes nothing
  if (!a.search && first_rank) out = std::make_unique<OutputFolder>(a.out);
  std::cout << "text\n";
  nlohmann::ordered_json about = {{"program", "finetune_mlp"}, {"mixture", a.mixture}, {"seed", settings.seed}};
  for (const Domain& d : corpus.domains) {
    std::cout << "  " << std::left << std::setw(12) << d.name << std::right << std::setw(10) << size_text(d.text.size())
              << " from " << d.files << " files: " << d.origin << '\n';
    about["text"].push_back({{"name", d.name}, {"bytes", d.text.size()}, {"files", d.files}, {"origin", d.origin}});
  }
  settings.heads = a.heads == "auto" ? heads_from_data(parts, settings.seed, std::cout) : heads_from_text(a.heads);
  about["settings"] = {{"context", settings.context},
                       {"embedding", settings.embedding},
                       {"hidden", settings.hidden},
                       {"batch", settings.batch},
                       {"pretraining_steps", settings.pretraining_steps},
                       {"steps", settings.steps},
                       {"rank", settings.rank},
                       {"heads", settings.heads},
                       {"dropout", settings.dropout},
                       {"base_precision", a.base_precision}};

  if (settings.ranks != nullptr || settings.checkpoints.every > 0) {
    nlohmann::ordered_json run = about;  // all that the results follow from
    run["learning_rate"] = settings.learning_rate;
    run["evaluation_examples"] = settings.evaluation_examples;
    for (const Domain& d : corpus.domains) run["hashes"].push_back(hydralora::fnv1a(d.text.data(), d.text.size()));
    const std::string identity = run.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    if (settings.ranks != nullptr &&
        !hydralora::same_on_all_ranks<float>(*settings.ranks, hydralora::fnv1a(identity.data(), identity.size()))) {
      throw InputError("--mpi: the ranks were given different text or options");
    }
    if (settings.checkpoints.every > 0) {
      settings.checkpoints.folder = a.out;
      settings.checkpoints.run = identity;
    }
  }

  ProgressLine line;
  const Mixture pretraining(corpus.base_part(), settings.context, settings.seed, pretraining_stream);
  const Mixture mixture(parts, settings.context, settings.seed, finetuning_stream);
  std::vector<Result> curves(1);
  double bytes = 0;
  const Weights base =
      stored(pretrain(pretraining, settings, std::ref(line), curves[0]), settings.base_precision, bytes);
  line.clear();
  std::cout << "base: " << base.parameter_count() << " parameters, " << settings.pretraining_steps << " steps of "
            << settings.batch << " bytes, " << std::fixed << std::setprecision(3) << curves[0].mean
            << " bits/byte on held-out text of its own; frozen in " << a.base_precision << ", " << bytes
            << " bytes a weight\n\n";
  const std::vector<Method> all =
      a.study ? study_methods(settings, kind) : methods(settings, kind == MixtureKind::tasks);
  if (a.search) return search_learning_rates(base, mixture, settings, all, line), 0;

  std::vector<Result> results = {measure_base(base, mixture, settings)};
  for (const Method& method : all) {
    results.push_back(finetune::finetune(base, mixture, method, settings, std::ref(line)));
  }
  line.clear();
  print_results(std::cout, mixture, results);
  for (const Result& r : results) {
    if (r.routing.empty()) continue;
    std::cout << "\n"
              << r.name << ": mean weight of each head, and the gate's normalised entropy (1 = all heads alike)\n";
    print_routing(std::cout, mixture, r);
  }

  curves.insert(curves.end(), results.begin() + 1, results.end());
  if (!first_rank) return 0;
  about["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string csv = curves_csv(curves), json = results_json(about, mixture, results);
  const std::string csv_path = out->write("curves.csv", csv),
                    routing_path = out->write("routing.csv", routing_csv(mixture, results)),
                    json_path = out->write("results.json", json);
  for (const Result& r : curves) settings.checkpoints.remove(r.name);
  std::cout << "\n"
            << csv_path << ", " << routing_path << " and " << json_path << " written, " << std::setprecision(0)
            << about["seconds"].get<double>() << " s in all\n";
  return 0;
}

int study(const Arguments& a) {
  TextOptions base_only = a.texts;
  base_only.domains.clear();
  const StudyOptions options{a.settings, load_texts(MixtureKind::tasks, base_only),
                             load_texts(MixtureKind::domains, a.texts), a.seeds};
  const OutputFolder out(a.out);  // tried before the work begins
  ProgressLine line;
  const auto progress = [&](std::size_t done, std::size_t all) {
    line.show("training " + std::to_string(done) + " of " + std::to_string(all));
  };
  const auto files = run_study(options, progress);
  line.clear();
  for (const auto& [name, content] : files) {
    std::cout << out.write(name, content) << " written\n";
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  Settings& s = a.settings;
  CLI::App app("Fine-tune a frozen byte-level MLP on mixed data, with LoRA, SplitLoRA and HydraLoRA side by side");
  app.add_option("--mixture", a.mixture, "tasks: one text, four conflicting instructions; domains: several texts")
      ->check(CLI::IsMember({"tasks", "domains"}))
      ->capture_default_str();
  app.add_option("--base", a.texts.base,
                 "NAME=PATH: the text the base is pretrained on (file, folder or glob; default: text of this machine)");
  app.add_option("--domain", a.texts.domains,
                 "NAME=PATH: a text to fine-tune on; repeat for several; implies --mixture domains");
  app.add_option("--heads", a.heads, "number of heads, or auto: from the data (k-means and elbow)")
      ->capture_default_str();
  app.add_option("--rank", s.rank, "rank of HydraLoRA")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--dropout", s.dropout, "dropout on the adapters' input")
      ->check(CLI::Range(0.0, 0.95))
      ->capture_default_str();
  app.add_option("--base-precision", a.base_precision, "what the frozen base's weights are stored as")
      ->check(CLI::IsMember({"float32", "bf16", "f16", "int8", "nf4"}))
      ->capture_default_str();
  app.add_option("--steps", s.steps, "fine-tuning steps")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--pretraining-steps", s.pretraining_steps, "steps that train the base")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--batch", s.batch, "bytes predicted a step")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--context", s.context, "bytes the model sees, the instruction included")
      ->check(CLI::Range(2, 256))
      ->capture_default_str();
  app.add_option("--hidden", s.hidden, "width of the hidden layers")->check(CLI::Range(1, 8192))->capture_default_str();
  app.add_option("--max-bytes", a.texts.max_bytes, "most text taken of the base and of each domain")
      ->check(CLI::Range(minimum_bytes, std::size_t{1} << 31U))
      ->capture_default_str();
  app.add_option("--evaluation-examples", s.evaluation_examples, "held-out bytes predicted of each part")
      ->check(CLI::Range(4, 1 << 24))
      ->capture_default_str();
  app.add_option("--seed", s.seed, "of the split, the weights and the batches")->capture_default_str();
  app.add_option("--learning-rate", s.learning_rate, "for every method, instead of each method's own default")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", a.threads, "threads (default: as OpenMP decides); the results are the same bits")
      ->check(CLI::Range(1, 1024));
  app.add_option("--mpi", a.mpi,
                 "share every batch over the ranks of mpirun; rank-order: the same bits in every run of as many ranks")
      ->check(CLI::IsMember({"fastest", "rank-order"}));
  app.add_option("--checkpoint-every", s.checkpoints.every,
                 "steps after which a run can be started again from; a run that finds such files goes on from them")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--out", a.out, "folder for curves.csv and results.json")->capture_default_str();
  app.add_flag(
      "--search-learning-rates", a.search,
      "print each method's validation loss over a grid of learning rates, and stop; with --study of more methods");
  app.add_flag("--study", a.study,
               "both mixtures, every method and gate, several seeds (some half an hour): writes study.md and its data");
  app.add_option("--seeds", a.seeds, "seeds of --study, from --seed on")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    if (a.heads != "auto") heads_from_text(a.heads);
    const std::map<std::string, Precision> precisions = {{"float32", Precision::float32},
                                                         {"bf16", Precision::bf16},
                                                         {"f16", Precision::f16},
                                                         {"int8", Precision::int8},
                                                         {"nf4", Precision::nf4}};
    s.base_precision = precisions.at(a.base_precision);
    if (!a.texts.domains.empty() && app.count("--mixture") == 0) a.mixture = "domains";
#if defined(_OPENMP)
    if (a.threads > 0) omp_set_num_threads(a.threads);
#endif
    if ((a.study || a.search) && (!a.mpi.empty() || s.checkpoints.every > 0)) {
      throw InputError("--mpi and --checkpoint-every are for a run, not for --study or --search-learning-rates");
    }
    if (!a.mpi.empty()) {
      s.ranks = mpi_ranks(a.mpi == "rank-order");
      if (s.batch < s.ranks->size()) throw InputError("--batch is smaller than the number of ranks");
    }
    return a.study && !a.search ? study(a) : run(a);
  } catch (const CLI::Success& e) {
    return app.exit(e);  // --help
  } catch (const std::exception& e) {
    std::cerr << "finetune_mlp: " + (s.ranks ? "rank " + std::to_string(s.ranks->rank()) + ": " : std::string()) +
                     e.what() + '\n';
    const bool users_mistake =
        dynamic_cast<const InputError*>(&e) != nullptr || dynamic_cast<const CLI::Error*>(&e) != nullptr;
    if (s.ranks) s.ranks->abort(users_mistake ? 2 : 1);  // the others would wait for this one
    return users_mistake ? 2 : 1;
  }
}
