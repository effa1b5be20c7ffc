// SPDX-License-Identifier: MIT
#include "adapters.hpp"

#include <hydralora/hydralora.hpp>
#include <hydralora/train/adamw.hpp>

#include <algorithm>
#include <optional>
#include <type_traits>

namespace bench {
namespace {

template <class Layer>
Layer layer_of(const Problem& p) {
  using Scalar = typename Layer::Scalar;
  constexpr bool split = std::is_same_v<typename Layer::Config, hydralora::SplitLoRAConfig>;
  typename Layer::Config config;
  config.in_features = p.in;
  config.out_features = p.out;
  config.rank = p.rank;
  config.alpha = static_cast<double>(p.scaling) * static_cast<double>(p.rank);
  if constexpr (split) config.routing = hydralora::Routing::learned;
  if constexpr (std::is_same_v<typename Layer::Config, hydralora::LoRAConfig>) {
    Layer layer(config);
    layer.A() = p.A.cast<Scalar>();
    layer.B() = p.B.cast<Scalar>();
    return layer;
  } else {
    config.heads = p.heads;
    Layer layer(config);
    layer.gate() = p.gate.cast<Scalar>();
    for (Index i = 0; i < p.heads; ++i) layer.B(i) = p.B.middleCols(i * p.rank, p.rank).cast<Scalar>();
    if constexpr (split) {
      for (Index i = 0; i < p.heads; ++i) layer.A(i) = p.A.cast<Scalar>();
    } else {
      layer.A() = p.A.cast<Scalar>();
    }
    return layer;
  }
}

template <class Layer>
class AdapterOf final : public Adapter {
 public:
  using Values = Eigen::Matrix<typename Layer::Activation, Eigen::Dynamic, Eigen::Dynamic>;
  using Sums = Eigen::Matrix<typename Layer::Sum, Eigen::Dynamic, Eigen::Dynamic>;

  explicit AdapterOf(const Problem& p)
      : layer_(layer_of<Layer>(p)),
        gradients_(layer_.config()),
        x_(p.x.cast<typename Layer::Activation>()),
        dy_(p.dy.cast<typename Layer::Activation>()),
        y_(Values::Zero(p.out, p.tokens)),
        dx_(Values::Zero(p.in, p.tokens)) {}

  void forward() override { layer_.forward(x_, y_, cache_); }
  void backward() override { layer_.backward(x_, dy_, cache_, gradients_, dx_); }
  void training_step() override {
    if constexpr (std::is_same_v<Values, Eigen::MatrixXf>) {
      if (!optimiser_) optimiser_.emplace(Groups{{layer_.parameters(), gradients_.parameters(), 1e-4, 0.01}});
      gradients_.set_zero();
      forward();
      backward();
      optimiser_->step();
    }
  }
  Index parameters() const override { return layer_.parameter_count(); }
  Index saved_rows() const override { return layer_.shape().saved_rows(); }

  Results results(bool backward_too) override {
    forward();
    Results results;
    results.y = y_.template cast<double>();
    if (!backward_too) return results;
    backward();
    const auto& shape = layer_.shape();
    results.dx = dx_.template cast<double>();
    results.down = Eigen::Map<const Sums>(gradients_.down_parameters().data(), shape.down_rows(), shape.in)
                       .template cast<double>();
    results.up =
        Eigen::Map<const Sums, Eigen::Unaligned, Eigen::OuterStride<>>(
            gradients_.up_parameters().data(), shape.out, shape.up_rows(), Eigen::OuterStride<>(shape.up_stride()))
            .template cast<double>();
    return results;
  }

 private:
  using Groups = std::vector<hydralora::ParameterGroup<float>>;

  Layer layer_;
  typename Layer::Cache cache_;
  typename Layer::Gradients gradients_;
  Values x_, dy_, y_, dx_;
  std::optional<hydralora::AdamW<float>> optimiser_;
};

template <class Scalar, class Activation = Scalar>
std::unique_ptr<Adapter> make(LayerKind kind, const Problem& problem) {
  if (kind == LayerKind::lora) return std::make_unique<AdapterOf<hydralora::LoRA<Scalar, Activation>>>(problem);
  if (kind == LayerKind::hydra_lora) {
    return std::make_unique<AdapterOf<hydralora::HydraLoRA<Scalar, Activation>>>(problem);
  }
  return std::make_unique<AdapterOf<hydralora::SplitLoRA<Scalar, Activation>>>(problem);
}

template <class Number>
void round_to(Matrix& matrix) {
  matrix = matrix.cast<Number>().template cast<float>().eval();
}

}  // namespace

double largest_error(const Eigen::MatrixXd& got, const Eigen::MatrixXd& expected) {
  if (expected.size() == 0) return 0;
  return (got - expected).cwiseAbs().maxCoeff() / expected.cwiseAbs().maxCoeff();
}

double largest_error(const Results& got, const Results& expected) {
  return std::max({largest_error(got.y, expected.y), largest_error(got.dx, expected.dx),
                   largest_error(got.down, expected.down), largest_error(got.up, expected.up)});
}

std::unique_ptr<Adapter> make_adapter(LayerKind kind, const Problem& problem, Numbers numbers) {
  if (numbers == Numbers::bfloat16) return make<Eigen::bfloat16>(kind, problem);
  if (numbers == Numbers::half) return make<Eigen::half>(kind, problem);
  if (numbers == Numbers::mixed) return make<float, Eigen::bfloat16>(kind, problem);
  return make<float>(kind, problem);
}

Problem rounded(Problem problem, Numbers numbers) {
  for (Matrix* matrix : {&problem.A, &problem.gate, &problem.B, &problem.x, &problem.dy}) {
    const bool activation = matrix == &problem.x || matrix == &problem.dy;
    if (numbers == Numbers::half) round_to<Eigen::half>(*matrix);
    if (numbers == Numbers::bfloat16 || (numbers == Numbers::mixed && activation)) round_to<Eigen::bfloat16>(*matrix);
  }
  return problem;
}

Results results_in_double(LayerKind kind, const Problem& problem, bool backward) {
  return make<double>(kind, problem)->results(backward);
}

}  // namespace bench
