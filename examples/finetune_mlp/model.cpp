// SPDX-License-Identifier: MIT
#include "model.hpp"

#include <cmath>

namespace finetune {
namespace {

/// Logits in, the gradient of Σ losses / divisor out; returns Σ losses / divisor.
double cross_entropy(const std::vector<unsigned char>& targets, Matrix& logits, Index divisor) {
  hydralora::kernels::softmax<float>(logits);
  double loss = 0;
  for (Index t = 0; t < logits.cols(); ++t) {
    float& p = logits(targets[static_cast<std::size_t>(t)], t);
    loss -= std::log(std::max(1e-30, static_cast<double>(p)));
    p -= 1;
  }
  logits /= static_cast<float>(divisor);
  return loss / static_cast<double>(divisor);
}

}  // namespace

Weights initial_weights(Index context, Index embedding, Index hidden, std::uint64_t seed) {
  const auto normal = [&](Index rows, Index cols, double deviation, std::uint64_t stream) {
    const hydralora::CounterRandom random(seed, stream);
    Matrix m(rows, cols);
    for (Index i = 0; i < m.size(); ++i)
      m.data()[i] = static_cast<float>(deviation * random.normal(static_cast<std::uint64_t>(i)));
    return m;
  };
  const auto he = [](Index inputs) { return std::sqrt(2.0 / static_cast<double>(inputs)); };
  const Index in = context * embedding;
  return {normal(embedding, byte_values, 0.3, 10),
          {normal(hidden, in, he(in), 11), normal(hidden, hidden, he(hidden), 12),
           normal(byte_values, hidden, 0.5 * he(hidden), 13)},
          {Vector::Zero(hidden), Vector::Zero(hidden), Vector::Zero(byte_values)}};
}

Mlp::Mlp(Weights weights, Layers layers, bool all_trained)
    : weights_(std::move(weights)), gradient_(weights_), layers_(std::move(layers)), all_trained_(all_trained) {}

Weights Mlp::weights() const {
  Weights all = weights_;
  for (std::size_t i = 0; i < layers_.size(); ++i) all.weight[i] = layers_[i]->weight();
  return all;
}

template <class Function>
void Mlp::forward(const Batch& batch, Pass& p, Function&& apply) const {
  const Index tokens = batch.contexts.cols(), features = weights_.embedding.rows();
  p.x.resize(features * batch.contexts.rows(), tokens);
  for (Index t = 0; t < tokens; ++t) {
    for (Index i = 0; i < batch.contexts.rows(); ++i)
      p.x.col(t).segment(i * features, features) = weights_.embedding.col(batch.contexts(i, t));
  }
  const auto layer = [&](std::size_t i, const Matrix& x, Matrix& y) {
    y.resize(weights_.bias[i].size(), tokens);
    y.colwise() = weights_.bias[i];
    apply(i, x, y);
  };
  layer(0, p.x, p.h1);
  p.h1 = p.h1.cwiseMax(0);
  layer(1, p.h1, p.a2);
  p.a2 = p.a2.cwiseMax(0);
  p.h2 = p.h1 + p.a2;
  layer(2, p.h2, p.logits);
}

double Mlp::loss(const Batch& batch, std::array<Matrix, 3>* inputs) const {
  Pass p;
  forward(batch, p, [&](std::size_t i, const Matrix& x, Matrix& y) { layers_[i]->infer(x, y, batch); });
  if (inputs != nullptr) *inputs = {std::move(p.x), std::move(p.h1), std::move(p.h2)};
  return cross_entropy(batch.targets, p.logits, p.logits.cols());
}

double Mlp::train(const Batch& batch, std::uint64_t step, Index divisor) {
  Pass& p = pass_;
  forward(batch, p, [&](std::size_t i, const Matrix& x, Matrix& y) { layers_[i]->forward(x, y, batch, step); });
  const double loss = cross_entropy(batch.targets, p.logits, divisor);  // p.logits now holds their gradient

  for (auto& layer : layers_) layer->zero_gradients();
  const Index tokens = batch.contexts.cols();
  dh2_.setZero(p.h2.rows(), tokens);
  layers_[2]->backward(p.h2, p.logits, dh2_);
  dh1_ = dh2_;                                // the residual connection
  dh2_ = (p.a2.array() > 0).select(dh2_, 0);  // now the gradient before the relu
  layers_[1]->backward(p.h1, dh2_, dh1_);
  dh1_ = (p.h1.array() > 0).select(dh1_, 0);
  if (!all_trained_) return layers_[0]->backward(p.x, dh1_, {}), loss;

  dx_.setZero(p.x.rows(), tokens);
  layers_[0]->backward(p.x, dh1_, dx_);
  // Written in place: the optimiser holds the addresses of these vectors, and assigning temporaries would swap them.
  gradient_.bias[0] = dh1_.rowwise().sum();
  gradient_.bias[1] = dh2_.rowwise().sum();
  gradient_.bias[2] = p.logits.rowwise().sum();
  gradient_.embedding.setZero();
  const Index features = weights_.embedding.rows();
  for (Index t = 0; t < tokens; ++t) {
    for (Index i = 0; i < batch.contexts.rows(); ++i)
      gradient_.embedding.col(batch.contexts(i, t)) += dx_.col(t).segment(i * features, features);
  }
  return loss;
}

std::vector<Group> Mlp::groups(double learning_rate) {
  std::vector<Group> all;
  for (auto& layer : layers_)
    for (const Group& group : layer->groups(learning_rate)) all.push_back(group);
  if (!all_trained_) return all;
  const auto add = [&](auto& numbers, auto& gradient) {
    all.emplace_back(Group::Map(numbers.data(), numbers.size()), Group::Map(gradient.data(), gradient.size()),
                     learning_rate);
  };
  add(weights_.embedding, gradient_.embedding);
  for (std::size_t i = 0; i < 3; ++i) add(weights_.bias[i], gradient_.bias[i]);
  return all;
}

}  // namespace finetune
