// SPDX-License-Identifier: MIT
//
// Adapters in a host that owns its threads and calls a kernel as slice i of n, as ggml does. Nothing here starts a thread
// or waits for one; the results are the same bits as those of forward() and backward(), for every number of slices.
//
// Inference needs none of it, as a token does not depend on its neighbours: each thread calls forward() with its own
// slice of x and y inside a SerialScope (core/parallel.hpp).
#pragma once

#include <algorithm>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/adapter_layer.hpp"
#include "hydralora/layers/down_projection.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Slices go token by token, and the gradient of a gate that reads A x is a sum over tokens.
inline void check_sliceable(const AdapterShape& shape) {
  expects(!shape.pooled && shape.gate_columns == 0, shape.layer, ": a gate that ",
          shape.pooled ? "pools tokens" : "reads A x", " cannot be cut into slices: use forward() and backward()");
}

/// Begin and length of slice i of n of `size` things, cut at multiples of `grain`.
struct SliceRange {
  Index begin, count;

  SliceRange(Index size, Index grain, Index slice, Index slices) {
    expects(slices >= 1 && slice >= 0 && slice < slices, "slice ", slice, " of ", slices, " slices");
    const Index grains = (size + grain - 1) / grain;
    const auto cut = [&](Index i) {
      return std::min(size, i * (grains / slices) * grain + std::min(i, grains % slices) * grain);
    };
    begin = cut(slice);
    count = cut(slice + 1) - begin;
  }
};

}  // namespace detail

/// layer.forward(x, y, cache, options) in slices of tokens:
///
///   one thread     SlicedForward<HydraLoRA<float>> call(layer, x, y, cache);
///   every thread   call.run(i, n);                 any order, at the same time; then the host's barrier
///
/// The layer, what the views look at and the cache must outlive the call object. The cache is complete when every slice
/// has run. @throws std::invalid_argument as forward(), from the constructor, before anything is written.
template <class Layer>
class SlicedForward {
 public:
  using Scalar = typename Layer::Scalar;  ///< of the layer

  /// Checks, and makes the cache large enough.
  SlicedForward(const Layer& layer, ConstTokens<Scalar> x, Tokens<Scalar> y, typename Layer::Cache& cache,
                const CallOptions<Scalar>& options = {})
      : layer_(layer), x_(x), y_(y), options_(options) {
    detail::check_sliceable(layer.shape());
    layer.check_forward(x, y, options);
    kept_ = cache.reset(layer.shape(), x.tokens(), options);
    dropout_ = layer.dropout(cache);
    cache.tokens_ = x.tokens();
  }

  /// Slice `slice` of `slices`. Thread-safe for different slices. Cost: its share of forward().
  void run(Index slice, Index slices) const {
    const detail::SliceRange tokens(x_.tokens(), 1, slice, slices);
    if (tokens.count == 0) return;
    const SerialScope serial;
    CallOptions<Scalar> options = options_;
    if (options.weights.tokens() > 0) options.weights = options.weights.slice(tokens.begin, tokens.count);
    layer_.forward_step(x_.slice(tokens.begin, tokens.count), y_.slice(tokens.begin, tokens.count),
                        kept_.slice(tokens.begin, tokens.count), dropout_.from(tokens.begin), options);
  }

 private:
  const Layer& layer_;
  ConstTokens<Scalar> x_;
  Tokens<Scalar> y_;
  CallOptions<Scalar> options_;
  Tokens<Scalar> kept_;
  detail::Dropout dropout_;
};

/// layer.backward(x, dy, cache, g, dx, options) in numbered phases:
///
///   one thread     SlicedBackward<HydraLoRA<float>> call(layer, x, dy, cache, g, dx);
///   every thread   call.run(0, i, n);   the host's barrier   call.run(1, i, n);   the host's barrier
///
/// Phase 0 goes token by token, from dy to the projections; phase 1 feature by feature, from there to the gradients and dx.
/// Lifetimes and errors as in SlicedForward. Allocates what backward() takes from its thread's scratch.
template <class Layer>
class SlicedBackward {
 public:
  using Scalar = typename Layer::Scalar;        ///< of the layer
  using Cache = typename Layer::Cache;          ///< of the layer
  using Gradients = typename Layer::Gradients;  ///< of the layer
  static constexpr int phases = 2;              ///< numbers that run() takes

