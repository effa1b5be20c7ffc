// SPDX-License-Identifier: MIT
// The layer: parameters, construction, checks and cache. What it computes is in formula.hpp.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/layers/adapter_cache.hpp"
#include "hydralora/layers/adapter_checks.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/call_options.hpp"
#include "hydralora/layers/formula.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The gradients of a layer: tensors of the same shapes with the same accessors.
template <class Scalar, class Middle>
class AdapterGradients : public AdapterTensors<Scalar, Middle> {
  using Base = AdapterTensors<Scalar, Middle>;

 public:
  explicit AdapterGradients(const typename Middle::Config& config) : Base(config) {}
  /// Gradients in the host's memory (an optimiser's, an all-reduce buffer): parameter_count() numbers.
  AdapterGradients(const typename Middle::Config& config, ParameterMap<Scalar> lent) : Base(config, lent) {}
  void set_zero() { this->parameters().setZero(); }
};

/// An adapter, y += s · [B_1 … B_N] u with u = middle(A x): LoRA, SplitLoRA, HydraLoRA, SharedBLoRA, or a layer with
/// a user's middle (docs/adding-a-layer.md).
/// @tparam ScalarType      of the parameters
/// @tparam ActivationType  of x, y, dy and dx. Eigen::bfloat16 and Eigen::half are possible for both: all between, the
///                         gradients and the options are then float, and y and dx are rounded once, with dropout twice.
template <class ScalarType, class MiddleType, class ActivationType = ScalarType>
class Adapter : public AdapterTensors<ScalarType, MiddleType> {
  using Base = AdapterTensors<ScalarType, MiddleType>;

 public:
  using Scalar = ScalarType;
  using Activation = ActivationType;
  using Sum = sum_t<Scalar>;  ///< of all that is computed
  static_assert(std::is_same_v<Sum, sum_t<Activation>>, "hydralora: these parameters and activations do not multiply");
  using Middle = MiddleType;
  using Config = typename Middle::Config;
  using Cache = AdapterCache<Sum>;
  using Gradients = AdapterGradients<Sum, Middle>;

  /// A and the gate kaiming-uniform (a = √5) from the seed, B = 0: a new adapter adds nothing.
  /// @throws std::invalid_argument  a size below 1, alpha not finite, dropout outside [0, 1), an invalid gate.
  explicit Adapter(const Config& config, std::uint64_t seed = 0)
      : Base(config), middle_(make_middle(config)), seed_(seed) {
    initialize();
  }

  /// Parameters in the host's memory, taken as they are; initialize() overwrites them. The memory must outlive the
  /// layer, and copies of the layer share it. The seed serves initialize() and dropout.
  /// @throws std::invalid_argument  as above, or where the buffer's size is not parameter_count().
  Adapter(const Config& config, ParameterMap<Scalar> lent, std::uint64_t seed = 0)
      : Base(config, lent), middle_(make_middle(config)), seed_(seed) {}

  /// Overwrites the parameters with those of a new layer with this seed.
  void initialize() { this->initialize_tensors(seed_); }

  Sum scaling() const { return Sum(static_cast<real_t<Sum>>(scaling_of(this->config()))); }  ///< s
  std::uint64_t seed() const { return seed_; }  ///< of initialize() and dropout

