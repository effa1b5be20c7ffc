// SPDX-License-Identifier: MIT
//
// Fine-tunes a frozen byte-level language model on a mixture of tasks or domains, with full fine-tuning, LoRA,
// SplitLoRA and HydraLoRA side by side. docs/finetune_mlp.md explains the options and the results.
#include <chrono>
#include <iomanip>
#include <iostream>

#include "../support/layers.hpp"
#include "../support/options.hpp"
#include "../support/report.hpp"

namespace {

using namespace finetune;

void run(Options& options) {
  const auto start = std::chrono::steady_clock::now();
  Settings& settings = options.settings;
  Run& shared = settings.run;
  if (!shared.first_rank()) std::cout.setstate(std::ios::failbit);  // one of them talks and writes

  const Corpus corpus(load_texts(options.kind, options.texts), settings.context, settings.seed);
  const std::vector<Part> parts = corpus.parts(options.kind);
  const OutputFolder out(shared.first_rank() ? options.out : "");  // tried before the work begins
  print_texts(std::cout, corpus);
  if (options.heads_from_data) settings.heads = heads_from_data(parts, settings.seed, std::cout);
  if (shared.used()) shared.start(options.out, identity(corpus, options.kind, settings));

  ProgressLine line;
  const Mixture pretraining(corpus.base_part(), settings.context, settings.seed, pretraining_stream);
  const Mixture mixture(parts, settings.context, settings.seed, finetuning_stream);
  std::vector<Result> curves(1), results(1);
  double bytes = 0;
  const Weights base = pretrain(pretraining, settings, std::ref(line), curves[0], bytes);
  line.clear();
  std::cout << "base: " << curves[0].parameters << " parameters, " << settings.pretraining_steps << " steps of "
            << settings.batch << " bytes, " << std::fixed << std::setprecision(3) << curves[0].mean
            << " bits/byte on held-out text of its own; frozen in " << settings.base_precision << ", " << bytes
            << " bytes a weight\n\n";

  const std::vector<Method> all = methods(settings, options.kind);
  results[0].name = "base frozen";
  measure(make_model(base, all[0], settings), mixture, settings, results[0]);
  for (const Method& method : all) {
    results.push_back(fine_tune(base, mixture, method, settings, std::ref(line)));
    curves.push_back(results.back());
  }
  line.clear();
  print_results(std::cout, mixture, results);
  if (!shared.first_rank()) return;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << "\n"
            << out.write("curves.csv", curves_csv(curves)) << ", "
            << out.write("routing.csv", routing_csv(mixture, results)) << ", "
            << out.write("results.json", results_json(corpus, options.kind, settings, seconds, mixture, results))
            << " and " << out.write("report.html", report_html(corpus, settings, seconds, mixture, curves, results))
            << " written, " << std::setprecision(0) << seconds << " s in all\n";
  for (const Result& r : curves) shared.remove_checkpoint(r.name);
}

}  // namespace

int main(int argc, char** argv) { return finetune::run_program(argc, argv, /*study=*/false, run); }
