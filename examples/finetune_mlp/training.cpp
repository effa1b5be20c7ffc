// SPDX-License-Identifier: MIT
#include "training.hpp"

#include <chrono>
#include <cmath>
#include <optional>
#include <sstream>
#include <utility>

#include <hydralora/layers/stored_linear.hpp>

#include "trained_adapter.hpp"

namespace finetune {
namespace {

using namespace hydralora;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
double bits(double nats) { return nats / std::log(2.0); }

/// The adapter of a method for a weight of this shape.
template <class Config>
Config adapter_config(const Method& method, Index in, Index out, double dropout) {
  Config config;
  config.in_features = in;
  config.out_features = out;
  config.rank = method.rank;
  config.alpha = method.scaling * static_cast<double>(method.rank);
  config.dropout = dropout;
  if constexpr (!std::is_same_v<Config, LoRAConfig>) {
    config.heads = method.heads;
    config.routing = method.routing;
    config.gate = method.gate;
  }
  return config;
}

/// f(config) with the config of an adapter method's own type.
template <class Function>
void with_adapter_config(const Method& method, Index in, Index out, double dropout, Function&& f) {
  switch (method.kind) {
    case Method::Kind::lora:
    case Method::Kind::lora_fa:
    case Method::Kind::dora:
      return f(adapter_config<LoRAConfig>(method, in, out, dropout));
    case Method::Kind::split:
      return f(adapter_config<SplitLoRAConfig>(method, in, out, dropout));
    case Method::Kind::hydra:
      return f(adapter_config<HydraLoRAConfig>(method, in, out, dropout));
    case Method::Kind::shared_b_lora:
      return f(adapter_config<SharedBLoRAConfig>(method, in, out, dropout));
    case Method::Kind::full:
      break;
  }
}

LoRA<float> make_adapter(const LoRAConfig& config, std::uint64_t seed) { return LoRA<float>(config, seed); }
SplitLoRA<float> make_adapter(const SplitLoRAConfig& config, std::uint64_t seed) {
  return SplitLoRA<float>(config, seed);
}
HydraLoRA<float> make_adapter(const HydraLoRAConfig& config, std::uint64_t seed) {
  return HydraLoRA<float>(config, seed);
}
SharedBLoRA<float> make_adapter(const SharedBLoRAConfig& config, std::uint64_t seed) { return SharedBLoRA<float>(config, seed); }

/// @param inputs  what the layer sees, for a gate that starts from its clusters.
template <class Adapter>
void start_adapter(Adapter& adapter, Method::Start start, std::uint64_t seed, const Matrix& inputs) {
  if constexpr (std::is_same_v<Adapter, HydraLoRA<float>>) {
    if (start == Method::Start::gaussian) initialize_gaussian(adapter, seed, 0.01);
    if (start == Method::Start::orthogonal) initialize_orthogonal(adapter, seed);
    if (start == Method::Start::clusters) {
      KMeansConfig config;
      config.clusters = adapter.shape().heads;
      config.seed = seed;
      initialize_gate(adapter, kmeans(inputs, config).centroids);
    }
  }
}

/// f(a frozen layer of this precision), whatever f returns.
template <class Function>
auto with_base(const Matrix& weight, Precision precision, Function&& f) {
  switch (precision) {
    case Precision::bf16:
      return f(BFloat16Linear<float>(NarrowWeight<Eigen::bfloat16>(weight)));
    case Precision::f16:
      return f(HalfLinear<float>(NarrowWeight<Eigen::half>(weight)));
    case Precision::int8:
      return f(Int8Linear<float>(Int8Weight(weight)));
    case Precision::nf4:
      return f(NF4Linear<float>(NF4Weight(weight)));
    case Precision::float32:
      break;
  }
  return f(DenseLinear<float>(weight));
}

std::unique_ptr<Linear> make_layer(const Method& method, const Matrix& weight, const Settings& settings,
                                   std::uint64_t seed, const Matrix& inputs) {
  if (method.kind == Method::Kind::full) return std::make_unique<TrainedLinear>(weight);
  std::unique_ptr<Linear> layer;
  with_adapter_config(method, weight.cols(), weight.rows(), settings.dropout, [&](const auto& config) {
    if constexpr (std::is_same_v<decltype(config), const LoRAConfig&>) {
      if (method.kind == Method::Kind::dora) {
        layer = std::make_unique<TrainedDoRA>(weight, config, seed);
        return;
      }
    }
    auto adapter = make_adapter(config, seed);
    start_adapter(adapter, method.start, seed, inputs);
    AdapterTraining how;
    how.frozen_A = method.kind == Method::Kind::lora_fa;
    how.balance = method.balance;
    how.warmup = method.warmup;
    how.warmup_seed = seed;
    layer = std::make_unique<TrainedAdapter<decltype(adapter)>>(
        with_base(weight, settings.base_precision, [](auto base) { return FrozenBase(std::move(base)); }),
        std::move(adapter), how);
  });
  return layer;
}

Mlp make_model(const Weights& base, const Method& method, const Mixture& mixture, const Settings& settings) {
  std::array<Matrix, 3> inputs;
  if (method.start == Method::Start::clusters) {
    Method nothing = method;
    nothing.start = Method::Start::kaiming;
    Batch batch;
    mixture.sample(static_cast<std::uint64_t>(settings.steps), settings.batch, batch);  // a step that is never trained
    make_model(base, nothing, mixture, settings).loss(batch, &inputs);
  }
  Mlp::Layers layers;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::uint64_t seed = (settings.seed + settings.adapter_seed) * layers.size() + i;
    layers[i] = make_layer(method, base.weight[i], settings, seed, inputs[i]);
  }
  return Mlp(base, std::move(layers), method.kind == Method::Kind::full);
}

/// Bits per byte of every part on held-out text.
std::vector<double> evaluate(const Mlp& model, const Mixture& mixture, const std::vector<std::uint32_t> Split::*which,
                             Index examples) {
  std::vector<double> result;
  for (std::size_t part = 0; part < mixture.parts().size(); ++part) {
    result.push_back(bits(model.loss(mixture.held_out(part, which, examples))));
  }
  return result;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

using Parallel = DataParallel<float, Ranks>;

/// The loss of one step's batch, and its gradients. Ranks each take their share.
double batch_loss(Mlp& model, const Batch& batch, std::uint64_t step, const Ranks* ranks, Parallel* parallel) {
  if (parallel == nullptr) return model.train(batch, step);
  const Share share = share_of(batch.contexts.cols(), ranks->rank(), ranks->size());
  const double loss = model.train(slice(batch, share), step, /*divisor=*/1);
  return parallel->reduce(share.count, loss).mean_loss;
}

/// Where the run was stopped, by rank 0's checkpoint: the others need not see the file.
void resume(const Settings& settings, AdamW<float>& optimizer, Result& result, SincePoint& since) {
  Ranks* ranks = settings.ranks.get();
  if (ranks == nullptr || ranks->rank() == 0) settings.checkpoints.load(optimizer, result, since);
  if (ranks == nullptr) return;
  auto steps = static_cast<float>(optimizer.steps());  // exact: runs have a million steps at most
  ranks->broadcast(&steps, 1);
  optimizer.set_steps(static_cast<std::int64_t>(steps));
  ranks->broadcast(optimizer.state().data(), optimizer.state().size());
}

/// AdamW with warm-up over 3 % of the steps, cosine to zero, gradients clipped to norm 1.
void run_steps(Mlp& model, const Mixture& mixture, const Settings& settings, Index steps, double learning_rate,
               const Progress& progress, Result& result) {
  AdamW<float> optimizer(model.groups(learning_rate));
  SincePoint since;
  resume(settings, optimizer, result, since);
  std::optional<Parallel> parallel;  // rank 0's parameters become everybody's
  if (settings.ranks != nullptr) parallel.emplace(*settings.ranks, optimizer.groups());
  Batch batch;
  double training_seconds = 0;
  const Index first = optimizer.steps();
  for (Index step = first; step < steps; ++step) {
    const auto start = Clock::now();
    mixture.sample(static_cast<std::uint64_t>(step), settings.batch, batch);
    const double loss = bits(batch_loss(model, batch, static_cast<std::uint64_t>(step), settings.ranks.get(),
                                        parallel ? &*parallel : nullptr));
    if (!std::isfinite(clip_global_norm(optimizer.groups(), 1.0))) {
      std::ostringstream text;
      text << result.name << " diverged at step " << step << ", learning rate " << learning_rate;
      throw Diverged(text.str());
    }
    optimizer.step(cosine_schedule(step, steps, steps * 3 / 100));
    training_seconds += seconds_since(start);

    since.loss += loss;
    progress(result.name, step + 1, steps, settings.batch, loss,
             static_cast<double>((step + 1 - first) * settings.batch) / training_seconds);
    const bool last = step + 1 == steps;
    if (last || (step + 1) * settings.curve_points / steps != step * settings.curve_points / steps) {
      const double validation = mean(evaluate(model, mixture, &Split::validation, settings.evaluation_examples / 4));
      result.curve.push_back({step + 1, since.loss / static_cast<double>(step + 1 - since.start), validation});
      since = {0, step + 1};
    }
    const bool saves = settings.checkpoints.every > 0 && (last || (step + 1) % settings.checkpoints.every == 0);
    if (saves && (settings.ranks == nullptr || settings.ranks->rank() == 0)) {
      settings.checkpoints.save(optimizer, result, since);
    }
  }
  result.learning_rate = learning_rate;
  result.milliseconds_per_step = 1000 * training_seconds / static_cast<double>(std::max<Index>(1, steps - first));
}

void measure(const Mlp& model, const Mixture& mixture, const Settings& settings, Result& result) {
  for (std::size_t part = 0; part < mixture.parts().size(); ++part) {
    std::array<Matrix, 3> inputs;
    const Batch batch = mixture.held_out(part, &Split::test, settings.evaluation_examples);
    result.bits_per_byte.push_back(bits(model.loss(batch, &inputs)));
    for (std::size_t layer = 0; layer < inputs.size(); ++layer) {
      const Matrix weights = model.layer(layer).routing(inputs[layer], batch);
      if (weights.rows() == 0) break;  // this method does not route
      RouterStats stats(weights.rows());
      stats.add(weights);
      result.routing.resize(inputs.size());
      result.routing[layer].push_back({stats.usage(), stats.top1_share(), stats.normalized_entropy()});
    }
  }
  for (std::size_t layer = 0; layer < result.factors.size(); ++layer) {
    result.head_likeness[layer] = model.layer(layer).head_likeness();
    result.factors[layer] = model.layer(layer).factors();
  }
  result.mean = mean(result.bits_per_byte);
  result.validation = mean(evaluate(model, mixture, &Split::validation, settings.evaluation_examples));
}

const Method full{Method::Kind::full, "full fine-tuning", 0, 0, 0};

}  // namespace

Index trainable_parameters(const Method& method, const Settings& settings) {
  const Index in = settings.context * settings.embedding, hidden = settings.hidden;
  const std::array<hydralora::Shape, 3> weights = {Shape{hidden, in}, Shape{hidden, hidden},
                                                   Shape{byte_values, hidden}};
  Index count = method.kind == Method::Kind::full ? settings.embedding * byte_values : 0;
  for (const hydralora::Shape& w : weights) {
    if (method.kind == Method::Kind::full) count += w.rows * w.cols + w.rows;
    with_adapter_config(method, w.cols, w.rows, 0, [&](const auto& config) {
      const AdapterShape shape = shape_of(config);
      const Index trained =
          method.kind == Method::Kind::lora_fa ? shape.up_rows() * shape.up_stride() : shape.parameter_count();
      count += trained + (method.kind == Method::Kind::dora ? w.rows : 0);
    });
  }
  return count;
}

Method at_budget(Method method, Index parameters, const Settings& settings) {
  Index best = parameters;
  for (Method candidate = method;; ++candidate.rank) {
    const Index distance = std::abs(trainable_parameters(candidate, settings) - parameters);
    if (distance >= best && candidate.rank > method.rank) return method;
    best = distance;
    method = candidate;
  }
}

std::vector<Method> methods(const Settings& settings, bool tasks) {
  // The best of 1e-3 · {1, 2, 4, 8, 16, 32} by validation loss, searched alike for all; docs/finetune_mlp.md has the
  // table.
  const double full_rate = tasks ? 4e-3 : 8e-3, lora_same_rank = 16e-3, all_others = 8e-3;
  const Method hydra{Method::Kind::hydra, "HydraLoRA", settings.rank, settings.heads, all_others};
  const Index budget = trainable_parameters(hydra, settings);
  std::vector<Method> all = {
      {Method::Kind::full, full.name, 0, 0, full_rate},
      {Method::Kind::lora, "LoRA same rank", settings.rank, 1, lora_same_rank},
      at_budget({Method::Kind::lora, "LoRA same size", 1, 1, all_others}, budget, settings),
      at_budget({Method::Kind::split, "SplitLoRA", 1, settings.heads, all_others}, budget, settings),
      hydra,
  };
  if (settings.learning_rate > 0) {
    for (Method& method : all) method.learning_rate = settings.learning_rate;
  }
  return all;
}

Weights pretrain(const Mixture& mixture, const Settings& settings, const Progress& progress, Result& result) {
  const Weights start = initial_weights(settings.context, settings.embedding, settings.hidden, settings.seed);
  result.name = "pretraining";
  result.parameters = start.parameter_count();
  Mlp model = make_model(start, full, mixture, settings);
  run_steps(model, mixture, settings, settings.pretraining_steps, settings.pretraining_learning_rate, progress, result);
  measure(model, mixture, settings, result);
  return model.weights();
}

Weights stored(Weights weights, Precision precision, double& bytes) {
  double size = 0, total = 0;
  for (Matrix& weight : weights.weight) {
    size += static_cast<double>(weight.size());
    weight = with_base(weight, precision, [&](const auto& base) -> Matrix {
      if constexpr (std::is_same_v<std::decay_t<decltype(base)>, DenseLinear<float>>) {
        total += 4.0 * static_cast<double>(weight.size());
      } else {
        total += static_cast<double>(base.storage().bytes());
      }
      return base.weight();
    });
  }
  bytes = total / size;
  return weights;
}

Result finetune(const Weights& base, const Mixture& mixture, const Method& method, const Settings& settings,
                const Progress& progress) {
  Mlp model = make_model(base, method, mixture, settings);
  Result result;
  result.name = method.name;
  result.parameters = trainable_parameters(method, settings);
  run_steps(model, mixture, settings, settings.steps, method.learning_rate, progress, result);
  measure(model, mixture, settings, result);
  return result;
}

Result measure_base(const Weights& base, const Mixture& mixture, const Settings& settings) {
  Result result;
  result.name = "base frozen";
  measure(make_model(base, full, mixture, settings), mixture, settings, result);
  return result;
}

}  // namespace finetune
