// SPDX-License-Identifier: MIT
//
// HydraLoRA: one A for what the tasks share, N heads B_i for what sets them apart, and a router that mixes the heads
// anew for every token.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/layers/adapter_layer.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What a HydraLoRA is made of; checked by the layer.
struct HydraLoRAConfig {
  Index in_features = 0;         ///< of x
  Index out_features = 0;        ///< of y
  Index rank = 8;                ///< of A and of each B_i
  double alpha = 16;             ///< s = alpha / rank
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;  ///< probability that a feature on its way into A is dropped in training; the gate sees all
  Index heads = 4;     ///< N; one head is exactly LoRA
  Routing routing = Routing::learned;  ///< where ω comes from
  GateConfig gate = {};                ///< for Routing::learned
};

/// The sizes of its tensors and cache.
inline AdapterShape shape_of(const HydraLoRAConfig& c) {
  AdapterShape shape{"HydraLoRA",
                     c.in_features,
                     c.out_features,
                     c.rank,
                     c.heads,
                     /*a_rows=*/c.rank,
                     /*gate_rows=*/0,
                     /*weight_rows=*/c.heads};
  detail::add_gate(shape, c.routing, c.gate);
  return shape;
}

/// Refuses what makes no sense in this layer only. @throws std::invalid_argument with the reason.
inline void check_own_settings(const HydraLoRAConfig& c) {
  detail::check_gate("HydraLoRA", c.gate, c.routing, c.heads, c.dropout);
}

/// The matrices of a HydraLoRA, as parameters or as gradients: maps into the flat buffer, by value, assignable.
template <class Scalar>
class HydraLoRATensors : public detail::AdapterTensors<Scalar, HydraLoRAConfig> {
  using Base = detail::AdapterTensors<Scalar, HydraLoRAConfig>;

 public:
  auto A() { return this->down_matrix(0, this->shape().rank); }  ///< rank × in_features, shared by the heads
  auto A() const { return this->down_matrix(0, this->shape().rank); }
  auto B(Index head) { return this->head_matrix(head); }  ///< out_features × rank
  auto B(Index head) const { return this->head_matrix(head); }
  auto gate() { return this->gate_matrix(); }  ///< heads × in_features; where it reads A x, heads × rank
  auto gate() const { return this->gate_matrix(); }

 protected:
  using Base::Base;

  void initialize_tensors(std::uint64_t seed) {
    detail::kaiming_uniform<Scalar>(A(), detail::layer_random(seed, detail::RandomStream::A));
    detail::kaiming_uniform<Scalar>(gate(), detail::layer_random(seed, detail::RandomStream::gate));
    this->up_parameters().setZero();
  }
};

/// One shared down-projection, N routed heads:  y += s · Σ_i ω_i(x) B_i A x,  ω(x) = softmax(G x).
///
/// Source    Tian et al. 2024, arXiv:2404.19245, eq. (4) and (5), with the gate on the layer's input as released. Other
///           gates: GateConfig (layers/gate.hpp), or weights from the caller.
/// forward   [h; ℓ] = [A; G] x     ω = softmax(ℓ)     u_i = ω_i h     y += s [B_1 … B_N] u
/// backward  V = s [B_1 … B_N]ᵀ dY                    dB_i += s dY U_iᵀ
///           dω_i = ⟨V_i, h⟩     dh = Σ_i ω_i V_i     dℓ = ω ∘ (dω − ⟨ω, dω⟩)
///           [dA; dG] += [dH; dL] Xᵀ                  dX += [A; G]ᵀ [dH; dL]
///
/// Kept for backward: H and Ω, rank + heads numbers per token; U is mixed again. The rest of the contract is at
/// forward() and backward() of the base.
template <class Scalar = float>
class HydraLoRA : public detail::AdapterLayer<HydraLoRA<Scalar>, HydraLoRATensors<Scalar>> {
  using Base = detail::AdapterLayer<HydraLoRA<Scalar>, HydraLoRATensors<Scalar>>;
  friend Base;

 public:
  using Base::Base;
  using typename Base::Cache;      ///< what forward() keeps for backward()
  using typename Base::Gradients;  ///< of the parameters, with their accessors

