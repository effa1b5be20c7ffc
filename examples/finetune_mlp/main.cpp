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
#include <memory>
#include <sstream>

#include "report.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

using namespace finetune;

struct Arguments {
  Settings settings;
  std::string mixture = "tasks";
  std::string base;
  std::vector<std::string> domains;
  std::string heads = "4";
  std::string out = "out";
  std::size_t max_bytes = std::size_t{1} << 20U;
  int threads = 0;
  bool search = false;
};

std::string size_text(std::size_t bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(bytes < 100000 ? 1 : 0) << static_cast<double>(bytes) / 1024 << " KiB";
  return text.str();
}

/// The texts of a run and how they are split. Mixture holds pointers into it.
struct Corpus {
  std::vector<Domain> domains;  // [0] is what the base is pretrained on
  std::vector<Split> splits;
};

/// Real text of this machine as one base text.
Domain joined(const std::vector<Domain>& domains, const std::string& name) {
  Domain all{name, "", 0, ""};
  for (const Domain& d : domains) {
    all.text += d.text;
    all.files += d.files;
    all.origin += (all.origin.empty() ? "" : ", ") + d.name + ' ' + size_text(d.text.size());
  }
  return all;
}

Corpus load_corpus(const Arguments& a) {
  Corpus corpus;
  const bool tasks = a.mixture == "tasks";
  if (tasks && !a.domains.empty())
    throw InputError("--domain belongs to --mixture domains; the tasks mixture has one text, --base");
  if (!tasks && a.domains.empty() && !a.base.empty())
    throw InputError("--base without --domain: name at least one domain to fine-tune on, --domain NAME=PATH");

  std::vector<Domain> found;
  if (a.base.empty() || (!tasks && a.domains.empty())) {
    found = system_domains(a.max_bytes);
    if (found.empty()) throw InputError("no text found on this machine; name one: --base NAME=PATH");
  }
  if (!a.base.empty()) {
    corpus.domains.push_back(load_domain(a.base, a.max_bytes));
  } else if (tasks || !a.domains.empty()) {
    corpus.domains.push_back(joined(found, "system"));
  } else {  // C++ and copyright files are what the base knows; the other kinds of text are the domains
    std::vector<Domain> base;
    for (const Domain& d : found) (d.name == "cpp" || d.name == "copyright" ? base : corpus.domains).push_back(d);
    if (base.empty() || corpus.domains.empty())
      throw InputError("this machine has too few kinds of text; name some: --base NAME=PATH --domain NAME=PATH …");
    corpus.domains.insert(corpus.domains.begin(), joined(base, "system"));
  }
  for (const std::string& spec : a.domains) {
    corpus.domains.push_back(load_domain(spec, a.max_bytes));
    for (std::size_t i = 1; i + 1 < corpus.domains.size(); ++i) {
      if (corpus.domains[i].name == corpus.domains.back().name)
        throw InputError("--domain " + spec + ": the name is given twice");
    }
  }
  for (const Domain& d : corpus.domains) {
    corpus.splits.push_back(split_positions(d.text, static_cast<int>(a.settings.context), a.settings.seed));
  }
  return corpus;
}

/// One text under four instructions, or one instruction over several texts.
std::vector<Part> make_parts(const Corpus& corpus, bool tasks_mixture) {
  std::vector<Part> parts;
  if (tasks_mixture) {
    for (const Task& task : tasks()) parts.push_back({task.name, &corpus.domains[0].text, &corpus.splits[0], task});
  } else {
    for (std::size_t i = 1; i < corpus.domains.size(); ++i) {
      parts.push_back({corpus.domains[i].name, &corpus.domains[i].text, &corpus.splits[i], tasks()[0]});
    }
  }
  return parts;
}

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
  std::vector<std::string> texts;
  for (const Part& part : parts) {
    texts.push_back(*part.text);
    for (char& c : texts.back()) c = static_cast<char>(part.task.apply(static_cast<unsigned char>(c)));
  }
  constexpr Index most = 8, chunks = 600, chunk_bytes = 1024, dimensions = 256;
  const Eigen::MatrixXd features =
      ngram_features(std::vector<std::string_view>(texts.begin(), texts.end()), chunks, chunk_bytes, dimensions, seed);
  hydralora::KMeansConfig config;
  config.seed = seed;
  const std::vector<double> sse = hydralora::sse_curve(features, most, config);
  const Index heads = hydralora::elbow(sse);
  out << "heads from the data: SSE(k) for k = 1 to " << most << ":" << std::fixed << std::setprecision(1);
  for (const double s : sse) out << ' ' << s;
  out << "; the elbow is at " << heads << "\n";
  return heads;
}

