// SPDX-License-Identifier: MIT
//
// The door that LoRA, SplitLoRA, HydraLoRA and SharedBLoRA share: construction, checks, what is kept between forward and backward.
// The formulas are in the layers' own files.
#pragma once

#include <cstdint>
#include <vector>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/call_options.hpp"
#include "hydralora/layers/down_projection.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

template <class Layer>
class SlicedForward;
template <class Layer>
class SlicedBackward;

namespace detail {

/// What a forward pass keeps for its backward pass: H = A x and the head weights ω, a few numbers per token, nothing of
/// size out × tokens. Default-constructible, reusable for any layer and batch of its type; grows, never shrinks.
template <class Scalar>
class AdapterCache {
 public:
  /// Tokens of the forward pass it holds; 0 before the first.
  Index tokens() const { return tokens_; }
  /// The layer it is from.
  const AdapterShape& shape() const { return shape_; }
  /// ω, (heads × tokens), valid until the next forward pass; 0 rows where none are kept (LoRA, SplitLoRA with Routing::uniform).
  ConstTokens<Scalar> weights() const { return rows(shape_.a_rows, shape_.weight_rows); }
  /// π, (heads × tokens), what a learned gate's softmax gave: the weights before heads were selected.
  ConstTokens<Scalar> probabilities() const {
    return shape_.probability_rows == 0 ? weights() : rows(shape_.a_rows + shape_.weight_rows, shape_.probability_rows);
  }
  /// ln Σ exp(ℓ / temperature), (1 × tokens) with GateConfig::keep_log_partition, else no rows.
  ConstTokens<Scalar> log_partition() const {
    return rows(shape_.kept_rows() - shape_.partition_rows, shape_.partition_rows);
  }
  /// H, (rank × tokens); SplitLoRA and SharedBLoRA: (heads · rank × tokens).
  ConstTokens<Scalar> h() const { return rows(0, shape_.a_rows); }

 private:
  template <class, class>
  friend class AdapterLayer;
  template <class>
  friend class hydralora::SlicedForward;
  template <class>
  friend class hydralora::SlicedBackward;

  Tokens<Scalar> reset(const AdapterShape& shape, Index tokens, const CallOptions<Scalar>& options) {
    const auto needed = static_cast<std::size_t>(checked_product(shape.kept_rows(), tokens, "cache"));
    if (values_.size() < needed) values_.resize(needed);
    shape_ = shape;
    tokens_ = 0;  // until forward() has filled it: one that runs out of memory leaves nothing to go back from
    step_ = options.step;
    first_token_ = options.first_token;
    segments_.clear();
    if (options.segments.count > 0 && shape.pooled) {
      segments_.assign(options.segments.lengths, options.segments.lengths + options.segments.count);
    }
    return {values_.data(), shape.kept_rows(), tokens};
  }

  ConstTokens<Scalar> kept() const { return rows(0, shape_.kept_rows()); }

  ConstTokens<Scalar> rows(Index first, Index count) const {
    if (tokens_ == 0) return {nullptr, count, 0};
    return ConstTokens<Scalar>(values_.data(), shape_.kept_rows(), tokens_).rows(first, count);
  }

  AlignedVector<Scalar> values_;
  AdapterShape shape_{"empty", 0, 0, 0, 0, 0, 0, 0};
  Index tokens_ = 0;
  std::uint64_t step_ = 0;
  std::uint64_t first_token_ = 0;
  std::vector<Index> segments_;
};

/// Layer is the derived class, Tensors its named matrices. Layer provides, for shapes that have been checked,
///   add_forward(x, y, kept, dropout, options)             y += ΔW(x), fills kept = [H; Ω]
///   backward_tokens(dy, kept, dkept, dgate, options)      dkept = what reaches [H; Ω], token by token; dgate += the
///                                                         gradient of a gate that reads A x
///   backward_up(dy, h, weights, dup)                      dup += the gradients of B, feature by feature
template <class Layer, class Tensors>
class AdapterLayer : public Tensors {
 public:
  using Scalar = typename Tensors::Scalar;  ///< of parameters and activations
  using Config = typename Tensors::Config;  ///< what the layer is made of
  using Cache = AdapterCache<Scalar>;       ///< what forward() keeps for backward()

  /// The same tensors with the same accessors, for gradients.
  class Gradients : public Tensors {
   public:
    /// Zeros.
    explicit Gradients(const Config& config) : Tensors(config) {}
    /// Gradients in the host's memory (an optimiser's, an all-reduce buffer): parameter_count() numbers.
    Gradients(const Config& config, ParameterMap<Scalar> lent) : Tensors(config, lent) {}
    void set_zero() { this->parameters().setZero(); }  ///< for the next batch
  };

