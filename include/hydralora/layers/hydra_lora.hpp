// SPDX-License-Identifier: MIT
// HydraLoRA: one A for what the tasks share, N heads B_i for their differences, and a router that mixes them per token.
#pragma once

#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/layers/heads.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Routing defaults to Routing::learned.
using HydraLoRAConfig = HeadsConfig<Shared::A>;

/// HydraLoRA's middle: u_i = ω_i h.
struct HydraLoRAMiddle : HeadsMiddle<Shared::A> {
  using Linear = HydraLoRAMiddle;
  using Standard = HydraLoRAMiddle;
  static AdapterShape shape(const Config& c) { return heads_shape("HydraLoRA", c, c.heads); }
  template <class S>
  void mix(const MiddleInput<S>& in, Tokens<S> u) const {
    kernels::mix_heads<S>(in.h, in.weights, u);  // u_i = ω_i h
  }
  template <class S>
  void mix_backward(const MiddleInput<S>& in, ConstTokens<S> v, const MiddleGradient<S>& d) const {
    kernels::mix_heads_backward<S>(v, in.h, in.weights, d.weights, d.h);  // dω_i = ⟨V_i, h⟩,  dh = Σ_i ω_i V_i
  }
};

/// One shared down-projection, N routed heads:  y += s · Σ_i ω_i(x) B_i A x,  ω(x) = softmax(G x).
///
/// Source    Tian et al. 2024, arXiv:2404.19245, eq. (4) and (5), with the gate on the layer's input as released. Other
///           gates: GateConfig (layers/gate_config.hpp), or weights from the caller.
/// forward   [h; ℓ] = [A; G] x     ω = softmax(ℓ)     u_i = ω_i h     y += s [B_1 … B_N] u
/// backward  V = s [B_1 … B_N]ᵀ dY                    dB_i += s dY U_iᵀ
///           dω_i = ⟨V_i, h⟩     dh = Σ_i ω_i V_i     dℓ = ω ∘ (dω − ⟨ω, dω⟩)
///           [dA; dG] += [dH; dL] Xᵀ                  dX += [A; G]ᵀ [dH; dL]
///
/// Line by line: formula.hpp. Saved for backward: H and Ω, rank + heads numbers per token; backward computes U again.
/// The members are documented in Adapter.
template <class Scalar = float, class Activation = Scalar>
class HydraLoRA : public Adapter<Scalar, HydraLoRAMiddle, Activation> {
 public:
  using Adapter<Scalar, HydraLoRAMiddle, Activation>::Adapter;
};

/// A former name.
[[deprecated("use HydraLoRAMiddle::shape()")]] inline AdapterShape shape_of(const HydraLoRAConfig& c) {
  return HydraLoRAMiddle::shape(c);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