void search_learning_rates(const Weights& base, const Mixture& mixture, const Settings& settings, bool tasks_mixture,
                           ProgressLine& line) {
  const double grid[] = {1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3};
  std::cout << std::setprecision(3) << "mean validation bits/byte by learning rate\n"
            << std::left << std::setw(18) << "method" << std::right;
  for (const double rate : grid) std::cout << std::setw(10) << rate;
  std::cout << std::endl;
  for (Method method : methods(settings, tasks_mixture)) {
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
  const bool tasks_mixture = a.mixture == "tasks";
  const Corpus corpus = load_corpus(a);
  const std::vector<Part> parts = make_parts(corpus, tasks_mixture);

  std::unique_ptr<const OutputFolder> out;  // tried before the work begins; a search writes nothing
  if (!a.search) out = std::make_unique<OutputFolder>(a.out);

  Settings settings = a.settings;
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
                       {"dropout", settings.dropout}};

  ProgressLine line;
  const Domain& base_text = corpus.domains[0];
  const Mixture pretraining({{base_text.name, &base_text.text, &corpus.splits[0], tasks()[0]}}, settings.context,
                            settings.seed, pretraining_stream);
  const Mixture mixture(parts, settings.context, settings.seed, finetuning_stream);
  std::vector<Result> curves(1);
  const Weights base = pretrain(pretraining, settings, std::ref(line), curves[0]);
  line.clear();
  std::cout << "base: " << base.parameter_count() << " parameters, " << settings.pretraining_steps << " steps of "
            << settings.batch << " bytes, " << std::fixed << std::setprecision(3) << curves[0].mean
            << " bits/byte on held-out text of its own\n\n";
  if (a.search) return search_learning_rates(base, mixture, settings, tasks_mixture, line), 0;

  std::vector<Result> results = {measure_base(base, mixture, settings)};
  for (const Method& method : methods(settings, tasks_mixture)) {
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
  about["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string csv = curves_csv(curves), json = results_json(about, mixture, results);
  const std::string csv_path = out->write("curves.csv", csv), json_path = out->write("results.json", json);
  std::cout << "\n"
            << csv_path << " and " << json_path << " written, " << std::setprecision(0)
            << about["seconds"].get<double>() << " s in all\n";
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
  app.add_option("--base", a.base,
                 "NAME=PATH: the text the base is pretrained on (file, folder or glob; default: text of this machine)");
  app.add_option("--domain", a.domains,
                 "NAME=PATH: a text to fine-tune on; repeat for several; implies --mixture domains");
  app.add_option("--heads", a.heads, "number of heads, or auto: from the data (k-means and elbow)")
      ->capture_default_str();
  app.add_option("--rank", s.rank, "rank of HydraLoRA")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--dropout", s.dropout, "dropout on the adapters' input")
      ->check(CLI::Range(0.0, 0.95))
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
  app.add_option("--max-bytes", a.max_bytes, "most text taken of the base and of each domain")
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
  app.add_option("--out", a.out, "folder for curves.csv and results.json")->capture_default_str();
  app.add_flag("--search-learning-rates", a.search,
               "print each method's validation loss over a grid of learning rates, and stop");
  try {
    app.parse(argc, argv);
    if (a.heads != "auto") heads_from_text(a.heads);
    if (!a.domains.empty() && app.count("--mixture") == 0) a.mixture = "domains";
#if defined(_OPENMP)
    if (a.threads > 0) omp_set_num_threads(a.threads);
#endif
    return run(a);
  } catch (const CLI::Success& e) {
    return app.exit(e);  // --help
  } catch (const std::exception& e) {
    std::cerr << "finetune_mlp: " << e.what() << '\n';
    const bool users_mistake =
        dynamic_cast<const InputError*>(&e) != nullptr || dynamic_cast<const CLI::Error*>(&e) != nullptr;
    return users_mistake ? 2 : 1;
  }
}
