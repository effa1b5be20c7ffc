// SPDX-License-Identifier: MIT
//
// A byte-level language model as small as one can be and still learn text:
//
//   x  = the embeddings of the context bytes, one below the other
//   h1 = relu(W1 x + b1)     h2 = h1 + relu(W2 h1 + b2)     logits of the next byte = W3 h2 + b3
//
// Each W is behind the interface Linear: a dense layer that is trained, or a frozen one with an adapter on it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>

#include "mixture.hpp"

namespace finetune {

using hydralora::ConstTokens;
using hydralora::Tokens;
using Matrix = Eigen::MatrixXf;
using Vector = Eigen::VectorXf;
using Group = hydralora::ParameterGroup<float>;

inline constexpr Index byte_values = 256;

/// What an adapter adds to W: A with every head's rows below each other, B with every head's columns beside each other.
struct Factors {
  Matrix A, B;
};

/// y += W x, trainable one way or another. Gradients are kept inside, ADDED to by backward(). The batch is where x is from.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual Matrix weight() const = 0;
  virtual void infer(ConstTokens<float> x, Tokens<float> y, const Batch& batch) const = 0;
  virtual void forward(ConstTokens<float> x, Tokens<float> y, const Batch& batch, std::uint64_t step) = 0;
  /// dx += …; nullptr where no dx is wanted.
  virtual void backward(ConstTokens<float> x, ConstTokens<float> dy, const Tokens<float>* dx) = 0;
  virtual std::vector<Group> groups(double learning_rate) = 0;
  virtual void zero_gradients() = 0;
  /// The heads' weights of a batch, where this layer routes (heads × tokens), else an empty matrix.
  virtual Matrix routing(ConstTokens<float>, const Batch&) const { return {}; }
  /// The mean cosine between two of its heads' B, where it has several; else 0.
  virtual double head_likeness() const { return 0; }
  virtual Factors factors() const { return {}; }
};

/// W itself is trained: pretraining, and full fine-tuning.
class TrainedLinear final : public Linear {
 public:
  explicit TrainedLinear(Matrix weight)
      : base_(std::move(weight)), gradient_(Matrix::Zero(base_.out_features(), base_.in_features())) {}
  Matrix weight() const override { return base_.weight(); }
  void infer(ConstTokens<float> x, Tokens<float> y, const Batch&) const override { base_.add_forward(x, y); }
  void forward(ConstTokens<float> x, Tokens<float> y, const Batch&, std::uint64_t) override { base_.add_forward(x, y); }
  void backward(ConstTokens<float> x, ConstTokens<float> dy, const Tokens<float>* dx) override;
  std::vector<Group> groups(double learning_rate) override;
  void zero_gradients() override { gradient_.setZero(); }

 private:
  hydralora::DenseLinear<float> base_;
  Matrix gradient_;
};

/// Everything pretraining learns.
struct Weights {
  Matrix embedding;  ///< features of a byte × 256
  std::array<Matrix, 3> weight;
  std::array<Vector, 3> bias;
  Index parameter_count() const;
};

/// He-normal weights (He et al. 2015), embeddings from N(0, 0.3²).
Weights initial_weights(Index context, Index embedding, Index hidden, std::uint64_t seed);

class Mlp {
 public:
  using Layers = std::array<std::unique_ptr<Linear>, 3>;

  /// @param all_trained  embeddings and biases are trained too.
  Mlp(Weights weights, Layers layers, bool all_trained);

  /// Mean loss of the batch in nats; the gradients of all that is trained are overwritten with those of it.
  double train(const Batch& batch, std::uint64_t step) { return train(batch, step, batch.contexts.cols()); }
  /// The same of the sum of the losses, divided by `divisor`.
  double train(const Batch& batch, std::uint64_t step, Index divisor);
  /// Mean loss in nats. `inputs`, where given, receives what each of the three layers saw.
  double loss(const Batch& batch, std::array<Matrix, 3>* inputs = nullptr) const;

  std::vector<Group> groups(double learning_rate);
  const Linear& layer(std::size_t i) const { return *layers_[i]; }
  /// As trained so far; where adapters are trained, the frozen weights.
  Weights weights() const;

 private:
  void embed(const Batch& batch, Matrix& x) const;
  void start(std::size_t layer, Index tokens, Matrix& y) const;

  Weights weights_;  // the dense matrices inside are those the layers started from
  Weights gradient_;
  Layers layers_;
  bool all_trained_;
  Matrix x_, h1_, a2_, h2_, logits_, dh1_, dh2_, dx_;  // kept between steps, so that they are allocated once
};

}  // namespace finetune
