// SPDX-License-Identifier: MIT
//
// The library's layers on a Problem, in float or in double, and what a pass of them has to do at least.
#pragma once

#include "harness.hpp"
#include "problem.hpp"

namespace bench {

template <class Scalar>
hydralora::LoRA<Scalar> layer_of(const Problem& p, const hydralora::LoRA<Scalar>*) {
  hydralora::LoRAConfig config;
  config.in_features = p.in;
  config.out_features = p.out;
  config.rank = p.rank;
  config.alpha = static_cast<double>(p.scaling) * static_cast<double>(p.rank);
  hydralora::LoRA<Scalar> layer(config);
  layer.A() = p.A.cast<Scalar>();
  layer.B() = p.B.cast<Scalar>();
  return layer;
}

template <class Layer, class Config>
Layer routed_layer_of(const Problem& p, Config config) {
  using Scalar = typename Layer::Scalar;
  config.in_features = p.in;
  config.out_features = p.out;
  config.rank = p.rank;
  config.alpha = static_cast<double>(p.scaling) * static_cast<double>(p.rank);
  config.heads = p.heads;
  Layer layer(config);
  layer.gate() = p.gate.cast<Scalar>();
  for (Index i = 0; i < p.heads; ++i) layer.B(i) = p.B.middleCols(i * p.rank, p.rank).cast<Scalar>();
  return layer;
}

template <class Scalar>
hydralora::HydraLoRA<Scalar> layer_of(const Problem& p, const hydralora::HydraLoRA<Scalar>*) {
  auto layer = routed_layer_of<hydralora::HydraLoRA<Scalar>>(p, hydralora::HydraLoRAConfig{});
  layer.A() = p.A.cast<Scalar>();
  return layer;
}

/// With a learned gate, and the problem's A for every head: it then computes what HydraLoRA computes.
template <class Scalar>
hydralora::SplitLoRA<Scalar> layer_of(const Problem& p, const hydralora::SplitLoRA<Scalar>*) {
  hydralora::SplitLoRAConfig config;
  config.routing = hydralora::Routing::learned;
  auto layer = routed_layer_of<hydralora::SplitLoRA<Scalar>>(p, config);
  for (Index i = 0; i < p.heads; ++i) layer.A(i) = p.A.cast<Scalar>();
  return layer;
}

/// A layer with everything around it that a host holds. The problem must stay.
template <class Layer>
struct Adapter {
  using Scalar = typename Layer::Scalar;
  using Values = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  explicit Adapter(const Problem& p)
      : layer(layer_of(p, static_cast<const Layer*>(nullptr))),
        gradients(layer.config()),
        x(view_or_copy(p.x, x_copy)),
        dy(view_or_copy(p.dy, dy_copy)),
        y(Values::Zero(p.out, p.tokens)),
        dx(Values::Zero(p.in, p.tokens)) {}
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  void forward() { layer.forward(x, y, cache); }
  void backward() { layer.backward(x, dy, cache, gradients, dx); }

  Values x_copy, dy_copy;  // empty in float: the problem's own matrices are used
  Layer layer;
  typename Layer::Cache cache;
  typename Layer::Gradients gradients;
  hydralora::ConstTokens<Scalar> x, dy;
  Values y, dx;

 private:
  static hydralora::ConstTokens<Scalar> view_or_copy(const Matrix& from, Values& copy) {
    if constexpr (std::is_same_v<Scalar, float>) {
      static_cast<void>(copy);
      return from;
    } else {
      copy = from.cast<Scalar>();
      return copy;
    }
  }
};

/// What the passes of an adapter have to move and compute. In the order of the formulas: the parameters, x and y; then
/// the parameters, x, dy, dx and the gradients. The few numbers per token between the stacks stay in the caches.
inline Work forward_work(double tokens, double in, double out, double parameters) {
  constexpr double size = sizeof(float);
  return {2 * tokens * parameters, size * (parameters + tokens * in), size * tokens * out,
          size * (parameters + tokens * (in + out))};
}
inline Work backward_work(double tokens, double in, double out, double parameters) {
  constexpr double size = sizeof(float);
  return {4 * tokens * parameters, size * (parameters + tokens * (in + out)), size * (parameters + tokens * in),
          size * (2 * parameters + tokens * (2 * in + 2 * out))};
}
/// 15 flop per number; gradients are set to zero and read, parameters and both moments updated.
inline Work adamw_work(double parameters) {
  constexpr double size = sizeof(float);
  return {15 * parameters, size * parameters, 4 * size * parameters, 4 * size * parameters};
}

}  // namespace bench
