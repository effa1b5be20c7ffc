// SPDX-License-Identifier: MIT
#include "adapters.hpp"

#include <hydralora/hydralora.hpp>
#include <hydralora/train/adamw.hpp>

#include <algorithm>
#include <type_traits>

namespace bench {
namespace {

template <class Layer>
Layer layer_of(const Problem& p) {
  using Scalar = typename Layer::Scalar;
  constexpr bool split = std::is_same_v<Layer, hydralora::SplitLoRA<Scalar>>;
  typename Layer::Config config;
  config.in_features = p.in;
  config.out_features = p.out;
  config.rank = p.rank;
  config.alpha = static_cast<double>(p.scaling) * static_cast<double>(p.rank);
  if constexpr (split) config.routing = hydralora::Routing::learned;
  if constexpr (std::is_same_v<Layer, hydralora::LoRA<Scalar>>) {
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
  using Scalar = typename Layer::Scalar;
  using Values = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  explicit AdapterOf(const std::shared_ptr<const Problem>& problem)
      : problem_(problem),
        layer_(layer_of<Layer>(*problem)),
        gradients_(layer_.config()),
        x_(view_or_copy(problem->x, x_copy_)),
        dy_(view_or_copy(problem->dy, dy_copy_)),
        y_(Values::Zero(problem->out, problem->tokens)),
        dx_(Values::Zero(problem->in, problem->tokens)) {}
  AdapterOf(const AdapterOf&) = delete;
  AdapterOf& operator=(const AdapterOf&) = delete;

  void forward() override { layer_.forward(x_, y_, cache_); }
  void backward() override { layer_.backward(x_, dy_, cache_, gradients_, dx_); }
  void training_step() override {
    if constexpr (std::is_same_v<Scalar, float>) {
      if (optimiser_ == nullptr) {
        optimiser_.reset(new hydralora::AdamW<float>({{layer_.parameters(), gradients_.parameters(), 1e-4, 0.01}}));
      }
      gradients_.set_zero();
      forward();
      backward();
      optimiser_->step();
    }
  }
  Index parameters() const override { return layer_.parameter_count(); }
  Index saved_rows() const override { return layer_.shape().saved_rows(); }

  Results results(bool backward_too) {
    forward();
    Results results;
    results.y = y_.template cast<double>();
    if (!backward_too) return results;
    backward();
    const auto& shape = layer_.shape();
    results.dx = dx_.template cast<double>();
    results.down = Eigen::Map<const Values>(gradients_.down_parameters().data(), shape.down_rows(), shape.in)
                       .template cast<double>();
    results.up =
        Eigen::Map<const Values, Eigen::Unaligned, Eigen::OuterStride<>>(
            gradients_.up_parameters().data(), shape.out, shape.up_rows(), Eigen::OuterStride<>(shape.up_stride()))
            .template cast<double>();
    return results;
  }

 private:
  static hydralora::ConstTokens<Scalar> view_or_copy(const Matrix& from, [[maybe_unused]] Values& copy) {
    if constexpr (std::is_same_v<Scalar, float>) {
      return from;
    } else {
      copy = from.cast<Scalar>();
      return copy;
    }
  }

  std::shared_ptr<const Problem> problem_;
  Values x_copy_, dy_copy_;  // empty in float: the problem's own matrices are used
  Layer layer_;
  typename Layer::Cache cache_;
  typename Layer::Gradients gradients_;
  hydralora::ConstTokens<Scalar> x_, dy_;
  Values y_, dx_;
  std::unique_ptr<hydralora::AdamW<float>> optimiser_;
};

/// f(layer type) for a kind: f takes a null pointer to an AdapterOf it.
template <class Scalar, class Function>
auto with_layer(LayerKind kind, Function&& f) {
  switch (kind) {
    case LayerKind::lora:
      return f(static_cast<AdapterOf<hydralora::LoRA<Scalar>>*>(nullptr));
    case LayerKind::hydra_lora:
      return f(static_cast<AdapterOf<hydralora::HydraLoRA<Scalar>>*>(nullptr));
    default:
      return f(static_cast<AdapterOf<hydralora::SplitLoRA<Scalar>>*>(nullptr));
  }
}

template <class Scalar>
Results results_of(LayerKind kind, const std::shared_ptr<const Problem>& problem, bool backward) {
  return with_layer<Scalar>(
      kind, [&](auto* type) { return std::remove_pointer_t<decltype(type)>(problem).results(backward); });
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

std::unique_ptr<Adapter> make_adapter(LayerKind kind, const std::shared_ptr<const Problem>& problem) {
  return with_layer<float>(kind, [&](auto* type) -> std::unique_ptr<Adapter> {
    return std::make_unique<std::remove_pointer_t<decltype(type)>>(problem);
  });
}

Results results_in_float(LayerKind kind, const std::shared_ptr<const Problem>& problem, bool backward) {
  return results_of<float>(kind, problem, backward);
}
Results results_in_double(LayerKind kind, const std::shared_ptr<const Problem>& problem, bool backward) {
  return results_of<double>(kind, problem, backward);
}

}  // namespace bench
