// SPDX-License-Identifier: MIT
//
// The layers of the model: a weight that is trained, or a frozen one with an adapter that is trained on it.
#pragma once

#include <cstdlib>
#include <string>
#include <type_traits>

#include "../finetune_mlp/training.hpp"

namespace finetune {

/// W itself is trained: pretraining, and full fine-tuning.
std::unique_ptr<Linear> trained_linear(const Matrix& weight);

/// A frozen W, however it is stored.
struct FrozenWeight {
  virtual ~FrozenWeight() = default;
  virtual Matrix weight() const = 0;
  virtual double bytes() const = 0;                                          ///< of the storage
  virtual void forward(ConstTokens<float> x, Tokens<float> y) const = 0;     ///< y += W x
  virtual void backward(ConstTokens<float> dy, Tokens<float> dx) const = 0;  ///< dx += Wᵀ dy
};
/// @param precision  float32, bf16, f16, int8 or nf4.
std::unique_ptr<FrozenWeight> freeze(const Matrix& weight, const std::string& precision);

/// y += W x + ΔW(x): W is frozen, the adapter is trained.
template <class Adapter>
class AdaptedLayer : public Linear {
 public:
  AdaptedLayer(std::unique_ptr<FrozenWeight> frozen, Adapter adapter)
      : frozen_(std::move(frozen)), adapter_(std::move(adapter)), gradients_(adapter_.config()) {}
  Matrix weight() const override { return frozen_->weight(); }
  void infer(ConstTokens<float> x, Tokens<float> y, const Batch& batch) const override {
    Matrix given;
    adapter_.forward(x, y, options(batch, 0, given));
    frozen_->forward(x, y);
  }
  void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) override {
    Matrix given;
    adapter_.forward(x, y, cache_, options(batch, step, given));
    frozen_->forward(x, y);
  }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, Tokens<float> dx) override {
    if (dx.features() == 0) return adapter_.backward(x, dy, cache_, gradients_, backward_options_);
    adapter_.backward(x, dy, cache_, gradients_, dx, backward_options_);
    frozen_->backward(dy, dx);
  }
  std::vector<Group> groups(double learning_rate) override {
    return {Group{adapter_.parameters(), gradients_.parameters(), learning_rate}};
  }
  void zero_gradients() override { gradients_.set_zero(); }
  Matrix routing(ConstTokens<float> x, const Batch& batch) const override {
    typename Adapter::Cache cache;
    Matrix y = Matrix::Zero(adapter_.config().out_features, x.tokens()), given;
    adapter_.forward(x, y, cache, options(batch, 0, given));
    return cache.weights().matrix();
  }

 protected:
  /// @param given  receives the weights of a router that is told the part: they must outlive the call.
  hydralora::CallOptions<float> options(const Batch& batch, std::uint64_t step, Matrix& given) const {
    hydralora::CallOptions<float> options;
    options.step = step;
    options.first_token = batch.first;
    options.segments = batch.segments;
    if (adapter_.shape().takes_weights) {
      const Index heads = adapter_.shape().heads, tokens = batch.contexts.cols();
      const bool told = !batch.parts.empty();  // or else all heads alike
      given = Matrix::Constant(heads, tokens, told ? 0 : 1 / static_cast<float>(heads));
      for (Index t = 0; told && t < tokens; ++t) given(batch.parts[static_cast<std::size_t>(t)] % heads, t) = 1;
      options.weights = given;
    }
    return options;
  }

  std::unique_ptr<FrozenWeight> frozen_;
  Adapter adapter_;
  typename Adapter::Cache cache_;
  typename Adapter::Gradients gradients_;
  hydralora::CallOptions<float> backward_options_;  ///< for a gradient of a balance loss
};

template <class Config>
Config config_of(const Method& method, Index in, Index out, double dropout) {
  Config config;
  config.in_features = in;
  config.out_features = out;
  config.rank = method.rank;
  config.alpha = 2.0 * static_cast<double>(method.rank);  // the same scaling for all: their learning rates compare
  config.dropout = dropout;
  if constexpr (!std::is_same_v<Config, hydralora::LoRAConfig>) {
    config.heads = method.heads;
    config.routing = hydralora::Routing::learned;
  }
  return config;
}

template <class AdapterLayer>
struct LayerType {
  using Layer = AdapterLayer;
};

/// f(LayerType, config) with the adapter of a method for a weight of this shape; nothing for full fine-tuning.
template <class Function>
void with_adapter(const Method& method, Index in, Index out, double dropout, Function&& f) {
  const auto call = [&](auto type) {
    f(type, config_of<typename decltype(type)::Layer::Config>(method, in, out, dropout));
  };
  if (method.kind == Method::Kind::lora) call(LayerType<hydralora::LoRA<float>>());
  if (method.kind == Method::Kind::split_lora) call(LayerType<hydralora::SplitLoRA<float>>());
  if (method.kind == Method::Kind::hydra_lora) call(LayerType<hydralora::HydraLoRA<float>>());
}

// Compiled once, in layers.cpp.
extern template class AdaptedLayer<hydralora::LoRA<float>>;
extern template class AdaptedLayer<hydralora::SplitLoRA<float>>;
extern template class AdaptedLayer<hydralora::HydraLoRA<float>>;

/// Numbers that a method trains in this model.
Index trainable_parameters(const Method& method, const Settings& settings);

/// The method at the rank, from its own on, at which it trains closest to `parameters` numbers.
template <class AnyMethod>
AnyMethod at_budget(AnyMethod method, Index parameters, const Settings& settings) {
  Index best = parameters;
  for (AnyMethod candidate = method;; ++candidate.rank) {
    const Index distance = std::abs(trainable_parameters(candidate, settings) - parameters);
    if (distance >= best && candidate.rank > method.rank) return method;
    best = distance;
    method = candidate;
  }
}

/// The base with what a method trains on it.
Mlp make_model(const Weights& base, const Method& method, const Settings& settings);

/// The weights as this precision holds them, in floats again. Embeddings and biases stay as they are.
/// @param bytes  receives what a weight takes, on average.
Weights as_stored(Weights weights, const std::string& precision, double& bytes);

}  // namespace finetune