  /// A and the gate kaiming-uniform (a = √5) from the seed, B = 0, so that a new adapter adds nothing.
  /// @throws std::invalid_argument  a size below 1, alpha not finite, dropout outside [0, 1), a gate that makes no sense.
  explicit AdapterLayer(const Config& config, std::uint64_t seed = 0) : Tensors(config), seed_(seed) { initialize(); }

  /// Parameters in the host's memory, read and written there, taken as they are (initialize() overwrites them). The
  /// memory must outlive the layer; copies of the layer share it. The seed serves initialize() and dropout.
  /// @throws std::invalid_argument  as above, or where the buffer's size is not parameter_count().
  AdapterLayer(const Config& config, ParameterMap<Scalar> lent, std::uint64_t seed = 0)
      : Tensors(config, lent), seed_(seed) {}

  /// Overwrites the parameters with those of a new layer with this seed.
  void initialize() { this->initialize_tensors(seed_); }

  /// s of the formula.
  Scalar scaling() const { return Scalar(static_cast<real_t<Scalar>>(scaling_of(this->config()))); }
  std::uint64_t seed() const { return seed_; }  ///< of initialize() and dropout

  /// y += ΔW(x), for every token (column) x, with the layer's own formula.
  ///
  /// @param x       (in_features × tokens), read. tokens = 0 is a no-op.
  /// @param y       (out_features × tokens), ADDED to: the host writes W x first. Must not overlap x.
  /// @param cache   OVERWRITTEN with what backward() needs. A call without a cache is inference: no dropout.
  /// @param options  the step of dropout, weights of the heads, segments: see CallOptions.
  /// @throws std::invalid_argument  on a shape mismatch; y and the cache are then untouched.
  /// Cost     2 flop per token and parameter; allocates only where the cache or the thread's scratch must grow.
  /// Numerics a token's bits depend neither on the other tokens (of another segment, where a gate pools) nor on the number
  ///          of threads. Thread-safe.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Cache& cache, const CallOptions<Scalar>& options = {}) const {
    check_forward(x, y, options);
    const Tokens<Scalar> kept = cache.reset(this->shape(), x.tokens(), options);
    if (x.tokens() == 0) return;
    layer().add_forward(x, y, kept, dropout(cache), options);
    cache.tokens_ = x.tokens();
  }
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, const CallOptions<Scalar>& options = {}) const {
    check_forward(x, y, options);
    if (x.tokens() == 0) return;
    ScratchFrame scratch;
    layer().add_forward(x, y, scratch.take_tokens<Scalar>(this->shape().kept_rows(), x.tokens()), Dropout{}, options);
  }

  /// The gradients of a loss that reached this layer's y as dy, with the layer's own formula.
  ///
  /// @param x      (in_features × tokens), as in forward(), read.
  /// @param dy     (out_features × tokens), read.
  /// @param cache  filled by forward() on the same x.
  /// @param g      ADDED to.
  /// @param dx     (in_features × tokens), ADDED to: the host adds Wᵀ dy. Must overlap neither x nor dy.
  /// @param options  where the gradient of given weights goes, and that of a balance loss comes from: see CallOptions.
  /// @throws std::invalid_argument  on a shape mismatch, or a cache or gradients of another shape; nothing is written.
  /// Cost     4 flop per token and parameter. Dropout draws its mask again.
  /// Numerics dx as y in forward(); the bits of g do not depend on the number of threads. Thread-safe for different g.
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g, Tokens<Scalar> dx,
                const CallOptions<Scalar>& options = {}) const {
    check_backward(x, dy, cache, g, &dx, options);
    if (x.tokens() == 0) return;
    add_backward(&x, dy, cache, g, &dx, options);
  }
  /// The same where no dx is wanted.
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g,
                const CallOptions<Scalar>& options = {}) const {
    check_backward(x, dy, cache, g, nullptr, options);
    if (x.tokens() == 0) return;
    add_backward(&x, dy, cache, g, nullptr, options);
  }

  /// The same with A frozen, and a gate that reads x with it: B, and a gate that reads A x, get the bits they get in
  /// backward(), dx too, and nothing is added to the others. Needs no x: between the passes the host keeps none of the
  /// layer's input, only the cache's few numbers per token.
  ///
  /// Source   LoRA-FA, Zhang et al. 2023, arXiv:2308.03303.
  void backward_frozen_A(ConstTokens<Scalar> dy, const Cache& cache, Gradients& g, Tokens<Scalar> dx,
                         const CallOptions<Scalar>& options = {}) const {
    check_backward(dy, cache, g, &dx, options);
    if (dy.tokens() == 0) return;
    add_backward(nullptr, dy, cache, g, &dx, options);
  }

 protected:
  /// ω of every token: kept = [H; logits …] becomes [H; Ω …].
  void weigh_heads(Tokens<Scalar> kept, const CallOptions<Scalar>& options) const {
    const Tokens<Scalar> weights = kept.rows(this->shape().a_rows, this->shape().weight_rows);
    if (this->config().routing == Routing::uniform) weights.matrix().setOnes();
    if (this->config().routing == Routing::given) weights.matrix() = options.weights.matrix();
    if (this->config().routing != Routing::learned) return;
    gate_forward<Scalar>(this->config().gate, gate_tensors(kept), kept.rows(0, this->shape().a_rows), options.segments);
  }

  /// From dω in dkept = [dH; dΩ] to what reaches h and the logits.
  void weigh_heads_backward(ConstTokens<Scalar> kept, Tokens<Scalar> dkept, Stack<Scalar> dgate,
                            const CallOptions<Scalar>& options) const {
    const Index a_rows = this->shape().a_rows;
    const Tokens<Scalar> dweights = dkept.rows(a_rows, this->shape().weight_rows);
    if (this->config().routing == Routing::given && options.weights_gradient.tokens() > 0) {
      options.weights_gradient.matrix() += dweights.matrix();
    }
    if (this->config().routing != Routing::learned) return;
    gate_backward<Scalar>(this->config().gate, gate_tensors(kept), kept.rows(0, a_rows), options.segments,
                          options.logits_gradient, dweights, dgate, dkept.rows(0, a_rows));
  }

 private:
  template <class>
  friend class hydralora::SlicedForward;
  template <class>
  friend class hydralora::SlicedBackward;

  const Layer& layer() const { return static_cast<const Layer&>(*this); }

  // The layer's own steps; sliced.hpp comes in here too.
  template <class... Arguments>
  void forward_step(const Arguments&... arguments) const {
    layer().add_forward(arguments...);
  }
  template <class... Arguments>
  void backward_tokens_step(const Arguments&... arguments) const {
    layer().backward_tokens(arguments...);
  }
  template <class... Arguments>
  void backward_up_step(const Arguments&... arguments) const {
    layer().backward_up(arguments...);
  }

  template <class View>
  auto gate_tensors(View kept) const {
    const AdapterShape& s = this->shape();
    const Index first = s.a_rows + s.weight_rows;
    return GateTensors<Scalar, View>{this->gate_stack(), kept.rows(s.a_rows, s.weight_rows),
                                     kept.rows(first, s.probability_rows),
                                     kept.rows(first + s.probability_rows, s.partition_rows)};
  }

  /// @param x  nullptr where the down stack is frozen.
  void add_backward(const ConstTokens<Scalar>* x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g,
                    const Tokens<Scalar>* dx, const CallOptions<Scalar>& options) const {
    ScratchFrame scratch;
    const Index a_rows = this->shape().a_rows;
    const Tokens<Scalar> dkept = scratch.take_tokens<Scalar>(this->shape().kept_rows(), dy.tokens());
    const ConstTokens<Scalar> dp = dkept.rows(0, this->shape().down_rows());
    CallOptions<Scalar> with_segments = options;
    with_segments.segments = cache.segments_;
    layer().backward_tokens(dy, cache.kept(), dkept, g.gate_stack(), with_segments);
    layer().backward_up(dy, cache.h(), cache.weights(), g.up_stack());
    if (x != nullptr) project_down_gradient<Scalar>(a_rows, dropout(cache), *x, dp, g.down_stack());
    if (dx != nullptr) project_down_backward<Scalar>(this->down_stack(), a_rows, dropout(cache), dp, *dx);
  }

  Dropout dropout(const Cache& cache) const {
    return {this->config().dropout, layer_random(seed_, RandomStream::dropout), cache.step_, cache.first_token_};
  }

  /// Weights must come exactly where the layer takes them: ignoring them in silence would train something else.
  void check_weights(const char* where, const char* what, ConstTokens<Scalar> weights, Index tokens,
                     bool required) const {
    if (!this->shape().takes_weights) {
      expects(weights.features() == 0, this->shape().layer, where, what, " are ", weights.shape(),
              ", but this layer takes none (only one with Routing::given does)");
    } else if (required || weights.features() != 0 || weights.tokens() != 0) {
      expects(tokens == 0 || weights.shape() == Shape{this->shape().heads, tokens}, this->shape().layer, where, what,
              " are ", weights.shape(), ", expected ", Shape{this->shape().heads, tokens}, " (heads x tokens)");
    }
  }

  void check_shape(const char* where, const char* what, Shape actual, Index features, Index tokens,
                   const char* meaning) const {
    expects(actual == Shape{features, tokens}, this->shape().layer, where, what, " is ", actual, ", expected ",
            Shape{features, tokens}, " (", meaning, " x tokens)");
  }

  void check_forward(ConstTokens<Scalar> x, Tokens<Scalar> y, const CallOptions<Scalar>& options) const {
    constexpr auto where = "::forward: ";
    check_shape(where, "x", x.shape(), this->shape().in, x.tokens(), "in_features");
    check_shape(where, "y", y.shape(), this->shape().out, x.tokens(), "out_features");
    expects(!overlap<Scalar>(x, y), this->shape().layer, where, "x ", x.shape(), " and y ", y.shape(), " overlap");
    check_weights(where, "weights", options.weights, x.tokens(), true);
    expects(!overlap<Scalar>(options.weights, y), this->shape().layer, where, "weights ", options.weights.shape(),
            " and y ", y.shape(), " overlap");
    check_segments(options.segments, x.tokens());
  }

  void check_segments(Segments segments, Index tokens) const {
    if (segments.count == 0) return;
    constexpr auto where = "::forward: ";
    expects(segments.count > 0 && segments.lengths != nullptr, this->shape().layer, where, "segments: ", segments.count,
            " lengths", segments.lengths == nullptr ? " (null)" : "");
    Index left = tokens;
    for (Index i = 0; i < segments.count; ++i) {
      const Index length = segments.lengths[i];
      expects(length >= 0, this->shape().layer, where, "segment ", i, " has length ", length);
      expects(length <= left, this->shape().layer, where, "segments 0 to ", i, " hold more than the ", tokens,
              " tokens");
      left -= length;
    }
    expects(left == 0, this->shape().layer, where, "the segments hold ", tokens - left, " of ", tokens, " tokens");
  }

  void check_backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, const Gradients& g,
                      const Tokens<Scalar>* dx, const CallOptions<Scalar>& options) const {
    constexpr auto where = "::backward: ";
    const AdapterShape& shape = this->shape();
    check_shape(where, "x", x.shape(), shape.in, x.tokens(), "in_features");
    check_shape(where, "dy", dy.shape(), shape.out, x.tokens(), "out_features");
    expects(!overlap<Scalar>(options.weights_gradient, x), shape.layer, where, "weights_gradient ",
            options.weights_gradient.shape(), " overlaps x or dy");
    check_backward(dy, cache, g, dx, options);
    if (dx == nullptr) return;
    expects(!overlap<Scalar>(*dx, x), shape.layer, where, "dx ", dx->shape(), " and x ", x.shape(), " overlap");
  }

  /// What can be checked without x.
  void check_backward(ConstTokens<Scalar> dy, const Cache& cache, const Gradients& g, const Tokens<Scalar>* dx,
                      const CallOptions<Scalar>& options) const {
    constexpr auto where = "::backward: ";
    const AdapterShape& shape = this->shape();
    const Index tokens = dy.tokens();
    check_shape(where, "dy", dy.shape(), shape.out, tokens, "out_features");
    expects(cache.shape_ == shape && cache.tokens_ == tokens, shape.layer, where, "the cache is from ", cache.shape_,
            " with ", cache.tokens_, " tokens, expected ", shape, " with ", tokens, " tokens");
    expects(g.shape() == shape, shape.layer, where, "the gradients are for ", g.shape(), ", expected ", shape);
    check_weights(where, "weights_gradient", options.weights_gradient, tokens, false);
    expects(!overlap<Scalar>(options.weights_gradient, dy), shape.layer, where, "weights_gradient ",
            options.weights_gradient.shape(), " overlaps x or dy");
    const ConstTokens<Scalar> logits_gradient = options.logits_gradient;
    if (logits_gradient.features() > 0 || logits_gradient.tokens() > 0) {
      expects(shape.gated(), shape.layer, where, "logits_gradient is ", logits_gradient.shape(),
              ", but this layer has no gate");
      check_shape(where, "logits_gradient", logits_gradient.shape(), shape.heads, tokens, "heads");
      expects(dx == nullptr || !overlap<Scalar>(logits_gradient, *dx), shape.layer, where, "logits_gradient ",
              logits_gradient.shape(), " overlaps dx");
    }
    if (dx == nullptr) return;
    check_shape(where, "dx", dx->shape(), shape.in, tokens, "in_features");
    expects(!overlap<Scalar>(*dx, dy), shape.layer, where, "dx ", dx->shape(), " and dy ", dy.shape(), " overlap");
    expects(!overlap<Scalar>(*dx, options.weights_gradient), shape.layer, where, "dx ", dx->shape(),
            " and weights_gradient ", options.weights_gradient.shape(), " overlap");
  }

  std::uint64_t seed_;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
