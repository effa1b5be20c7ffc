// SPDX-License-Identifier: MIT
#include "model.hpp"

#include <cmath>
#include <utility>

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

Group group_of(Matrix& parameters, Matrix& gradients, double learning_rate) {
  return {Group::Map(parameters.data(), parameters.size()), Group::Map(gradients.data(), gradients.size()),
          learning_rate};
}

}  // namespace

void TrainedLinear::backward(ConstTokens<float> x, ConstTokens<float> dy, const Tokens<float>* dx) {
  constexpr Index slice_columns = 64;
  hydralora::parallel_slices(x.features(), slice_columns, [&](Index begin, Index count) {
    gradient_.middleCols(begin, count).noalias() += dy.matrix() * x.rows(begin, count).matrix().transpose();
  });
  if (dx != nullptr) base_.add_backward(dy, *dx);
}

std::vector<Group> TrainedLinear::groups(double learning_rate) {
  return {group_of(base_.weight(), gradient_, learning_rate)};
}

Index Weights::parameter_count() const {
  Index count = embedding.size();
  for (std::size_t i = 0; i < 3; ++i) count += weight[i].size() + bias[i].size();
  return count;
}

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

void Mlp::embed(const Batch& batch, Matrix& x) const {
  const Index features = weights_.embedding.rows();
  x.resize(features * batch.contexts.rows(), batch.contexts.cols());
  for (Index t = 0; t < batch.contexts.cols(); ++t) {
    for (Index i = 0; i < batch.contexts.rows(); ++i) {
      x.col(t).segment(i * features, features) = weights_.embedding.col(batch.contexts(i, t));
    }
  }
}

/// y = the layer's bias for every token; the layer then adds W x.
void Mlp::start(std::size_t layer, Index tokens, Matrix& y) const {
  y.resize(weights_.bias[layer].size(), tokens);
  y.colwise() = weights_.bias[layer];
}

double Mlp::loss(const Batch& batch, std::array<Matrix, 3>* inputs) const {
  const Index tokens = batch.contexts.cols();
  Matrix x, h1, h2, logits;
  embed(batch, x);
  start(0, tokens, h1);
  layers_[0]->infer(x, h1, batch);
  h1 = h1.cwiseMax(0);
  start(1, tokens, h2);
  layers_[1]->infer(h1, h2, batch);
  h2 = h1 + h2.cwiseMax(0);
  start(2, tokens, logits);
  layers_[2]->infer(h2, logits, batch);
  if (inputs != nullptr) *inputs = {std::move(x), std::move(h1), std::move(h2)};
  return cross_entropy(batch.targets, logits, tokens);
}

double Mlp::train(const Batch& batch, std::uint64_t step, Index divisor) {
  const Index tokens = batch.contexts.cols();
  embed(batch, x_);
  start(0, tokens, h1_);
  layers_[0]->forward(x_, h1_, batch, step);
  h1_ = h1_.cwiseMax(0);
  start(1, tokens, a2_);
  layers_[1]->forward(h1_, a2_, batch, step);
  a2_ = a2_.cwiseMax(0);
  h2_ = h1_ + a2_;
  start(2, tokens, logits_);
  layers_[2]->forward(h2_, logits_, batch, step);
  const double loss = cross_entropy(batch.targets, logits_, divisor);  // logits_ now holds their gradient

  for (auto& layer : layers_) layer->zero_gradients();
  dh2_.setZero(h2_.rows(), tokens);
  const Tokens<float> dh2 = dh2_;
  layers_[2]->backward(h2_, logits_, &dh2);
  dh1_ = dh2_;                               // the residual connection
  dh2_ = (a2_.array() > 0).select(dh2_, 0);  // now the gradient before the relu
  const Tokens<float> dh1 = dh1_;
  layers_[1]->backward(h1_, dh2_, &dh1);
  dh1_ = (h1_.array() > 0).select(dh1_, 0);
  if (!all_trained_) {
    layers_[0]->backward(x_, dh1_, nullptr);
    return loss;
  }

  dx_.setZero(x_.rows(), tokens);
  const Tokens<float> dx = dx_;
  layers_[0]->backward(x_, dh1_, &dx);
  // Written in place: the optimiser holds the addresses of these vectors, and assigning temporaries would swap them.
  gradient_.bias[0] = dh1_.rowwise().sum();
  gradient_.bias[1] = dh2_.rowwise().sum();
  gradient_.bias[2] = logits_.rowwise().sum();
  gradient_.embedding.setZero();
  const Index features = weights_.embedding.rows();
  for (Index t = 0; t < tokens; ++t) {
    for (Index i = 0; i < batch.contexts.rows(); ++i) {
      gradient_.embedding.col(batch.contexts(i, t)) += dx_.col(t).segment(i * features, features);
    }
  }
  return loss;
}

std::vector<Group> Mlp::groups(double learning_rate) {
  std::vector<Group> all;
  for (auto& layer : layers_) {
    for (const Group& group : layer->groups(learning_rate)) all.push_back(group);
  }
  if (all_trained_) {
    all.push_back(group_of(weights_.embedding, gradient_.embedding, learning_rate));
    for (std::size_t i = 0; i < 3; ++i) {
      Vector &b = weights_.bias[i], &db = gradient_.bias[i];
      all.emplace_back(Group::Map(b.data(), b.size()), Group::Map(db.data(), db.size()), learning_rate);
    }
  }
  return all;
}

}  // namespace finetune
