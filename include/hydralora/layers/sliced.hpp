// SPDX-License-Identifier: MIT
// forward() and backward() for a host that owns the threads and calls a kernel as slice i of n, as ggml does, with the
// same bits for every n. Nothing here starts a thread or waits for one. Inference does not need this: each thread can
// call forward() with its own tokens inside a SerialScope (core/parallel.hpp).
#pragma once

#include <algorithm>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/adapter.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// A slice reads only its own tokens. A gate that pools needs others, and the gradient of a gate on A x sums over all.
inline void check_sliceable(const AdapterShape& shape) {
  expects(!shape.gate.pools() && !shape.gate.reads_projection(), shape.layer, ": a gate that ",
          shape.gate.pools() ? "pools tokens" : "reads A x",
          " cannot be cut into slices: use forward() and backward()");
}

/// The range of slice i of n of 0 … size − 1, cut at multiples of `grain`.
struct SliceRange {
  Index begin, count;

  SliceRange(Index size, Index grain, Index slice, Index slices) {
    expects(slices >= 1 && slice >= 0 && slice < slices, "slice ", slice, " of ", slices, " slices");
    const Index grains = (size + grain - 1) / grain;
    const auto cut = [&](Index i) {
      return (std::min)(size, i * (grains / slices) * grain + (std::min)(i, grains % slices) * grain);
    };
    begin = cut(slice);
    count = cut(slice + 1) - begin;
  }
};

}  // namespace detail

/// layer.forward(x, y, cache, options) in slices of tokens:
///
///   one thread     SlicedForward<HydraLoRA<float>> call(layer, x, y, cache);
///   every thread   call.run(i, n);                 in any order, concurrently; then the host's barrier
///
/// The layer, the memory of the views and the cache must outlive this object. The cache is complete when every slice
/// has run. The constructor throws as forward(), before anything is written.
template <class Layer>
class SlicedForward {
 public:
  using Activation = typename Layer::Activation;
  using Sum = typename Layer::Sum;

  /// Checks the arguments and allocates the cache.
  SlicedForward(const Layer& layer, ConstTokens<Activation> x, Tokens<Activation> y, typename Layer::Cache& cache,
                const CallOptions<Sum>& options = {})
      : layer_(layer), x_(x), y_(y), options_(options) {
    detail::check_sliceable(layer.shape());
    detail::check_forward<Activation>(layer.shape(), x, y, options);
    pass_ = cache.begin(layer.shape(), x.tokens(), layer.dropout(options), options.segments);
    cache.end(x.tokens());
  }

  /// Thread-safe for different slices. Cost: its share of forward().
  void run(Index slice, Index slices) const {
    const detail::SliceRange tokens(x_.tokens(), 1, slice, slices);
    if (tokens.count == 0) return;
    const SerialScope serial;
    const auto part = [&](const auto& view) { return view.slice(tokens.begin, tokens.count); };
    CallOptions<Sum> options = options_;
    if (options.weights.tokens() > 0) options.weights = part(options.weights);
    layer_.formula().forward(part(x_), part(y_), part(pass_), options);
  }

 private:
  const Layer& layer_;
  ConstTokens<Activation> x_;
  Tokens<Activation> y_;
  CallOptions<Sum> options_;
  Pass<Tokens<Sum>> pass_;
};

/// layer.backward(x, dy, cache, g, dx, options) in numbered phases:
///
///   one thread     SlicedBackward<HydraLoRA<float>> call(layer, x, dy, cache, g, dx);
///   every thread   call.run(0, i, n);   the host's barrier   call.run(1, i, n);   the host's barrier
///
/// Phase 0 is sliced by tokens and computes [dh; dℓ]; phase 1 is sliced by features and computes the gradients and dx.
/// Lifetimes and errors as in SlicedForward. Allocates the [dh; dℓ] of all tokens.
template <class Layer>
class SlicedBackward {
 public:
  using Activation = typename Layer::Activation;
  using Sum = typename Layer::Sum;
  using Cache = typename Layer::Cache;
  using Gradients = typename Layer::Gradients;
  static constexpr int phases = 2;  ///< run() takes 0 … phases − 1

  /// Checks the arguments and allocates. dx is ADDED to.
  SlicedBackward(const Layer& layer, ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache,
                 Gradients& g, Tokens<Activation> dx, const CallOptions<Sum>& options = {})
      : SlicedBackward(layer, x, dy, cache, g, options, dx) {
    detail::check_view(layer.shape(), "::backward: ", "dx", dx.shape(), {layer.shape().in, x.tokens()}, "in_features");
  }
  /// Without dx.
  SlicedBackward(const Layer& layer, ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache,
                 Gradients& g, const CallOptions<Sum>& options = {})
      : SlicedBackward(layer, x, dy, cache, g, options, Tokens<Activation>{}) {}

  /// Thread-safe for different slices of the same phase.
  void run(int phase, Index slice, Index slices) const {
    expects(phase >= 0 && phase < phases, "SlicedBackward: phase ", phase, " of ", phases, " phases");
    if (x_.tokens() == 0) return;
    const SerialScope serial;
    if (phase == 0) return run_tokens(detail::SliceRange(x_.tokens(), 1, slice, slices));
    const detail::SliceRange up(dy_.features(), grain, slice, slices), down(x_.features(), grain, slice, slices);
    if (up.count > 0) {
      layer_.formula().backward_up(dy_.rows(up.begin, up.count), pass_,
                                   g_.up_stack().feature_range(up.begin, up.count));
    }
    if (down.count > 0) {
      const Tokens<Activation> dx = dx_.features() == 0 ? dx_ : dx_.rows(down.begin, down.count);
      layer_.formula().backward_down(x_.rows(down.begin, down.count), dp(), pass_, g_.down_stack(), dx, down.begin);
    }
  }

 private:
  /// Features of a slice: whole cache lines of float and double, and whole draws of dropout.
  static constexpr Index grain = 16;
  static_assert(grain % detail::Dropout::share == 0);

  SlicedBackward(const Layer& layer, ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache,
                 Gradients& g, const CallOptions<Sum>& options, Tokens<Activation> dx)
      : layer_(layer), x_(x), dy_(dy), dx_(dx), pass_(cache.pass()), g_(g), options_(options) {
    detail::check_sliceable(layer.shape());
    detail::check_backward<Activation>(layer.shape(), layer.dropout(options), x, dy, cache, g.shape(), dx, options);
    dp_.resize(
        static_cast<std::size_t>(checked_product(layer.formula().gradient_rows(), x.tokens(), "SlicedBackward")));
  }

  Tokens<Sum> dp() const { return {dp_.data(), layer_.formula().gradient_rows(), x_.tokens()}; }

  void run_tokens(detail::SliceRange tokens) const {
    if (tokens.count == 0) return;
    const auto slice = [&](const auto& view) { return view.slice(tokens.begin, tokens.count); };
    CallOptions<Sum> options = options_;
    if (options.weights_gradient.tokens() > 0) options.weights_gradient = slice(options.weights_gradient);
    if (options.logits_gradient.tokens() > 0) options.logits_gradient = slice(options.logits_gradient);
    layer_.formula().backward_tokens(slice(dy_), slice(pass_), slice(dp()), g_.gate_stack(), options);
  }
  const Layer& layer_;
  ConstTokens<Activation> x_, dy_;
  Tokens<Activation> dx_;
  Pass<ConstTokens<Sum>> pass_;
  Gradients& g_;
  CallOptions<Sum> options_;
  mutable AlignedVector<Sum> dp_;  // every slice of phase 0 writes its own tokens
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