 private:
  void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Tokens<Scalar> kept, const detail::Dropout& dropout,
                   const CallOptions<Scalar>& options) const {
    const Index rank = this->shape().rank, heads = this->shape().heads;
    const Tokens<Scalar> h = kept.rows(0, rank), weights = kept.rows(rank, heads);

    // [h; ℓ] = [A; G] x; the logits land where the weights are kept
    detail::project_down(this->down_stack(), rank, dropout, x, kept.rows(0, this->shape().down_rows()));
    this->weigh_heads(kept, options);  // ω = softmax(ℓ)
    if (this->config().gate.granularity == GateGranularity::segment) {
      return add_segments(h, weights, options.segments, y);
    }
    add_heads(h, weights, y);
  }

  void add_heads(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> y) const {
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(this->shape().up_rows(), y.tokens());
    kernels::mix_heads<Scalar>(h, weights, u);                         // u_i = ω_i h
    kernels::expand<Scalar>(this->up_stack(), u, this->scaling(), y);  // y += s [B_1 … B_N] u
  }

  /// The tokens of a segment share ω:  B̄ = Σ_i ω_i B_i,  y += s B̄ h,  where that is less work than head by head.
  void add_segments(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Segments segments, Tokens<Scalar> y) const {
    const AdapterShape& shape = this->shape();
    // In units of 2 · rank · out flop: forming B̄ takes N, a token then 1 instead of N.
    const auto combines = [&](Index count) { return shape.heads + count < shape.heads * count; };
    ScratchFrame scratch;
    const Tokens<Scalar> columns = scratch.take_tokens<Scalar>(shape.out, shape.rank);
    const Stack<Scalar> mean{columns.data(), shape.rank, shape.out, columns.stride(), 1};
    const ConstStack<Scalar> read_mean{mean.data, mean.rows, mean.features, mean.row_stride, 1};

    // What the segments take one after another is reserved at once: memory that runs out leaves y as it was.
    Index most = 0;
    detail::for_each_segment(segments, y.tokens(), [&](Index, Index count) {
      constexpr Index line = cache_line<Scalar>;  // a piece of scratch begins at one
      most = std::max(most, combines(count)
                                ? kernels::expand_scratch(read_mean, count)
                                : shape.up_rows() * count + line + kernels::expand_scratch(this->up_stack(), count));
    });
    { ScratchFrame().template take<Scalar>(most); }

    detail::for_each_segment(segments, y.tokens(), [&](Index first, Index count) {
      const auto slice = [&](const auto& view) { return view.slice(first, count); };
      if (!combines(count)) return add_heads(slice(h), slice(weights), slice(y));
      kernels::combine_heads<Scalar>(this->up_stack(), weights.slice(first, 1), mean);
      kernels::expand<Scalar>(read_mean, slice(h), this->scaling(), slice(y));
    });
  }

  /// From dY to what reaches [h; ℓ] of these tokens.
  void backward_tokens(ConstTokens<Scalar> dy, ConstTokens<Scalar> kept, Tokens<Scalar> dkept, Stack<Scalar> dgate,
                       const CallOptions<Scalar>& options) const {
    const Index rank = this->shape().rank, heads = this->shape().heads;
    const ConstTokens<Scalar> h = kept.rows(0, rank), weights = kept.rows(rank, heads);
    const Tokens<Scalar> dh = dkept.rows(0, rank), dweights = dkept.rows(rank, heads);
    ScratchFrame scratch;
    const Tokens<Scalar> v = scratch.take_tokens<Scalar>(heads * rank, dy.tokens());

    kernels::shrink(this->up_stack(), dy, this->scaling(), v);                                     // V = s [B_1 … B_N]ᵀ dY
    kernels::mix_heads_backward<Scalar>(v, h, weights, dweights, dh);  // dω_i = ⟨V_i, h⟩,  dh = Σ_i ω_i V_i
    this->weigh_heads_backward(kept, dkept, dgate, options);           // dℓ = ω ∘ (dω − ⟨ω, dω⟩)
  }

  /// From dY to the gradients of B, for the features of dY.
  void backward_up(ConstTokens<Scalar> dy, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                   Stack<Scalar> dup) const {
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(dup.rows, dy.tokens());
    kernels::mix_heads(h, weights, u);                         // u_i = ω_i h
    kernels::accumulate<Scalar>(u, dy, this->scaling(), dup);  // dB_i += s dY U_iᵀ
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
