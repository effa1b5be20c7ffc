// SPDX-License-Identifier: MIT
//
// A frozen W with an adapter that is trained on it, behind the interface that the model sees.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <hydralora/train/initialize.hpp>

#include "model.hpp"

namespace finetune {

/// What may be done to an adapter while it is trained, besides its gradient.
struct AdapterTraining {
  bool frozen_A = false;  ///< LoRA-FA
  double balance = 0;     ///< weight of the Switch load
  Index warmup = 0;       ///< steps of HeadWarmup
  std::uint64_t warmup_seed = 0;
};

/// A frozen W in any storage, chosen at run time.
class FrozenBase {
 public:
  template <class Base>
  explicit FrozenBase(Base base) : base_(std::make_shared<const Holder<Base>>(std::move(base))) {}
  Index in_features() const { return base_->in_features(); }
  Index out_features() const { return base_->out_features(); }
  Matrix weight() const { return base_->weight(); }
  void add_forward(ConstTokens<float> x, Tokens<float> y) const { base_->add_forward(x, y); }
  void add_backward(ConstTokens<float> dy, Tokens<float> dx) const { base_->add_backward(dy, dx); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Index in_features() const = 0;
    virtual Index out_features() const = 0;
    virtual Matrix weight() const = 0;
    virtual void add_forward(ConstTokens<float> x, Tokens<float> y) const = 0;
    virtual void add_backward(ConstTokens<float> dy, Tokens<float> dx) const = 0;
  };
  template <class Base>
  struct Holder final : Interface {
    explicit Holder(Base b) : base(std::move(b)) {}
    Index in_features() const override { return base.in_features(); }
    Index out_features() const override { return base.out_features(); }
    Matrix weight() const override { return base.weight(); }
    void add_forward(ConstTokens<float> x, Tokens<float> y) const override { base.add_forward(x, y); }
    void add_backward(ConstTokens<float> dy, Tokens<float> dx) const override { base.add_backward(dy, dx); }
    Base base;
  };

  std::shared_ptr<const Interface> base_;
};

/// W is frozen and an adapter is trained on it: LoRA, SplitLoRA, HydraLoRA or SharedBLoRA, all the same here.
template <class Adapter>
class TrainedAdapter final : public Linear {
 public:
  TrainedAdapter(FrozenBase frozen, Adapter adapter, const AdapterTraining& how)
      : layer_(std::move(frozen), std::move(adapter)), gradients_(layer_.adapter.config()), how_(how) {}

