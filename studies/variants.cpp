// SPDX-License-Identifier: MIT
#include "variants.hpp"

#include <hydralora/analysis/k_means.hpp>
#include <hydralora/analysis/router_stats.hpp>
#include <hydralora/train/balance.hpp>
#include <hydralora/train/initialize.hpp>

namespace finetune {
namespace {

using namespace hydralora;

/// dx, or where none is wanted a place for it.
Tokens<float> wanted(Tokens<float> dx, ConstTokens<float> x, Matrix& ignored) {
  if (dx.features() > 0) return dx;
  return ignored = Matrix::Zero(x.features(), x.tokens());
}

class Inspected {
 public:
  virtual ~Inspected() = default;
  virtual Inspection inspection() const = 0;
};

/// An adapter with what may be done to it while it is trained, besides its gradient.
template <class Adapter>
class VariantLayer final : public AdaptedLayer<Adapter>, public Inspected {
  static constexpr bool is_lora = std::is_same_v<Adapter, LoRA<float>>,
                        is_hydra = std::is_same_v<Adapter, HydraLoRA<float>>;
  using Parent = AdaptedLayer<Adapter>;
  using Parent::adapter_, Parent::backward_options_, Parent::cache_, Parent::frozen_, Parent::gradients_;

 public:
  VariantLayer(std::unique_ptr<FrozenWeight> frozen, Adapter adapter, const Variant& variant, std::uint64_t seed)
      : Parent(std::move(frozen), std::move(adapter)), variant_(variant), seed_(seed) {}

  void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) override {
    step_ = static_cast<Index>(step);
    Parent::forward(x, y, batch, step);
  }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, Tokens<float> dx) override {
    if constexpr (is_lora) {
      if (variant_.adapter == Variant::Adapter::lora_fa) {
        Matrix ignored;
        adapter_.backward_frozen_A(dy, cache_, gradients_, wanted(dx, x, ignored));
        if (dx.features() > 0) frozen_->backward(dy, dx);
        return;
      }
    }
    if constexpr (is_hydra) {
      if (variant_.balance > 0) {
        balance_ = Matrix::Zero(variant_.heads, x.tokens());
        BalanceWeights weights;
        weights.load = variant_.balance;
        balance_losses(weights, adapter_, cache_, balance_);
        backward_options_.logits_gradient = balance_;
      }
    }
    Parent::backward(x, dy, dx);
    if constexpr (is_hydra) {
      if (variant_.warmup > 0) HeadWarmup(variant_.heads, variant_.warmup, seed_).apply(step_, gradients_);
    }
  }
  std::vector<Group> groups(double learning_rate) override {
    if (variant_.adapter != Variant::Adapter::lora_fa) return Parent::groups(learning_rate);
    return {Group{adapter_.up_parameters(), gradients_.up_parameters(), learning_rate}};
  }
  Inspection inspection() const override {
    Inspection result;
    if constexpr (is_lora) {
      result.A = adapter_.A();
      result.B = adapter_.B();
    } else if constexpr (!std::is_same_v<Adapter, SharedBLoRA<float>>) {
      const auto heads = static_cast<double>(variant_.heads);
      if (heads > 1) result.head_likeness = (head_cosine(adapter_).sum() - heads) / (heads * (heads - 1));
    }
    return result;
  }

 private:
  Variant variant_;
  std::uint64_t seed_;
  Index step_ = 0;
  Matrix balance_;
};

/// DoRA on the frozen W.
class TrainedDoRA final : public Linear {
 public:
  TrainedDoRA(const Matrix& frozen, const LoRAConfig& config, std::uint64_t seed)
      : layer_(DenseLinear<float>(frozen), config, seed), gradients_(config) {}
  Matrix weight() const override { return layer_.base.weight(); }
  void infer(ConstTokens<float> x, Tokens<float> y, const Batch&) const override { layer_.forward(x, y); }
  void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) override {
    CallOptions<float> options;
    options.step = step;
    options.first_token = batch.first;
    layer_.forward(x, y, cache_, options);
  }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, Tokens<float> dx) override {
    Matrix ignored;
    layer_.backward(x, dy, cache_, gradients_, wanted(dx, x, ignored));
  }
  std::vector<Group> groups(double learning_rate) override {
    Vector &m = layer_.magnitude, &dm = gradients_.magnitude;
    return {Group{layer_.adapter.parameters(), gradients_.adapter.parameters(), learning_rate},
            Group{Group::Map(m.data(), m.size()), Group::Map(dm.data(), dm.size()), learning_rate}};
  }
  void zero_gradients() override { gradients_.set_zero(); }

 private:
  DoRALinear<float> layer_;
  DoRALinear<float>::Cache cache_;
  DoRALinear<float>::Gradients gradients_;
};

