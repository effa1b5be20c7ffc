// SPDX-License-Identifier: MIT
//
// SplitLoRA: N independent low-rank pairs side by side, summed, routed by a gate (known as LoRAMoE or MoLoRA), or
// weighted by the caller.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/layers/adapter_layer.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What a SplitLoRA is made of; checked by the layer.
struct SplitLoRAConfig {
  Index in_features = 0;         ///< of x
  Index out_features = 0;        ///< of y
  Index rank = 8;                ///< of each head
  double alpha = 16;             ///< s = alpha / rank
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;            ///< probability that a feature on its way into the A_i is dropped; the gate sees all
  Index heads = 4;               ///< N; one head is exactly LoRA
  Routing routing = Routing::uniform;  ///< uniform is exactly one LoRA of rank heads · rank with the same scaling
  GateConfig gate = {};                ///< for Routing::learned
};

/// The sizes of its tensors and cache.
inline AdapterShape shape_of(const SplitLoRAConfig& c) {
  const Index a_rows = checked_product(std::max<Index>(c.heads, 0), std::max<Index>(c.rank, 0), "SplitLoRA");
  AdapterShape shape{"SplitLoRA",
                     c.in_features,
                     c.out_features,
                     c.rank,
                     c.heads,
                     a_rows,
                     /*gate_rows=*/0,
                     /*weight_rows=*/c.routing == Routing::uniform ? 0 : c.heads};
  detail::add_gate(shape, c.routing, c.gate);
  return shape;
}

/// Refuses what makes no sense in this layer only. @throws std::invalid_argument with the reason.
inline void check_own_settings(const SplitLoRAConfig& c) {
  detail::check_gate("SplitLoRA", c.gate, c.routing, c.heads, c.dropout);
}

/// The matrices of a SplitLoRA, as parameters or as gradients: maps into the flat buffer, by value, assignable.
template <class Scalar>
class SplitLoRATensors : public detail::AdapterTensors<Scalar, SplitLoRAConfig> {
  using Base = detail::AdapterTensors<Scalar, SplitLoRAConfig>;

 public:
  auto A(Index head) { return this->head_rows(head); }  ///< rank × in_features
  auto A(Index head) const { return this->head_rows(head); }
  auto B(Index head) { return this->head_matrix(head); }  ///< out_features × rank
  auto B(Index head) const { return this->head_matrix(head); }
  /// heads × in_features with Routing::learned (where it reads A x, heads × heads · rank), else 0 × in_features.
  auto gate() { return this->gate_matrix(); }
  auto gate() const { return this->gate_matrix(); }

 protected:
  using Base::Base;

  void initialize_tensors(std::uint64_t seed) {
    for (Index head = 0; head < this->shape().heads; ++head) {
      detail::kaiming_uniform<Scalar>(A(head), detail::layer_random(seed, detail::RandomStream::A), head);
    }
    detail::kaiming_uniform<Scalar>(gate(), detail::layer_random(seed, detail::RandomStream::gate));
    this->up_parameters().setZero();
  }
};

/// N independent pairs:  y += s · Σ_i ω_i B_i A_i x.
///
/// Source    the multi-LoRA baseline of HydraLoRA, arXiv:2404.19245, section 2; learned: LoRAMoE, arXiv:2312.09979.
/// forward   [h_1 … h_N; ℓ] = [A_1 … A_N; G] x     ω by Routing     u_i = ω_i h_i     y += s [B_1 … B_N] u
/// backward  V = s [B_1 … B_N]ᵀ dY     dB_i += s dY U_iᵀ     dω_i = ⟨V_i, h_i⟩     dh_i = ω_i V_i
///           learned: dℓ = ω ∘ (dω − ⟨ω, dω⟩), or as GateConfig says     given: dω is handed back in CallOptions::weights_gradient
///           [dA_1 … dA_N; dG] += [dH; dL] Xᵀ     dX += [A_1 … A_N; G]ᵀ [dH; dL]
///
/// Kept for backward: heads · rank numbers per token, and the heads weights where they are not all 1. The rest of the
/// contract is at forward() and backward() of the base.
template <class Scalar = float>
class SplitLoRA : public detail::AdapterLayer<SplitLoRA<Scalar>, SplitLoRATensors<Scalar>> {
  using Base = detail::AdapterLayer<SplitLoRA<Scalar>, SplitLoRATensors<Scalar>>;
  friend Base;

 public:
  using Base::Base;
  using typename Base::Cache;      ///< what forward() keeps for backward()
  using typename Base::Gradients;  ///< of the parameters, with their accessors

 private:
  void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Tokens<Scalar> kept, const detail::Dropout& dropout,
                   const CallOptions<Scalar>& options) const {
    const AdapterShape& shape = this->shape();
    const Tokens<Scalar> h = kept.rows(0, shape.a_rows), weights = kept.rows(shape.a_rows, shape.weight_rows);

    // [h; ℓ] = [A_1 … A_N; G] x; with a learned gate the logits land where the weights are kept
    detail::project_down(this->down_stack(), shape.a_rows, dropout, x, kept.rows(0, shape.down_rows()));
    if (this->config().routing == Routing::uniform) {
      return kernels::expand<Scalar>(this->up_stack(), h, this->scaling(), y);  // y += s [B_1 … B_N] h
    }
    this->weigh_heads(kept, options);
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(shape.up_rows(), x.tokens());
    kernels::mix_heads<Scalar>(h, weights, u);                         // u_i = ω_i h_i
    kernels::expand<Scalar>(this->up_stack(), u, this->scaling(), y);  // y += s [B_1 … B_N] u
  }

  /// From dY to what reaches [h_1 … h_N; ℓ] of these tokens.
  void backward_tokens(ConstTokens<Scalar> dy, ConstTokens<Scalar> kept, Tokens<Scalar> dkept, Stack<Scalar> dgate,
                       const CallOptions<Scalar>& options) const {
    const AdapterShape& shape = this->shape();
    const ConstTokens<Scalar> h = kept.rows(0, shape.a_rows), weights = kept.rows(shape.a_rows, shape.weight_rows);
    const Tokens<Scalar> dh = dkept.rows(0, shape.a_rows), dweights = dkept.rows(shape.a_rows, shape.weight_rows);
    ScratchFrame scratch;
    const bool uniform = this->config().routing == Routing::uniform;
    const Tokens<Scalar> v = uniform ? dh : scratch.take_tokens<Scalar>(shape.up_rows(), dy.tokens());

    kernels::shrink(this->up_stack(), dy, this->scaling(), v);  // V = s [B_1 … B_N]ᵀ dY
    if (uniform) return;
    kernels::mix_heads_backward<Scalar>(v, h, weights, dweights, dh);  // dω_i = ⟨V_i, h_i⟩,  dh_i = ω_i V_i
    this->weigh_heads_backward(kept, dkept, dgate, options);
  }

  /// From dY to the gradients of B, for the features of dY.
  void backward_up(ConstTokens<Scalar> dy, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                   Stack<Scalar> dup) const {
    if (this->config().routing == Routing::uniform) {
      return kernels::accumulate<Scalar>(h, dy, this->scaling(), dup);  // dB_i += s dY H_iᵀ
    }
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(dup.rows, dy.tokens());
    kernels::mix_heads(h, weights, u);                         // u_i = ω_i h_i
    kernels::accumulate<Scalar>(u, dy, this->scaling(), dup);  // dB_i += s dY U_iᵀ
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
