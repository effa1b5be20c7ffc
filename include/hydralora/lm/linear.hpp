// SPDX-License-Identifier: MIT
// One linear layer of a decoder: a frozen or trained weight, a bias, and an adapter of any kind.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/layers/adapter_cache.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/call_options.hpp"
#include "hydralora/layers/frozen_linear.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

class PeftDirectory;
class PeftWriter;

namespace lm {

/// Any base of layers/frozen_linear.hpp, chosen when a model is loaded. Sizes and errors as there.
template <class Scalar>
class Weight {
 public:
  virtual ~Weight() = default;
  virtual Index in_features() const = 0;
  virtual Index out_features() const = 0;
  virtual void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write) const = 0;
  virtual void backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write write) const = 0;
  /// Row `out` of W: the vector of a token, where W is an embedding. @param to  in_features numbers, OVERWRITTEN.
  virtual void row(Index out, Scalar* to) const = 0;
};

/// A base as a Weight: DenseView, StoredLinear, or one of interop/onednn.hpp. It also has row().
template <class Scalar, class Base>
class BaseWeight final : public Weight<Scalar> {
 public:
  explicit BaseWeight(Base base) : base_(std::move(base)) {}
  Index in_features() const override { return base_.in_features(); }
  Index out_features() const override { return base_.out_features(); }
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write) const override { base_.forward(x, y, write); }
  void backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write w) const override { base_.backward(dy, dx, w); }
  void row(Index out, Scalar* to) const override { base_.row(out, to); }

 private:
  Base base_;
};
template <class Scalar, class Base>
std::shared_ptr<const Weight<Scalar>> make_weight(Base base) {
  return std::make_shared<const BaseWeight<Scalar, Base>>(std::move(base));
}

/// What a pass hands to every linear. The decoder completes it for a batch.
template <class Scalar>
struct LinearCall {
  CallOptions<Scalar> options;  ///< its segments are the documents
  bool training = false;        ///< fill the caches for backward
};

/// f(name in an adapter's file, matrix).
template <class Scalar>
using MatrixVisitor = std::function<void(const std::string& name, ConstMatrixMap<Scalar> matrix)>;

/// Any adapter with the parameters and gradients of one layer.
template <class Scalar>
class LinearAdapter {
 public:
  virtual ~LinearAdapter() = default;
  /// As the layer's functions. Without training the cache stays as it is.
  virtual void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, AdapterCache<Scalar>& cache,
                       const LinearCall<Scalar>& call) const = 0;
  /// @param dx  ADDED to, or an empty view where nobody needs it.
  virtual void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const AdapterCache<Scalar>& cache,
                        Tokens<Scalar> dx, const LinearCall<Scalar>& call) = 0;
  virtual void initialize() = 0;
  virtual void load(const PeftDirectory& from, const std::string& module) = 0;
  virtual void save(PeftWriter& to, const std::string& module) const = 0;
  virtual void for_each_gradient(const std::string& module, const MatrixVisitor<Scalar>& f) const = 0;
};

/// y = W x + b + ΔW(x).
template <class Scalar>
struct Linear {
  std::string name;                                ///< in the checkpoint, without ".weight"
  std::shared_ptr<const Weight<Scalar>> weight;    ///< shared where lm_head is tied to the embedding
  const Scalar* bias = nullptr;                    ///< out_features numbers, or none
  std::unique_ptr<LinearAdapter<Scalar>> adapter;  ///< or none
  Tokens<Scalar> weight_gradient;                  ///< (in × out), for full fine-tuning, else empty
  Scalar* bias_gradient = nullptr;                 ///< where the weight has a gradient and there is a bias

  Index in_features() const { return weight->in_features(); }
  Index out_features() const { return weight->out_features(); }

  /// @param cache  of the adapter, OVERWRITTEN in training.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write, AdapterCache<Scalar>& cache,
               const LinearCall<Scalar>& call) const {
    weight->forward(x, y, write);
    if (bias != nullptr) {
      for (Index t = 0; t < y.tokens(); ++t) {
        kernels::add<Scalar>(ConstTokens<Scalar>(bias, y.features(), 1), y.slice(t, 1));
      }
    }
    if (adapter) adapter->forward(x, y, cache, call);
  }

  /// @param dx  written or added to, or an empty view where nobody needs it. The gradients are ADDED to.
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write write,
                const AdapterCache<Scalar>& cache, const LinearCall<Scalar>& call) {
    if (dx.tokens() > 0) weight->backward(dy, dx, write);
    if (adapter) adapter->backward(x, dy, cache, dx, call);
    if (weight_gradient.tokens() > 0) add_weight_gradient(x, dy);
  }

  /// dW += dy xᵀ, db += Σ dy.
  void add_weight_gradient(ConstTokens<Scalar> x, ConstTokens<Scalar> dy) {
    parallel_slices(weight_gradient.tokens(), 256, [&](Index begin, Index count) {
      weight_gradient.slice(begin, count).matrix().noalias() += x.matrix() * dy.rows(begin, count).matrix().transpose();
    });
    if (bias_gradient == nullptr) return;
    for (Index t = 0; t < dy.tokens(); ++t) {
      kernels::add<Scalar>(dy.slice(t, 1), Tokens<Scalar>(bias_gradient, dy.features(), 1));
    }
  }
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
