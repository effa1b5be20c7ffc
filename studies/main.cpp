// SPDX-License-Identifier: MIT
//
// The study behind docs/evidence.md: every method, gate and start on both mixtures over several seeds, and when routing
// pays. Or, with --search-learning-rates, the table that the methods' learning rates come from.
#include <iomanip>
#include <iostream>
#include <sstream>

#include "../examples/support/options.hpp"
#include "../examples/support/report.hpp"
#include "study.hpp"

namespace {

using namespace finetune;

void search_learning_rates(Options& options) {
  Settings& settings = options.settings;
  const Corpus corpus(load_texts(options.kind, options.texts), settings.context, settings.seed);
  const std::vector<Part> parts = corpus.parts(options.kind);
  print_texts(std::cout, corpus);
  if (options.heads_from_data) settings.heads = heads_from_data(parts, settings.seed, std::cout);
  ProgressLine line;
  Result curve;
  double bytes = 0;
  const Mixture pretraining(corpus.base_part(), settings.context, settings.seed, pretraining_stream);
  const Mixture mixture(parts, settings.context, settings.seed, finetuning_stream);
  const Weights base = pretrain(pretraining, settings, std::ref(line), curve, bytes);
  line.clear();

  const double grid[] = {1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3};
  std::cout << std::defaultfloat << std::setprecision(3) << "mean validation bits/byte by learning rate\n"
            << std::left << std::setw(18) << "method" << std::right;
  for (const double rate : grid) std::cout << std::setw(10) << rate;
  std::cout << std::endl;
  for (const Variant& method : study_methods(settings, options.kind)) {
    std::ostringstream row;
    row << std::left << std::setw(18) << method.name << std::right << std::fixed << std::setprecision(3);
    for (const double rate : grid) {
      try {
        Result result;
        result.name = method.name;
        Mlp model = make_model(base, method, mixture, settings, 0);
        train(model, mixture, settings, settings.steps, rate, std::ref(line), result);
        row << std::setw(10) << result.validation;
      } catch (const Diverged&) {
        row << std::setw(10) << "diverged";
      }
    }
    line.clear();
    std::cout << row.str() << std::endl;
  }
}

void run(Options& options) {
  if (options.search) return search_learning_rates(options);
  TextOptions base_only = options.texts;
  base_only.domains.clear();
  const StudyOptions study{options.settings, load_texts(MixtureKind::tasks, base_only),
                           load_texts(MixtureKind::domains, options.texts), options.seeds};
  const OutputFolder out(options.out);  // tried before the work begins
  ProgressLine line;
  const auto progress = [&](std::size_t done, std::size_t all) {
    line.show("training " + std::to_string(done) + " of " + std::to_string(all));
  };
  const auto files = run_study(study, progress);
  line.clear();
  for (const auto& [name, content] : files) std::cout << out.write(name, content) << " written\n";
}

}  // namespace

int main(int argc, char** argv) { return finetune::run_program(argc, argv, /*study=*/true, run); }
