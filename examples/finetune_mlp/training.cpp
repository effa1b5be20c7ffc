// SPDX-License-Identifier: MIT
#include "training.hpp"

#include <chrono>
#include <cmath>
#include <sstream>

#include <hydralora/analysis/router_stats.hpp>
#include <hydralora/train/schedule.hpp>

#include "../support/layers.hpp"

namespace finetune {
namespace {

using Clock = std::chrono::steady_clock;

double bits(double nats) { return nats / std::log(2.0); }

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

double validation_bits(const Mlp& model, const Mixture& mixture, Index examples) {
  std::vector<double> parts;
  for (std::size_t part = 0; part < mixture.parts().size(); ++part) {
    parts.push_back(bits(model.loss(mixture.held_out(part, &Split::validation, examples))));
  }
  return mean(parts);
}

}  // namespace

std::vector<Method> methods(const Settings& settings, MixtureKind kind) {
  // The best of 1e-3 · {1, 2, 4, 8, 16, 32} by validation loss: the table is in docs/finetune_mlp.md.
  const double full_rate = kind == MixtureKind::tasks ? 4e-3 : 8e-3, lora_same_rank = 16e-3, all_others = 8e-3;
  const Method hydra{Method::Kind::hydra_lora, "HydraLoRA", settings.rank, settings.heads, all_others};
  const Index budget = trainable_parameters(hydra, settings);
  std::vector<Method> all = {
      {Method::Kind::full, "full fine-tuning", 0, 0, full_rate},
      {Method::Kind::lora, "LoRA same rank", settings.rank, 1, lora_same_rank},
      at_budget(Method{Method::Kind::lora, "LoRA same size", 1, 1, all_others}, budget, settings),
      at_budget(Method{Method::Kind::split_lora, "SplitLoRA", 1, settings.heads, all_others}, budget, settings),
      hydra,
  };
  if (settings.learning_rate > 0) {
    for (Method& method : all) method.learning_rate = settings.learning_rate;
  }
  return all;
}

void train(Mlp& model, const Mixture& mixture, const Settings& settings, Index steps, double learning_rate,
           const Progress& progress, Result& result) {
  hydralora::AdamW<float> optimizer(model.groups(learning_rate));
  RunState run(settings.run, optimizer, result);
  Batch batch;
  double seconds = 0;
  const Index first = optimizer.steps();  // 0, or where this run was stopped
  for (Index step = first; step < steps; ++step) {
    const auto start = Clock::now();
    mixture.sample(static_cast<std::uint64_t>(step), settings.batch, batch);
    const double loss = bits(run.train(model, batch, static_cast<std::uint64_t>(step)));
    if (!std::isfinite(clip_global_norm(optimizer.groups(), 1.0))) {
      std::ostringstream text;
      text << result.name << " diverged at step " << step << ", learning rate " << learning_rate;
      throw Diverged(text.str());
    }
    optimizer.step(hydralora::cosine_schedule(step, steps, steps * 3 / 100));
    seconds += std::chrono::duration<double>(Clock::now() - start).count();

    progress(result.name, step + 1, steps, settings.batch, loss,
             static_cast<double>((step + 1 - first) * settings.batch) / seconds);
    result.loss_since_point += loss;
    const bool last = step + 1 == steps;
    if (last || (step + 1) * settings.curve_points / steps != step * settings.curve_points / steps) {
      const double validation = validation_bits(model, mixture, settings.evaluation_examples / 4);
      const auto count = static_cast<double>(step + 1 - result.last_point);
      result.curve.push_back({step + 1, result.loss_since_point / count, validation});
      result.loss_since_point = 0;
      result.last_point = step + 1;
    }
    run.save(step + 1, last);
  }
  result.learning_rate = learning_rate;
  result.milliseconds_per_step = 1000 * seconds / static_cast<double>(std::max<Index>(1, steps - first));
  measure(model, mixture, settings, result);
}

void measure(const Mlp& model, const Mixture& mixture, const Settings& settings, Result& result) {
  for (std::size_t part = 0; part < mixture.parts().size(); ++part) {
    std::array<Matrix, 3> inputs;
    const Batch batch = mixture.held_out(part, &Split::test, settings.evaluation_examples);
    result.bits_per_byte.push_back(bits(model.loss(batch, &inputs)));
    for (std::size_t layer = 0; layer < inputs.size(); ++layer) {
      const Matrix weights = model.layer(layer).routing(inputs[layer], batch);
      if (weights.rows() == 0) break;  // this method does not route
      hydralora::RouterStats stats(weights.rows());
      stats.add(weights);
      result.routing.resize(inputs.size());
      result.routing[layer].push_back({stats.usage(), stats.top1_share(), stats.normalized_entropy()});
    }
  }
  result.mean = mean(result.bits_per_byte);
  result.validation = validation_bits(model, mixture, settings.evaluation_examples);
}

Weights pretrain(const Mixture& mixture, const Settings& settings, const Progress& progress, Result& result,
                 double& bytes) {
  const Weights start = initial_weights(settings.context, settings.embedding, settings.hidden, settings.seed);
  const Method full{Method::Kind::full, "pretraining", 0, 0, settings.pretraining_learning_rate};
  result.name = full.name;
  result.parameters = trainable_parameters(full, settings);
  Mlp model = make_model(start, full, settings);
  train(model, mixture, settings, settings.pretraining_steps, full.learning_rate, progress, result);
  return as_stored(model.weights(), settings.base_precision, bytes);
}

Result fine_tune(const Weights& base, const Mixture& mixture, const Method& method, const Settings& settings,
                 const Progress& progress) {
  Mlp model = make_model(base, method, settings);
  Result result;
  result.name = method.name;
  result.parameters = trainable_parameters(method, settings);
  train(model, mixture, settings, settings.steps, method.learning_rate, progress, result);
  return result;
}

}  // namespace finetune
