// SPDX-License-Identifier: MIT
//
// HydraLoRA: one A for what the tasks share, N heads B_i for what sets them apart, and a router that mixes the heads
// anew for every token.
#pragma once

#include <cstdint>

#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/layers/adapter_layer.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

struct HydraLoRAConfig {
  Index in_features = 0;
  Index out_features = 0;
  Index rank = 8;
  double alpha = 16;
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;  ///< probability that a feature on its way into A is dropped in training; the gate sees all
  Index heads = 4;     ///< N; one head is exactly LoRA
};

inline AdapterShape shape_of(const HydraLoRAConfig& c) {
  return {"HydraLoRA",
          c.in_features,
          c.out_features,
          c.rank,
          c.heads,
          /*a_rows=*/c.rank,
          /*gate_rows=*/c.heads,
          /*weight_rows=*/c.heads};
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
  auto gate() { return this->down_matrix(this->shape().rank, this->shape().heads); }  ///< heads × in_features
  auto gate() const { return this->down_matrix(this->shape().rank, this->shape().heads); }

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
/// Source    Tian et al. 2024, arXiv:2404.19245, eq. (4) and (5), with the gate on the layer's input as released.
/// forward   [h; ℓ] = [A; G] x     ω = softmax(ℓ)     u_i = ω_i h     y += s [B_1 … B_N] u
/// backward  V = s [B_1 … B_N]ᵀ dY                    dB_i += s dY U_iᵀ
///           dω_i = ⟨V_i, h⟩     dh = Σ_i ω_i V_i     dℓ = ω ∘ (dω − ⟨ω, dω⟩)
///           [dA; dG] += [dH; dL] Xᵀ                  dX += [A; G]ᵀ [dH; dL]
/// Kept for backward: H and Ω, rank + heads numbers per token; U is mixed again. The rest of the contract is at
/// forward() and backward() of the base.
template <class Scalar = float>
class HydraLoRA : public detail::AdapterLayer<HydraLoRA<Scalar>, HydraLoRATensors<Scalar>> {
  using Base = detail::AdapterLayer<HydraLoRA<Scalar>, HydraLoRATensors<Scalar>>;
  friend Base;

 public:
  using Base::Base;
  using typename Base::Cache;
  using typename Base::Gradients;

 private:
  void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Tokens<Scalar> kept, const detail::Dropout& dropout,
                   const CallOptions<Scalar>&) const {
    const Index rank = this->shape().rank, heads = this->shape().heads;
    const Tokens<Scalar> h = kept.rows(0, rank), weights = kept.rows(rank, heads);
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(heads * rank, x.tokens());

    detail::project_down(this->down_stack(), rank, dropout, x, kept);  // [h; ℓ] = [A; G] x
    SoftmaxGate::forward(weights);                                     // ω = softmax(ℓ)
    kernels::mix_heads<Scalar>(h, weights, u);                         // u_i = ω_i h
    kernels::expand<Scalar>(this->up_stack(), u, this->scaling(), y);  // y += s [B_1 … B_N] u
  }

  /// From dY to what reaches [h; ℓ] of these tokens.
  void backward_tokens(ConstTokens<Scalar> dy, ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> dkept,
                       const CallOptions<Scalar>&) const {
    const Index rank = this->shape().rank, heads = this->shape().heads;
    const Tokens<Scalar> dh = dkept.rows(0, rank), dlogits = dkept.rows(rank, heads);
    ScratchFrame scratch;
    const Tokens<Scalar> v = scratch.take_tokens<Scalar>(heads * rank, dy.tokens());

    kernels::contract(this->up_stack(), dy, v);
    v.matrix() *= this->scaling();                                    // V = s [B_1 … B_N]ᵀ dY
    kernels::mix_heads_backward<Scalar>(v, h, weights, dlogits, dh);  // dω_i = ⟨V_i, h⟩,  dh = Σ_i ω_i V_i
    SoftmaxGate::backward(weights, dlogits);                          // dℓ = ω ∘ (dω − ⟨ω, dω⟩)
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