  Matrix weight() const override { return layer_.base.weight(); }
  void infer(ConstTokens<float> x, Tokens<float> y, const Batch& batch) const override {
    Matrix task;
    layer_.forward(x, y, options(batch, 0, task));
  }
  void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) override {
    step_ = static_cast<Index>(step);
    Matrix task;
    layer_.forward(x, y, cache_, options(batch, step, task));
  }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, const Tokens<float>* dx) override {
    hydralora::CallOptions<float> options;
    Matrix balance;
    if constexpr (!std::is_same_v<typename Adapter::Config, hydralora::LoRAConfig>) {
      if (how_.balance > 0) {
        balance = Matrix::Zero(layer_.adapter.shape().heads, x.tokens());
        hydralora::BalanceWeights weights;
        weights.load = how_.balance;
        hydralora::balance_losses(weights, layer_.adapter, cache_, balance);
        options.logits_gradient = balance;
      }
    }
    if (how_.frozen_A) {
      Matrix ignored;
      if (dx == nullptr) ignored = Matrix::Zero(x.features(), x.tokens());
      layer_.adapter.backward_frozen_A(dy, cache_, gradients_, dx != nullptr ? *dx : Tokens<float>(ignored), options);
      if (dx != nullptr) layer_.base.add_backward(dy, *dx);
    } else if (dx != nullptr) {
      layer_.backward(x, dy, cache_, gradients_, *dx, options);
    } else {
      layer_.backward(x, dy, cache_, gradients_, options);
    }
    if constexpr (has_heads) {
      if (how_.warmup > 0) {
        hydralora::HeadWarmup(layer_.adapter.shape().heads, how_.warmup, how_.warmup_seed).apply(step_, gradients_);
      }
    }
  }
  std::vector<Group> groups(double learning_rate) override {
    if (how_.frozen_A) return {Group{layer_.adapter.up_parameters(), gradients_.up_parameters(), learning_rate}};
    return {Group{layer_.adapter.parameters(), gradients_.parameters(), learning_rate}};
  }
  void zero_gradients() override { gradients_.set_zero(); }
  Matrix routing(ConstTokens<float> x, const Batch& batch) const override {
    Matrix y = Matrix::Zero(layer_.base.out_features(), x.tokens()), task;
    typename Adapter::Cache cache;
    layer_.adapter.forward(x, y, cache, options(batch, 0, task));
    return cache.weights().matrix();
  }
  double head_likeness() const override {
    const auto heads = static_cast<double>(layer_.adapter.shape().up_heads);
    if constexpr (has_heads) {
      if (heads > 1) return (hydralora::head_cosine(layer_.adapter).sum() - heads) / (heads * (heads - 1));
    }
    return 0;
  }
  Factors factors() const override {
    const auto down = layer_.adapter.down_stack(), up = layer_.adapter.up_stack();
    return {
        Matrix::NullaryExpr(layer_.adapter.shape().a_rows, down.features, [&](Index i, Index j) { return down(i, j); }),
        Matrix::NullaryExpr(up.features, up.rows, [&](Index i, Index j) { return up(j, i); })};
  }

 private:
  /// Several B of their own.
  static constexpr bool has_heads = !std::is_same_v<typename Adapter::Config, hydralora::LoRAConfig> &&
                                    !std::is_same_v<typename Adapter::Config, hydralora::SharedBLoRAConfig>;

  /// @param task  receives the weights of a router that is told the part: they must outlive the call.
  hydralora::CallOptions<float> options(const Batch& batch, std::uint64_t step, Matrix& task) const {
    hydralora::CallOptions<float> options;
    options.step = step;
    options.first_token = batch.first;
    options.segments = batch.segments;
    if (layer_.adapter.shape().takes_weights) {
      const Index heads = layer_.adapter.shape().heads, tokens = batch.contexts.cols();
      task = Matrix::Zero(heads, tokens);
      for (Index t = 0; t < tokens; ++t) task(batch.parts[static_cast<std::size_t>(t)] % heads, t) = 1;
      options.weights = task;
    }
    return options;
  }

  hydralora::AdaptedLinear<FrozenBase, Adapter> layer_;
  typename Adapter::Cache cache_;
  typename Adapter::Gradients gradients_;
  AdapterTraining how_;
  Index step_ = 0;
};

/// DoRA on the frozen W.
class TrainedDoRA final : public Linear {
 public:
  TrainedDoRA(const Matrix& frozen, const hydralora::LoRAConfig& config, std::uint64_t seed)
      : layer_(hydralora::DenseLinear<float>(frozen), config, seed), gradients_(config) {}
  Matrix weight() const override { return layer_.base.weight(); }
  void infer(ConstTokens<float> x, Tokens<float> y, const Batch&) const override { layer_.forward(x, y); }
  void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) override {
    hydralora::CallOptions<float> options;
    options.step = step;
    options.first_token = batch.first;
    layer_.forward(x, y, cache_, options);
  }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, const Tokens<float>* dx) override {
    Matrix ignored;
    if (dx == nullptr) ignored = Matrix::Zero(x.features(), x.tokens());
    layer_.backward(x, dy, cache_, gradients_, dx != nullptr ? *dx : Tokens<float>(ignored));
  }
  std::vector<Group> groups(double learning_rate) override {
    Vector &m = layer_.magnitude, &dm = gradients_.magnitude;
    return {Group{layer_.adapter.parameters(), gradients_.adapter.parameters(), learning_rate},
            Group{Group::Map(m.data(), m.size()), Group::Map(dm.data(), dm.size()), learning_rate}};
  }
  void zero_gradients() override { gradients_.set_zero(); }

 private:
  hydralora::DoRALinear<float> layer_;
  hydralora::DoRALinear<float>::Cache cache_;
  hydralora::DoRALinear<float>::Gradients gradients_;
};

}  // namespace finetune
