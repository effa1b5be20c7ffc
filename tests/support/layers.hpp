// SPDX-License-Identifier: MIT
//
// Every kind of layer, so that a test or a law is written once and runs on all of them.
#pragma once

#include <initializer_list>
#include <string>
#include <type_traits>

#include "support/shapes.hpp"

namespace support {

enum class Kind { lora, split_uniform, split_learned, split_given, hydra, shared_b, shared_b_given };
inline constexpr Kind all_kinds[] = {Kind::lora,  Kind::split_uniform, Kind::split_learned, Kind::split_given,
                                     Kind::hydra, Kind::shared_b,      Kind::shared_b_given};

inline std::string name(Kind kind) {  // as a string: doctest shows the addresses of others
  constexpr const char* names[] = {"LoRA",      "SplitLoRA uniform", "SplitLoRA learned", "SplitLoRA given",
                                   "HydraLoRA", "SharedBLoRA",       "SharedBLoRA given"};
  return names[static_cast<int>(kind)];
}

inline bool takes_weights(Kind kind) { return kind == Kind::split_given || kind == Kind::shared_b_given; }

/// A layer with all parameters random (B too, or nothing but B would have a gradient), handed to f by reference. What
/// fails inside f says which layer it was.
template <class Scalar, class Activation = Scalar, class Function>
void with_layer(Kind kind, const LayerShape& s, double dropout, std::uint64_t seed, Function&& f,
                const hydralora::GateConfig& gate = {}) {
  using namespace hydralora;
  CAPTURE(name(kind));
  CAPTURE(s);
  CAPTURE(dropout);
  CAPTURE(seed);
  const auto run = [&](auto layer) {
    layer.parameters() = Scalar(0.5) * random_matrix<Scalar>(layer.parameter_count(), 1, seed);
    f(layer);
  };
  const Routing routing = takes_weights(kind)           ? Routing::given
                          : kind == Kind::split_uniform ? Routing::uniform
                                                        : Routing::learned;
  if (kind == Kind::lora) {
    run(LoRA<Scalar, Activation>(LoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout}, seed));
  } else if (kind == Kind::hydra) {
    run(HydraLoRA<Scalar, Activation>(HydraLoRAConfig{s.in, s.out, s.rank, 3.0, true, dropout, s.heads, routing, gate},
                                      seed));
  } else if (kind == Kind::shared_b || kind == Kind::shared_b_given) {
    run(SharedBLoRA<Scalar, Activation>(
        SharedBLoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout, s.heads, routing, gate}, seed));
  } else {
    run(SplitLoRA<Scalar, Activation>(SplitLoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout, s.heads, routing, gate},
                                      seed));
  }
}

/// The numbers, of 16 bits too, as doubles.
template <class Derived>
Matrix<double> exact(const Eigen::MatrixBase<Derived>& m) {
  if constexpr (hydralora::is_narrow<typename Derived::Scalar>) {
    return m.template cast<float>().template cast<double>();
  } else {
    return m.template cast<double>();
  }
}

/// f(layer, the same layer in double).
template <class Scalar, class Activation, class Function>
void with_twin(Kind kind, const LayerShape& s, double dropout, std::uint64_t seed, Function&& f,
               const hydralora::GateConfig& gate = {}) {
  const auto with_both = [&](auto& layer) {
    const auto run = [&](auto& twin) {
      if constexpr (std::is_same_v<typename std::decay_t<decltype(layer)>::Middle,
                                   typename std::decay_t<decltype(twin)>::Middle>) {
        twin.parameters() = exact(layer.parameters());
        f(layer, twin);
      }
    };
    with_layer<double>(kind, s, dropout, seed, run, gate);
  };
  with_layer<Scalar, Activation>(kind, s, dropout, seed, with_both, gate);
}

/// Random weights where the kind wants them from the caller, else an empty matrix.
template <class Scalar>
Matrix<Scalar> given_weights(Kind kind, const LayerShape& s, std::uint64_t seed) {
  if (!takes_weights(kind)) return {};
  return random_matrix<Scalar>(s.heads, s.tokens, seed);
}

/// What a test calls a layer with.
template <class Scalar>
struct Inputs {
  Inputs(Kind kind, const LayerShape& shape)
      : s(shape),
        x(random_matrix<Scalar>(s.in, s.tokens, 1)),
        dy(random_matrix<Scalar>(s.out, s.tokens, 2)),
        weights(given_weights<Scalar>(kind, s, 3)) {
    options.weights = weights;
  }
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;

  LayerShape s;
  Matrix<Scalar> x, dy, weights;
  hydralora::CallOptions<Scalar> options;  ///< with the weights
};

/// f(layer, inputs) for every kind of layer, shape and dropout.
template <class Scalar, class Function>
void for_each_layer(std::initializer_list<LayerShape> shapes, std::initializer_list<double> dropouts,
                    std::uint64_t seed, Function&& f) {
  for (const LayerShape& s : shapes) {
    for (const Kind kind : all_kinds) {
      const Inputs<Scalar> inputs(kind, s);
      for (const double dropout : dropouts) {
        with_layer<Scalar>(kind, s, dropout, seed, [&](auto& layer) { f(layer, inputs); });
      }
    }
  }
}

/// The layer with random parameters.
template <class Layer>
Layer randomized(Layer layer, std::uint64_t seed) {
  layer.parameters() = random_matrix<typename Layer::Scalar>(layer.parameter_count(), 1, seed);
  return layer;
}

/// What the layer adds to zeros at inference.
template <class Layer>
Matrix<typename Layer::Scalar> apply(const Layer& layer, const Matrix<typename Layer::Scalar>& x,
                                     const Matrix<typename Layer::Scalar>& weights = {}) {
  Matrix<typename Layer::Scalar> y = Matrix<typename Layer::Scalar>::Zero(layer.config().out_features, x.cols());
  hydralora::CallOptions<typename Layer::Scalar> options;
  options.weights = weights;
  layer.forward(x, y, options);
  return y;
}

/// Everything that one call of training gives, added to ones in y and dx and to zeros in the gradients.
template <class Layer>
struct TrainingCall {
  using Scalar = typename Layer::Scalar;

  TrainingCall(const Layer& layer, hydralora::ConstTokens<Scalar> x, hydralora::ConstTokens<Scalar> dy,
               const hydralora::CallOptions<Scalar>& options = {})
      : y(Matrix<Scalar>::Ones(dy.features(), dy.tokens())),
        dx(Matrix<Scalar>::Ones(x.features(), x.tokens())),
        g(layer.config()) {
    layer.forward(x, y, cache, options);
    layer.backward(x, dy, cache, g, dx, options);
  }

  Matrix<Scalar> y, dx;
  typename Layer::Cache cache;
  typename Layer::Gradients g;
};

/// Bitwise equality of all that two calls gave.
template <class A, class B>
bool same_bits(const TrainingCall<A>& a, const TrainingCall<B>& b) {
  using Parameters = Matrix<typename A::Scalar>;
  return same_bits(a.y, b.y) && same_bits(a.dx, b.dx) &&
         same_bits(Parameters(a.g.parameters()), Parameters(b.g.parameters()));
}

}  // namespace support