  /// Checks, and takes memory. dx is ADDED to.
  SlicedBackward(const Layer& layer, ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g,
                 Tokens<Scalar> dx, const CallOptions<Scalar>& options = {})
      : SlicedBackward(layer, x, dy, cache, g, &dx, options) {
    dx_ = dx;
  }
  /// The same where no dx is wanted.
  SlicedBackward(const Layer& layer, ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g,
                 const CallOptions<Scalar>& options = {})
      : SlicedBackward(layer, x, dy, cache, g, nullptr, options) {}

  /// Slice `slice` of `slices` of one phase. Thread-safe for different slices of the same phase.
  void run(int phase, Index slice, Index slices) const {
    expects(phase >= 0 && phase < phases, "SlicedBackward: phase ", phase, " of ", phases, " phases");
    if (x_.tokens() == 0) return;
    const SerialScope serial;
    if (phase == 0) {
      to_projections(detail::SliceRange(x_.tokens(), 1, slice, slices));
    } else {
      to_up_gradients(detail::SliceRange(dy_.features(), grain, slice, slices));
      to_down_gradients(detail::SliceRange(x_.features(), grain, slice, slices));
    }
  }

 private:
  /// Features of a slice: whole cache lines of float and double, and whole draws of dropout.
  static constexpr Index grain = 16;
  static_assert(grain % detail::Dropout::share == 0);

  SlicedBackward(const Layer& layer, ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g,
                 const Tokens<Scalar>* dx, const CallOptions<Scalar>& options)
      : layer_(layer), x_(x), dy_(dy), cache_(cache), g_(g), wants_dx_(dx != nullptr), options_(options) {
    detail::check_sliceable(layer.shape());
    layer.check_backward(x, dy, cache, g, dx, options);
    dkept_.resize(static_cast<std::size_t>(checked_product(layer.shape().kept_rows(), x.tokens(), "SlicedBackward")));
  }

  Tokens<Scalar> dkept() const { return {dkept_.data(), layer_.shape().kept_rows(), x_.tokens()}; }

  void to_projections(detail::SliceRange tokens) const {
    if (tokens.count == 0) return;
    const auto slice = [&](const auto& view) { return view.slice(tokens.begin, tokens.count); };
    CallOptions<Scalar> options = options_;
    if (options.weights_gradient.tokens() > 0) options.weights_gradient = slice(options.weights_gradient);
    if (options.logits_gradient.tokens() > 0) options.logits_gradient = slice(options.logits_gradient);
    layer_.backward_tokens_step(slice(dy_), slice(cache_.kept()), slice(dkept()), Stack<Scalar>{}, options);
  }

  void to_up_gradients(detail::SliceRange features) const {
    if (features.count == 0) return;
    layer_.backward_up_step(dy_.rows(features.begin, features.count), cache_.h(), cache_.weights(),
                            detail::stack_features(g_.up_stack(), features.begin, features.count));
  }

  void to_down_gradients(detail::SliceRange features) const {
    if (features.count == 0) return;
    const Index first = features.begin, count = features.count;
    const Index a_rows = layer_.shape().a_rows;
    const detail::Dropout dropout = layer_.dropout(cache_);
    const ConstTokens<Scalar> dp = dkept().rows(0, layer_.shape().down_rows());
    detail::project_down_gradient<Scalar>(a_rows, dropout, x_.rows(first, count), dp,
                                          detail::stack_features(g_.down_stack(), first, count), first);
    if (!wants_dx_) return;
    detail::project_down_backward<Scalar>(detail::stack_features(layer_.down_stack(), first, count), a_rows, dropout,
                                          dp, dx_.rows(first, count), first);
  }

  const Layer& layer_;
  ConstTokens<Scalar> x_, dy_;
  const Cache& cache_;
  Gradients& g_;
  Tokens<Scalar> dx_;
  bool wants_dx_;
  CallOptions<Scalar> options_;
  mutable AlignedVector<Scalar> dkept_;  // every slice of phase 0 writes its own tokens
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
