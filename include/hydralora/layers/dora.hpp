// SPDX-License-Identifier: MIT
// DoRA: a LoRA changes the direction of a weight's rows, a trained magnitude their length.
#pragma once

#include <cstdint>
#include <utility>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/layers/frozen_linear.hpp"
#include "hydralora/layers/lora.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A frozen dense weight whose rows are changed by a LoRA and scaled to trained magnitudes m:
///   y += (m / c) ∘ (W x + s B A x),  c_o = ‖row o of W + s B A‖.
/// A new one computes the same as the base: m starts as the norms of W's rows, B as 0.
/// Source    Liu et al. 2024, arXiv:2402.09353, eq. (5); c is constant in backward, as in its section 4.3.
/// forward   z = W x + s B A x     y += (m / c) ∘ z
/// backward  dm += Σ_t dy ∘ z / c     dz = (m / c) ∘ dy     then backward of the LoRA and the base with dz
///
/// c without forming ΔW:  c_o² = ‖w_o‖² + 2 s ⟨b_o, (W Aᵀ)_o⟩ + s² b_oᵀ (A Aᵀ) b_o. Every forward() computes it, at the
/// cost of a forward pass of `rank` tokens. It includes the base. The cache holds z, (out × tokens).
template <class Scalar = float>
class DoRALinear {
 public:
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  struct Gradients {
    typename LoRA<Scalar>::Gradients adapter;
    Vector magnitude;  ///< dm, (out_features)

    explicit Gradients(const LoRAConfig& config) : adapter(config), magnitude(Vector::Zero(config.out_features)) {}
    void set_zero() {
      adapter.set_zero();
      magnitude.setZero();
    }
  };

  /// What forward() saves for backward(). Reusable, grows, never shrinks.
  class Cache {
   public:
    Index tokens() const { return adapter_.tokens(); }

   private:
    friend class DoRALinear;
    typename LoRA<Scalar>::Cache adapter_;
    AlignedVector<Scalar> values_;  // z, then c
  };

  DenseLinear<Scalar> base;  ///< its weight must not change: the norms of its rows are computed once
  LoRA<Scalar> adapter;
  Vector magnitude;  ///< m, trained together with adapter.parameters()

  /// @throws std::invalid_argument  if the config is invalid or does not match the weight's shape.
  DoRALinear(DenseLinear<Scalar> base_layer, const LoRAConfig& config, std::uint64_t seed = 0)
      : base(std::move(base_layer)), adapter(config, seed) {
    const Shape weight{base.out_features(), base.in_features()}, delta{adapter.shape().out, adapter.shape().in};
    expects(weight == delta, "DoRALinear: the base's weight is ", weight, ", the adapter's is ", delta);
    squares_ = base.weight().rowwise().squaredNorm();
    magnitude = squares_.cwiseSqrt();
  }