/// f(LayerType, config) with the settings of a variant.
template <class Function>
void with_variant(const Variant& v, Index in, Index out, double dropout, Function&& f) {
  const auto call = [&](auto type, auto config) {
    config.alpha = v.scaling * static_cast<double>(v.rank);
    if constexpr (!std::is_same_v<decltype(config), LoRAConfig>) {
      config.routing = v.routing;
      config.gate = v.gate;
    }
    f(type, config);
  };
  if (v.adapter != Variant::Adapter::shared_b_lora) return with_adapter(v, in, out, dropout, call);
  call(LayerType<SharedBLoRA<float>>(), config_of<SharedBLoRAConfig>(v, in, out, dropout));
}

void start_adapter(HydraLoRA<float>& adapter, const Variant& variant, std::uint64_t seed, const Matrix& inputs) {
  if (variant.start == Variant::Start::gaussian) initialize_gaussian(adapter, seed, 0.01);
  if (variant.start == Variant::Start::orthogonal) initialize_orthogonal(adapter, seed);
  if (variant.start != Variant::Start::clusters) return;
  KMeansConfig config;
  config.clusters = variant.heads;
  config.seed = seed;
  initialize_gate(adapter, kmeans(inputs, config).centroids);
}

}  // namespace

std::vector<Variant> study_methods(const Settings& settings, MixtureKind kind) {
  const std::vector<Method> usual = methods(settings, kind);
  std::vector<Variant> all(usual.begin(), usual.end());
  const auto add = [&](Method::Kind its_kind, Variant::Adapter adapter, const char* name, double rate) {
    Variant m = Method{its_kind, name, 1, settings.heads, settings.learning_rate > 0 ? settings.learning_rate : rate};
    m.adapter = adapter;
    if (its_kind == Method::Kind::split_lora) m.routing = Routing::uniform;
    all.push_back(at_budget(m, trainable_parameters(usual.back(), settings), settings));
  };
  // Rates from the same search as those of methods().
  const double rate = kind == MixtureKind::tasks ? 8e-3 : 16e-3;
  add(Method::Kind::split_lora, Variant::Adapter::usual, "SplitLoRA summed", rate);
  add(Method::Kind::hydra_lora, Variant::Adapter::shared_b_lora, "SharedBLoRA", 8e-3);
  add(Method::Kind::lora, Variant::Adapter::dora, "DoRA", rate);
  add(Method::Kind::lora, Variant::Adapter::lora_fa, "LoRA-FA", 16e-3);
  return all;
}

Index trainable_parameters(const Variant& variant, Index in, Index out) {
  Index count = variant.adapter == Variant::Adapter::dora ? out : 0;
  with_variant(variant, in, out, 0, [&](auto type, const auto& config) {
    count += decltype(type)::Layer::Middle::shape(config).parameter_count();
  });
  if (variant.adapter == Variant::Adapter::lora_fa) count -= variant.rank * in;  // A
  return count;
}

Index trainable_parameters(const Variant& variant, const Settings& settings) {
  if (variant.kind == Method::Kind::full) return trainable_parameters(static_cast<const Method&>(variant), settings);
  Index count = 0;
  for (const auto& [out, in] : layer_shapes(settings.context * settings.embedding, settings.hidden)) {
    count += trainable_parameters(variant, in, out);
  }
  return count;
}

std::unique_ptr<Linear> make_layer(const Variant& variant, const Matrix& weight, const Settings& settings,
                                   std::uint64_t seed, const Matrix& inputs) {
  if (variant.kind == Method::Kind::full) return trained_linear(weight);
  std::unique_ptr<Linear> layer;
  with_variant(variant, weight.cols(), weight.rows(), settings.dropout, [&](auto type, const auto& config) {
    using Adapter = typename decltype(type)::Layer;
    if constexpr (std::is_same_v<Adapter, LoRA<float>>) {
      if (variant.adapter == Variant::Adapter::dora) {
        layer = std::make_unique<TrainedDoRA>(weight, config, seed);
        return;
      }
    }
    Adapter adapter(config, seed);
    if constexpr (std::is_same_v<Adapter, HydraLoRA<float>>) start_adapter(adapter, variant, seed, inputs);
    layer = std::make_unique<VariantLayer<Adapter>>(freeze(weight, settings.base_precision), std::move(adapter),
                                                    variant, seed);
  });
  return layer;
}

Mlp make_model(const Weights& base, const Variant& variant, const Mixture& mixture, const Settings& settings,
               std::uint64_t start) {
  std::array<Matrix, 3> inputs;
  if (variant.start == Variant::Start::clusters) {
    Variant usual = variant;
    usual.start = Variant::Start::kaiming;
    Batch batch;
    mixture.sample(static_cast<std::uint64_t>(settings.steps), settings.batch, batch);  // a step that is never trained
    make_model(base, usual, mixture, settings, start).loss(batch, &inputs);
  }
  Mlp::Layers layers;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    layers[i] = make_layer(variant, base.weight[i], settings, (settings.seed + start) * layers.size() + i, inputs[i]);
  }
  return Mlp(base, std::move(layers), variant.kind == Method::Kind::full);
}

Inspection inspect(const Linear& layer) {
  const auto* inspected = dynamic_cast<const Inspected*>(&layer);
  return inspected != nullptr ? inspected->inspection() : Inspection();
}

}  // namespace finetune
