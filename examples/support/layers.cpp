// SPDX-License-Identifier: MIT
#include "layers.hpp"

#include <hydralora/layers/stored_linear.hpp>

namespace finetune {
namespace {

class TrainedLinear final : public Linear {
 public:
  explicit TrainedLinear(const Matrix& weight) : base_(weight), gradient_(Matrix::Zero(weight.rows(), weight.cols())) {}
  Matrix weight() const override { return base_.weight(); }
  void infer(ConstTokens<float> x, Tokens<float> y, const Batch&) const override { base_.forward(x, y); }
  void forward(ConstTokens<float> x, Tokens<float> y, const Batch&, std::uint64_t) override { base_.forward(x, y); }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, Tokens<float> dx) override {
    constexpr Index slice_columns = 64;
    hydralora::parallel_slices(x.features(), slice_columns, [&](Index begin, Index count) {
      gradient_.middleCols(begin, count).noalias() += dy.matrix() * x.rows(begin, count).matrix().transpose();
    });
    if (dx.features() > 0) base_.backward(dy, dx);
  }
  std::vector<Group> groups(double learning_rate) override {
    const Index size = gradient_.size();
    return {{Group::Map(base_.weight().data(), size), Group::Map(gradient_.data(), size), learning_rate}};
  }
  void zero_gradients() override { gradient_.setZero(); }

 private:
  hydralora::DenseLinear<float> base_;
  Matrix gradient_;
};

template <class Base>
struct Frozen final : FrozenWeight {
  Frozen(Base layer, double storage_bytes) : base(std::move(layer)), size(storage_bytes) {}
  Matrix weight() const override { return base.weight(); }
  double bytes() const override { return size; }
  void forward(ConstTokens<float> x, Tokens<float> y) const override { base.forward(x, y); }
  void backward(ConstTokens<float> dy, Tokens<float> dx) const override { base.backward(dy, dx); }
  Base base;
  double size;
};

template <class Storage>
std::unique_ptr<FrozenWeight> stored(Storage storage) {
  const auto bytes = static_cast<double>(storage.bytes());
  return std::make_unique<Frozen<hydralora::StoredLinear<Storage>>>(
      hydralora::StoredLinear<Storage>(std::move(storage)), bytes);
}

}  // namespace

std::unique_ptr<FrozenWeight> freeze(const Matrix& weight, const std::string& precision) {
  using Dense = hydralora::DenseLinear<float>;
  if (precision == "bf16") return stored(hydralora::NarrowWeight<Eigen::bfloat16>(weight));
  if (precision == "f16") return stored(hydralora::NarrowWeight<Eigen::half>(weight));
  if (precision == "int8") return stored(hydralora::Int8Weight(weight));
  if (precision == "nf4") return stored(hydralora::NF4Weight(weight));
  return std::make_unique<Frozen<Dense>>(Dense(weight), 4.0 * static_cast<double>(weight.size()));
}

std::unique_ptr<Linear> trained_linear(const Matrix& weight) { return std::make_unique<TrainedLinear>(weight); }

Index trainable_parameters(const Method& method, const Settings& settings) {
  const bool full = method.kind == Method::Kind::full;
  Index count = full ? settings.embedding * byte_values : 0;
  for (const auto& [out, in] : layer_shapes(settings.context * settings.embedding, settings.hidden)) {
    if (full) count += out * in + out;
    with_adapter(method, in, out, settings.dropout, [&](auto type, const auto& config) {
      count += decltype(type)::Layer::Middle::shape(config).parameter_count();
    });
  }
  return count;
}

Mlp make_model(const Weights& base, const Method& method, const Settings& settings) {
  Mlp::Layers layers;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Matrix& weight = base.weight[i];
    if (method.kind == Method::Kind::full) layers[i] = trained_linear(weight);
    with_adapter(method, weight.cols(), weight.rows(), settings.dropout, [&](auto type, const auto& config) {
      using Adapter = typename decltype(type)::Layer;
      layers[i] = std::make_unique<AdaptedLayer<Adapter>>(freeze(weight, settings.base_precision),
                                                          Adapter(config, settings.seed * layers.size() + i));
    });
  }
  return Mlp(base, std::move(layers), method.kind == Method::Kind::full);
}

Weights as_stored(Weights weights, const std::string& precision, double& bytes) {
  double total = 0, size = 0;
  for (Matrix& weight : weights.weight) {
    const auto frozen = freeze(weight, precision);
    total += frozen->bytes();
    size += static_cast<double>(weight.size());
    weight = frozen->weight();
  }
  bytes = total / size;
  return weights;
}

template class AdaptedLayer<hydralora::LoRA<float>>;
template class AdaptedLayer<hydralora::SplitLoRA<float>>;
template class AdaptedLayer<hydralora::HydraLoRA<float>>;

}  // namespace finetune
