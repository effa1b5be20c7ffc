// SPDX-License-Identifier: MIT
// SplitLoRA: N independent low-rank pairs, summed, routed by a gate (LoRAMoE, MoLoRA), or weighted by the caller.
#pragma once

#include <cmath>

#include "hydralora/core/expects.hpp"
#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/layers/heads.hpp"
#include "hydralora/layers/lora.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Its routing is Routing::uniform by default: exactly one LoRA of rank heads · rank with the same scaling.
using SplitLoRAConfig = HeadsConfig<Shared::nothing>;

/// SplitLoRA's middle: u_i = ω_i h_i.
struct SplitLoRAMiddle : HeadsMiddle<Shared::nothing> {
  using Linear = SplitLoRAMiddle;
  using Standard = SplitLoRAMiddle;
  static AdapterShape shape(const Config& c) {
    const bool weighs = c.routing != Routing::uniform;
    AdapterShape s = heads_shape("SplitLoRA", c, weighs ? c.heads : 0);
    s.mixes = weighs;  // the plain sum has u = h
    return s;
  }
  template <class S>
  void mix(const MiddleInput<S>& in, Tokens<S> u) const {
    kernels::mix_heads<S>(in.h, in.weights, u);  // u_i = ω_i h_i
  }
  template <class S>
  void mix_backward(const MiddleInput<S>& in, ConstTokens<S> v, const MiddleGradient<S>& d) const {
    kernels::mix_heads_backward<S>(v, in.h, in.weights, d.weights, d.h);  // dω_i = ⟨V_i, h_i⟩,  dh_i = ω_i V_i
  }
};

/// N independent pairs:  y += s · Σ_i ω_i B_i A_i x.
///
/// Source    the multi-LoRA baseline of HydraLoRA, arXiv:2404.19245, section 2; learned: LoRAMoE, arXiv:2312.09979.
/// forward   [h_1; …; h_N; ℓ] = [A_1; …; A_N; G] x     ω by Routing     u_i = ω_i h_i     y += s [B_1 … B_N] u
/// backward  V = s [B_1 … B_N]ᵀ dY     dB_i += s dY U_iᵀ     dω_i = ⟨V_i, h_i⟩     dh_i = ω_i V_i
///           learned: dℓ = ω ∘ (dω − ⟨ω, dω⟩), or see GateConfig     given: CallOptions::weights_gradient += dω
///           [dA_1; …; dA_N; dG] += [dH; dL] Xᵀ     dX += [A_1; …; A_N; G]ᵀ [dH; dL]
///
/// Line by line: formula.hpp. Saved for backward: heads · rank numbers per token, and ω where it is not all 1. The
/// members are documented in Adapter.
template <class Scalar = float, class Activation = Scalar>
class SplitLoRA : public Adapter<Scalar, SplitLoRAMiddle, Activation> {
 public:
  using Adapter<Scalar, SplitLoRAMiddle, Activation>::Adapter;
};

/// A former name.
[[deprecated("use SplitLoRAMiddle::shape()")]] inline AdapterShape shape_of(const SplitLoRAConfig& c) {
  return SplitLoRAMiddle::shape(c);
}

/// The sum of a SplitLoRA's heads as one LoRA of rank heads · rank: the same bits for float, up to the rounding of the
/// scaling for double. Its alpha is larger by heads (√heads with rank_stabilized), so that the scaling is the same.
/// @throws std::invalid_argument  unless the layer has Routing::uniform.
template <class Scalar>
LoRA<Scalar> as_lora(const SplitLoRA<Scalar>& layer) {
  const SplitLoRAConfig& c = layer.config();
  expects(c.routing == Routing::uniform, "as_lora: only the plain sum of heads (Routing::uniform) is one LoRA");
  const auto heads = static_cast<double>(c.heads);
  const double alpha = c.alpha * (c.rank_stabilized ? std::sqrt(heads) : heads);
  LoRA<Scalar> lora(LoRAConfig{c.in_features, c.out_features, c.heads * c.rank, alpha, c.rank_stabilized, c.dropout},
                    layer.seed());
  for (Index i = 0; i < c.heads; ++i) {
    lora.A().middleRows(i * c.rank, c.rank) = layer.A(i);
    lora.B().middleCols(i * c.rank, c.rank) = layer.B(i);
  }
  return lora;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
