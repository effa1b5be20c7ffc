// SPDX-License-Identifier: MIT
#include "train_options.hpp"

#include <set>
#include <sstream>
#include <stdexcept>

namespace finetune_lm {
namespace {

lm::AdapterOptions adapter_options(const TrainOptions& o) {
  lm::AdapterOptions a;
  a.method = o.method == "split"         ? lm::Method::split
             : o.method == "split-gated" ? lm::Method::split_gated
             : o.method == "hydra"       ? lm::Method::hydra
                                         : lm::Method::lora;
  a.rank = o.rank;
  a.alpha = o.alpha;
  a.heads = o.heads;
  a.dropout = o.dropout;
  a.target_modules = o.target_modules;
  a.layers = o.layers;
  a.seed = o.seed;
  for (int i = 0; i < 4; ++i) {
    if (o.gate == lm::gate_names[i]) a.gate = static_cast<lm::GateKind>(i);
  }
  return a;
}

/// The adapter's method and sizes come from its directory. Options may say the same, but nothing else.
void check_given_options(const TrainOptions& o, const hydralora::PeftDirectory& directory, lm::Decoder<float>& model) {
  const auto check = [&](const char* option, const auto& value, const auto& in_directory) {
    if (o.given.count(option) == 0 || value == in_directory) return;
    std::ostringstream message;
    message << option << ' ' << value << ": --adapter " << o.model.adapter << " has " << in_directory;
    throw std::invalid_argument(message.str());
  };
  check("--gate", o.gate, directory.gate().empty() ? "token" : directory.gate());
  std::set<std::string> names;
  for (const hydralora::AdapterModule& module : directory.modules()) {
    using hydralora::AdapterKind;
    check("--method", o.method,
          std::string(module.kind == AdapterKind::lora         ? "lora"
                      : module.kind == AdapterKind::split_lora ? module.routed ? "split-gated" : "split"
                                                               : "hydra"));
    check("--rank", o.rank, module.rank);
    check("--alpha", o.alpha, module.alpha);
    check("--heads", o.heads, module.heads);
    check("--dropout", o.dropout, module.dropout);
    names.insert(module.name);
  }
  if (o.given.count("--target-modules") + o.given.count("--layers") == 0) return;
  const lm::AdapterOptions wanted = adapter_options(o);
  model.for_each_linear([&](const lm::Linear<float>& linear) {
    if (wanted.selects(linear.name) != (names.count(linear.name) > 0)) {
      throw std::invalid_argument("--target-modules and --layers: --adapter " + o.model.adapter +
                                  " has other modules, see " + linear.name);
    }
  });
}

}  // namespace

std::unique_ptr<lm::Adapters<float>> make_adapters(const TrainOptions& o, lm::Decoder<float>& model,
                                                   const std::vector<std::string>& groups) {
  std::unique_ptr<lm::Adapters<float>> adapters;
  if (o.model.adapter.empty()) {
    adapters = std::make_unique<lm::Adapters<float>>(model, adapter_options(o));
  } else {
    const hydralora::PeftDirectory directory = open_adapter(o.model);
    check_given_options(o, directory, model);
    adapters = std::make_unique<lm::Adapters<float>>(model, directory);
  }
  adapters->groups = groups;
  return adapters;
}

std::vector<std::string> groups_of_adapter(const TrainOptions& o) {
  return o.model.adapter.empty() ? std::vector<std::string>() : open_adapter(o.model).groups();
}

lm::TrainingOptions training_options(const TrainOptions& o, std::int64_t total_steps) {
  lm::TrainingOptions t;
  t.learning_rate = o.learning_rate;
  t.schedule = o.schedule == "cosine"   ? lm::Schedule::cosine
               : o.schedule == "linear" ? lm::Schedule::linear
                                        : lm::Schedule::constant;
  t.total_steps = total_steps;
  t.warmup_steps = o.warmup_steps;
  t.max_grad_norm = o.max_grad_norm;
  t.weight_decay = o.weight_decay;
  t.adamw.beta1 = o.beta1;
  t.adamw.beta2 = o.beta2;
  t.adamw.epsilon = o.epsilon;
  return t;
}

nlohmann::ordered_json settings_of(const TrainOptions& o) {
  return {{"model", o.model.folder},
          {"adapter", o.model.adapter},
          {"base", o.model.base},
          {"engine", o.model.engine},
          {"bf16-terms", o.model.bf16_terms},
          {"method", o.method},
          {"target-modules", o.target_modules},
          {"layers", o.layers},
          {"rank", o.rank},
          {"alpha", o.alpha},
          {"heads", o.heads},
          {"gate", o.gate},
          {"dropout", o.dropout},
          {"learning-rate", o.learning_rate},
          {"schedule", o.schedule},
          {"warmup-steps", o.warmup_steps},
          {"weight-decay", o.weight_decay},
          {"beta1", o.beta1},
          {"beta2", o.beta2},
          {"epsilon", o.epsilon},
          {"max-grad-norm", o.max_grad_norm},
          {"micro-batch", o.micro_batch},
          {"pack", o.pack},
          {"seed", o.seed},
          {"no-shuffle", o.no_shuffle}};
}

}  // namespace finetune_lm