  /// c, (out_features), of the current parameters.
  Vector norms() const {
    Vector c(base.out_features());
    norms(Tokens<Scalar>(c.data(), c.size(), 1));
    return c;
  }
  /// y += (m / c) ∘ (W x + s B A x).
  /// @param x        (in_features × tokens), read.
  /// @param y        (out_features × tokens), ADDED to. Must not overlap x.
  /// @param cache    OVERWRITTEN with what backward() needs. A call without a cache is inference: no dropout.
  /// @param options  as in LoRA::forward().
  /// @throws std::invalid_argument  on a shape mismatch or overlap; y and the cache are then untouched.
  /// Numerics as DenseLinear. A zero row of W + s B A gives NaN.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Cache& cache, const CallOptions<Scalar>& options = {}) const {
    const Index out = base.out_features(), tokens = x.tokens();
    check_forward(x, y);
    const auto needed = static_cast<std::size_t>(checked_product(out, tokens + 1, "DoRALinear: cache"));
    if (cache.values_.size() < needed) cache.values_.resize(needed);
    const Tokens<Scalar> z(cache.values_.data(), out, tokens), c(cache.values_.data() + out * tokens, out, 1);
    z.matrix().setZero();
    adapter.forward(x, z, cache.adapter_, options);
    finish(x, y, z, c);
  }
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y) const {
    check_forward(x, y);
    ScratchFrame scratch;
    const Tokens<Scalar> z = scratch.take_tokens<Scalar>(y.features(), y.tokens());
    const Tokens<Scalar> c = scratch.take_tokens<Scalar>(y.features(), 1);
    z.matrix().setZero();
    adapter.forward(x, z);
    finish(x, y, z, c);
  }
  /// @param x        as in forward(), read.
  /// @param dy       (out_features × tokens), read.
  /// @param cache    filled by forward() on the same x, with the same parameters.
  /// @param g        ADDED to.
  /// @param dx       (in_features × tokens), ADDED to, including Wᵀ dz of the base. Must overlap neither x nor dy.
  /// @param options  as in LoRA::backward().
  /// @throws std::invalid_argument  on a mismatch of shapes, cache or gradients, or overlap; nothing is then written.
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache, Gradients& g, Tokens<Scalar> dx,
                const CallOptions<Scalar>& options = {}) const {
    const Index out = base.out_features(), tokens = dy.tokens();
    constexpr auto where = "DoRALinear::backward";
    expects_shape(where, "dy", dy.shape(), Shape{out, x.tokens()}, "out_features x tokens");
    expects_shape(where, "the gradient of the magnitude", Shape{g.magnitude.size(), 1}, Shape{out, 1},
                  "out_features x 1");
    expects(!overlap<Scalar>(dx, dy), where, ": dx ", dx.shape(), " and dy ", dy.shape(), " overlap");
    expects(cache.tokens() == tokens, where, ": the cache holds ", cache.tokens(), " tokens, expected ", tokens);
    ScratchFrame scratch;
    const Tokens<Scalar> dz = scratch.take_tokens<Scalar>(out, tokens);
    const ConstTokens<Scalar> z(cache.values_.data(), out, tokens), c(cache.values_.data() + out * tokens, out, 1);
    dz.matrix().array() = dy.matrix().array().colwise() * (magnitude.array() / c.matrix().col(0).array());
    adapter.backward(x, dz, cache.adapter_, g.adapter, dx, options);  // checks the other arguments first
    for (Index t = 0; t < tokens; ++t) {
      g.magnitude.array() += dy.matrix().col(t).array() * z.matrix().col(t).array() / c.matrix().col(0).array();
    }
    base.backward(dz, dx);
  }

 private:
  void check_forward(ConstTokens<Scalar> x, Tokens<Scalar> y) const {
    constexpr auto where = "DoRALinear::forward";
    expects_shape(where, "x", x.shape(), Shape{base.in_features(), x.tokens()}, "in_features x tokens");
    expects_shape(where, "y", y.shape(), Shape{base.out_features(), x.tokens()}, "out_features x tokens");
    expects(!overlap<Scalar>(x, y), where, ": x ", x.shape(), " and y ", y.shape(), " overlap");
  }
  /// @param z  holds s B A x.
  void finish(ConstTokens<Scalar> x, Tokens<Scalar> y, Tokens<Scalar> z, Tokens<Scalar> c) const {
    norms(c);
    base.forward(x, z);
    y.matrix().array() += z.matrix().array().colwise() * (magnitude.array() / c.matrix().col(0).array());
  }
  void norms(Tokens<Scalar> c) const {
    const Index out = base.out_features(), rank = adapter.shape().rank;
    const Scalar s = adapter.scaling();
    ScratchFrame scratch;
    const Tokens<Scalar> turned = scratch.take_tokens<Scalar>(base.in_features(), rank);  // Aᵀ
    const Tokens<Scalar> cross = scratch.take_tokens<Scalar>(out, rank);                  // W Aᵀ + s/2 · B A Aᵀ
    turned.matrix() = adapter.A().transpose();
    cross.matrix().setZero();
    base.forward(turned, cross);
    const Tokens<Scalar> gram = scratch.take_tokens<Scalar>(rank, rank);  // A Aᵀ
    kernels::shrink<Scalar>(std::as_const(adapter).down_stack(), turned, Scalar(1), gram);
    kernels::expand<Scalar>(std::as_const(adapter).up_stack(), gram, s / 2, cross);
    c.matrix().col(0) = squares_;
    for (Index k = 0; k < rank; ++k) {
      c.matrix().col(0) += 2 * s * adapter.B().col(k).cwiseProduct(cross.matrix().col(k));
    }
    c.matrix() = c.matrix().cwiseMax(Scalar(0)).cwiseSqrt();
  }

  Vector squares_;  // ‖w_o‖²
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
