// SPDX-License-Identifier: MIT
//
// A byte-level language model as small as one can be and still learn text:
//
//   x  = the embeddings of the context bytes, one below the other
//   h1 = relu(W1 x + b1)     h2 = h1 + relu(W2 h1 + b2)     logits of the next byte = W3 h2 + b3
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include <hydralora/hydralora.hpp>
#include <hydralora/train/parameter_group.hpp>

#include "data.hpp"

namespace finetune {

using hydralora::ConstTokens;
using hydralora::Tokens;
using Matrix = Eigen::MatrixXf;
using Vector = Eigen::VectorXf;
using Group = hydralora::ParameterGroup<float>;

/// A layer, y += W x and back. W is trained, or frozen with an adapter (support/layers.hpp). backward() ADDS.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual Matrix weight() const = 0;
  virtual void infer(ConstTokens<float> x, Tokens<float> y, const Batch& batch) const = 0;
  virtual void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) = 0;
  /// dx += …; an empty dx where none is wanted.
  virtual void backward(ConstTokens<float> x, ConstTokens<float> dy, Tokens<float> dx) = 0;
  virtual std::vector<Group> groups(double learning_rate) = 0;
  virtual void zero_gradients() = 0;
  /// The heads' weights of a batch (heads × tokens); empty where this layer does not route.
  virtual Matrix routing(ConstTokens<float>, const Batch&) const { return {}; }
};

inline constexpr Index byte_values = 256;

/// Everything pretraining learns.
struct Weights {
  Matrix embedding;  ///< features of a byte × 256
  std::array<Matrix, 3> weight;
  std::array<Vector, 3> bias;
};

/// Of the three W: (outputs, inputs).
inline std::array<std::pair<Index, Index>, 3> layer_shapes(Index inputs, Index hidden) {
  return {{{hidden, inputs}, {hidden, hidden}, {byte_values, hidden}}};
}

/// He-normal weights (He et al. 2015), embeddings from N(0, 0.3²).
Weights initial_weights(Index context, Index embedding, Index hidden, std::uint64_t seed);

class Mlp {
 public:
  using Layers = std::array<std::unique_ptr<Linear>, 3>;

  /// @param all_trained  embeddings and biases are trained too.
  Mlp(Weights weights, Layers layers, bool all_trained);

  /// The loss in nats, Σ over the batch / divisor. OVERWRITES the gradients of all that is trained.
  double train(const Batch& batch, std::uint64_t step, Index divisor);
  /// Mean loss in nats. `inputs`, where given, receives what each of the three layers saw.
  double loss(const Batch& batch, std::array<Matrix, 3>* inputs = nullptr) const;

  std::vector<Group> groups(double learning_rate);
  Linear& layer(std::size_t i) const { return *layers_[i]; }
  /// As trained so far; where adapters are trained, the frozen weights.
  Weights weights() const;

 private:
  struct Pass {
    Matrix x, h1, a2, h2, logits;  ///< a2 = relu(W2 h1 + b2)
  };
  /// @param apply  (i, x, y): y += W_i x.
  template <class Function>
  void forward(const Batch& batch, Pass& pass, Function&& apply) const;

  Weights weights_, gradient_;  // the dense matrices inside are those the layers started from
  Layers layers_;
  bool all_trained_;
  Pass pass_;
  Matrix dh1_, dh2_, dx_;
};

}  // namespace finetune
