// SPDX-License-Identifier: MIT
// SharedBLoRA: N routed down-projections A_i that share one B. Its paper calls it ALoRA, which is the name of another
// method in PEFT (activated LoRA, arXiv:2504.12397).
#pragma once

#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/layers/heads.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Its routing is Routing::learned by default, and never Routing::uniform.
using SharedBLoRAConfig = HeadsConfig<Shared::B>;

/// SharedBLoRA's middle: u = Σ_i ω_i h_i.
struct SharedBLoRAMiddle : HeadsMiddle<Shared::B> {
  using Linear = SharedBLoRAMiddle;
  static AdapterShape shape(const Config& c) { return heads_shape("SharedBLoRA", c, c.heads); }
  static void check(const AdapterShape& s, const Config& c) {
    expects(c.routing != Routing::uniform, s.layer, ": Routing::uniform would be one LoRA with A = A_1 + ... + A_N");
    HeadsMiddle::check(s, c);
  }
  template <class S>
  void mix(const MiddleInput<S>& in, Tokens<S> u) const {
    kernels::sum_heads<S>(in.h, in.weights, u);  // u = Σ_i ω_i h_i
  }
  template <class S>
  void mix_backward(const MiddleInput<S>& in, ConstTokens<S> v, const MiddleGradient<S>& d) const {
    kernels::sum_heads_backward<S>(v, in.h, in.weights, d.weights, d.h);  // dω_i = ⟨V, h_i⟩,  dh_i = ω_i V
  }
};

/// N routed down-projections, one shared up-projection:  y += s · B Σ_i ω_i(x) A_i x,  ω(x) = softmax(G x).
///
/// Source    Ban and Ji 2025, arXiv:2509.25414, which finds that B learns what tasks share. Gates as in HydraLoRA.
/// forward   [h_1; …; h_N; ℓ] = [A_1; …; A_N; G] x     ω = softmax(ℓ)     u = Σ_i ω_i h_i     y += s B u
/// backward  V = s Bᵀ dY                           dB += s dY Uᵀ
///           dω_i = ⟨V, h_i⟩     dh_i = ω_i V      dℓ = ω ∘ (dω − ⟨ω, dω⟩)
///           [dA_1; …; dA_N; dG] += [dH; dL] Xᵀ      dX += [A_1; …; A_N; G]ᵀ [dH; dL]
///
/// Line by line: formula.hpp. Saved for backward: heads · rank + heads numbers per token; backward computes U again.
/// The members are documented in Adapter.
template <class Scalar = float, class Activation = Scalar>
class SharedBLoRA : public Adapter<Scalar, SharedBLoRAMiddle, Activation> {
 public:
  using Adapter<Scalar, SharedBLoRAMiddle, Activation>::Adapter;
};

/// Former names.
using ALoRAConfig [[deprecated("use SharedBLoRAConfig")]] = SharedBLoRAConfig;
template <class Scalar = float>
using ALoRA [[deprecated("use SharedBLoRA")]] = SharedBLoRA<Scalar>;
[[deprecated("use SharedBLoRAMiddle::shape()")]] inline AdapterShape shape_of(const SharedBLoRAConfig& c) {
  return SharedBLoRAMiddle::shape(c);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