  /// y += ΔW(x), for every token (column) x, by the layer's formula.
  /// @param x       (in_features × tokens), read. tokens = 0 is a no-op.
  /// @param y       (out_features × tokens), ADDED to: the host writes W x first. Must not overlap x.
  /// @param cache   OVERWRITTEN with what backward() needs. A call without a cache is inference: no dropout.
  /// @param options  the step of dropout, weights of the heads, segments: see CallOptions.
  /// @throws std::invalid_argument  on a shape mismatch; y and the cache are then untouched.
  /// Cost     2 flop per token and parameter; allocates only where the cache or the thread's scratch must grow.
  /// Numerics a token's bits do not depend on other tokens (if a gate pools: of other segments) or the threads.
  ///          Thread-safe.
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, Cache& cache,
               const CallOptions<Sum>& options = {}) const {
    detail::check_forward<Activation>(this->shape(), x, y, options);
    const auto pass = cache.begin(this->shape(), x.tokens(), dropout(options), options.segments);
    if (x.tokens() == 0) return;
    formula().forward(x, y, pass, options);
    cache.end(x.tokens());
  }
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, const CallOptions<Sum>& options = {}) const {
    detail::check_forward<Activation>(this->shape(), x, y, options);
    if (x.tokens() == 0) return;
    ScratchFrame scratch;
    const Tokens<Sum> saved = scratch.take_tokens<Sum>(this->shape().saved_rows(), x.tokens());
    formula().forward(x, y, {saved, detail::Dropout{}, options.segments}, options);
  }

  /// The gradients of a loss whose gradient with respect to y is dy.
  /// @param x      (in_features × tokens), as in forward(), read.
  /// @param dy     (out_features × tokens), read.
  /// @param cache  filled by forward() on the same x.
  /// @param g      ADDED to.
  /// @param dx     (in_features × tokens), ADDED to: the host adds Wᵀ dy. Must overlap neither x nor dy.
  /// @param options  where the gradient of given weights goes, and that of a balance loss comes from: see CallOptions.
  /// @throws std::invalid_argument  on a shape mismatch, a cache of another shape, gate or dropout, or gradients of
  ///                                another shape; nothing is written.
  /// Cost     4 flop per token and parameter. Dropout draws its mask again.
  /// Numerics dx as y in forward(); the bits of g do not depend on the number of threads. Thread-safe for different g.
  void backward(ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache, Gradients& g,
                Tokens<Activation> dx, const CallOptions<Sum>& options = {}) const {
    detail::check_backward<Activation>(this->shape(), dropout(options), x, dy, cache, g.shape(), dx, options);
    check_dx(dx, dy.tokens());
    if (dy.tokens() > 0) formula().backward(x, dy, cache.pass(), g, dx, options);
  }
  /// backward() without dx.
  void backward(ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache, Gradients& g,
                const CallOptions<Sum>& options = {}) const {
    detail::check_backward<Activation>(this->shape(), dropout(options), x, dy, cache, g.shape(), {}, options);
    if (dy.tokens() > 0) formula().backward(x, dy, cache.pass(), g, {}, options);
  }

  /// backward() with A frozen, and with it a gate that reads x. B, a gate that reads A x, and dx get the same bits as
  /// from backward(); the frozen gradients stay as they are. It needs no x, so the host need not store the layer's
  /// input. Source: LoRA-FA, Zhang et al. 2023, arXiv:2308.03303.
  void backward_frozen_A(ConstTokens<Activation> dy, const Cache& cache, Gradients& g, Tokens<Activation> dx,
                         const CallOptions<Sum>& options = {}) const {
    detail::check_backward<Activation>(this->shape(), dropout(options), dy, cache, g.shape(), dx, options);
    check_dx(dx, dy.tokens());
    if (dy.tokens() > 0) formula().backward({}, dy, cache.pass(), g, dx, options);
  }

  /// The steps of a pass, for code that runs them one by one (sliced.hpp). Refers to the layer.
  Formula<Scalar, Middle, Activation> formula() const { return {*this, middle_, scaling()}; }
  /// The dropout of a pass with a cache.
  detail::Dropout dropout(const CallOptions<Sum>& options) const {
    return {this->config().dropout, detail::layer_random(seed_, detail::RandomStream::dropout), options.step,
            options.first_token};
  }

 private:
  static Middle make_middle([[maybe_unused]] const Config& config) {
    if constexpr (std::is_constructible_v<Middle, const Config&>) {
      return Middle(config);
    } else {
      return Middle();
    }
  }
  void check_dx(Tokens<Activation> dx, Index tokens) const {
    detail::check_view(this->shape(), "::backward: ", "dx", dx.shape(), {this->shape().in, tokens}, "in_features");
  }

  Middle middle_;
  std::uint64_t seed_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
