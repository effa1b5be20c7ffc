// SPDX-License-Identifier: MIT
//
// The formula of every adapter and its gradients, from top to bottom. Layers differ in F3 only, their middle.
//
//   forward                                   backward: Rn reverses Fn, Gn is the gradient of the matrices in Fn
//   F1 shrink  [h; ℓ] = [A; G] x              R4  V = s [B_1 … B_N]ᵀ dY
//   F2 gate    ω = softmax(ℓ)                 R3  HydraLoRA    dω_i = ⟨V_i, h⟩    dh = Σ_i ω_i V_i
//   F3 middle  LoRA         u = h                 SplitLoRA    dω_i = ⟨V_i, h_i⟩  dh_i = ω_i V_i
//              HydraLoRA    u_i = ω_i h           SharedBLoRA  dω_i = ⟨V, h_i⟩    dh_i = ω_i V
//              SplitLoRA    u_i = ω_i h_i     R2  dℓ = ω ∘ (dω − ⟨ω, dω⟩)
//              SharedBLoRA  u = Σ_i ω_i h_i   G4  dB_i += s dY U_iᵀ             with u from F3 again
//   F4 expand  y += s [B_1 … B_N] u           G1  [dA; dG] += [dH; dL] Xᵀ
//                                             R1  dX += [A; G]ᵀ [dH; dL]
//
// The products of F1, F4 and their reverses are in kernels/low_rank.hpp, those of F3 in kernels/head_mix.hpp. dropout.hpp
// adds dropout to F1, R1 and G1. gate.hpp has the gates other than softmax(G x).
#pragma once

#include "hydralora/core/segments.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/call_options.hpp"
#include "hydralora/layers/dropout.hpp"
#include "hydralora/layers/middle.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// One pass over a batch: what forward() saves for backward(), and the settings that both need.
template <class View>
struct Pass {
  View saved;               ///< (saved_rows() × tokens): h, then what the gate saves
  detail::Dropout dropout;  ///< between x and A
  Segments segments;        ///< for a gate that pools

  /// The pass of some of the tokens. Only where no gate pools.
  Pass slice(Index begin, Index count) const { return {saved.slice(begin, count), dropout.from(begin), segments}; }
};

/// The parts of a layer, and the steps of its passes. All shapes have been checked. An empty view is a result that nobody
/// wants. A Formula refers to the layer, so it is made for one call.
template <class Scalar, class Middle>
struct Formula {
  const AdapterShape& shape;            ///< the layer's
  const Middle& middle;                 ///< the layer's
  AdapterStacks<const Scalar> weights;  ///< A, G and B
  Scalar s;                             ///< the scaling

  /// y += ΔW(x).
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, const Pass<Tokens<Scalar>>& pass,
               const CallOptions<Scalar>& options) const {
    const Gate& gate = shape.gate;
    const Tokens<Scalar> h_and_logits = pass.saved.rows(0, shape.down_rows());  // the gate replaces the logits by ω
    const Tokens<Scalar> h = pass.saved.rows(0, shape.a_rows),
                         of_gate = pass.saved.rows(h.features(), gate.saved_rows());
    const Tokens<Scalar> omega = of_gate.rows(0, gate.heads);

    detail::shrink<Scalar>(weights.down, shape.a_rows, pass.dropout, x, h_and_logits);  // F1  [h; ℓ] = [A; G] x
    gate.forward<Scalar>(weights.gate, h, options.weights, pass.segments, of_gate);     // F2  ω = softmax(ℓ)
    if (!shape.mixes) return kernels::expand<Scalar>(weights.up, h, s, y);              // F4  y += s B h
    if (Middle::shares_h && gate.same_in_segment()) {                                   // F3 and F4 with Σ_i ω_i B_i
      return kernels::expand_segments<Scalar>(weights.up, h, omega, pass.segments, s, y);
    }
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(shape.up_rows(), x.tokens());
    middle.mix(MiddleInput<Scalar>{h, omega}, u);  // F3  u_i = ω_i h
    kernels::expand<Scalar>(weights.up, u, s, y);  // F4  y += s [B_1 … B_N] u
  }

  /// The gradients of the layer's matrices, g, and of x. Both are added to.
  /// @param x  empty: A and a gate on x are frozen.
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Pass<ConstTokens<Scalar>>& pass,
                const AdapterStacks<Scalar>& g, Tokens<Scalar> dx, const CallOptions<Scalar>& options) const {
    ScratchFrame scratch;
    const Tokens<Scalar> dp = scratch.take_tokens<Scalar>(gradient_rows(), dy.tokens());
    backward_tokens(dy, pass, dp, g.gate, options);
    backward_up(dy, pass, g.up);
    backward_down(x, dp, pass, g.down, dx, 0);
  }

  /// The first step of backward(), for some of the tokens: from dY to dp = [dh; dℓ].
  /// @param dp  (gradient_rows() × tokens), OVERWRITTEN.
  void backward_tokens(ConstTokens<Scalar> dy, const Pass<ConstTokens<Scalar>>& pass, Tokens<Scalar> dp,
                       Stack<Scalar> dG, const CallOptions<Scalar>& options) const {
    const Gate& gate = shape.gate;
    const ConstTokens<Scalar> h = pass.saved.rows(0, shape.a_rows);
    const ConstTokens<Scalar> of_gate = pass.saved.rows(shape.a_rows, gate.saved_rows());
    const Tokens<Scalar> dh = dp.rows(0, shape.a_rows), domega = dp.rows(shape.a_rows, gate.heads);
    if (!shape.mixes) return kernels::shrink<Scalar>(weights.up, dy, s, dh);  // R4  dh = s Bᵀ dY

    ScratchFrame scratch;
    const Tokens<Scalar> v = scratch.take_tokens<Scalar>(shape.up_rows(), dy.tokens());
    kernels::shrink<Scalar>(weights.up, dy, s, v);  // R4  V = s [B_1 … B_N]ᵀ dY
    middle.mix_backward(MiddleInput<Scalar>{h, of_gate.rows(0, gate.heads)}, ConstTokens<Scalar>(v),
                        MiddleGradient<Scalar>{dh, domega});  // R3  dω_i = ⟨V_i, h⟩,  dh = Σ_i ω_i V_i
    gate.backward<Scalar>(weights.gate, h, of_gate, pass.segments, options.logits_gradient, options.weights_gradient,
                          domega, dG, dh);  // R2  dℓ = ω ∘ (dω − ⟨ω, dω⟩)
  }

  /// The second step, for some of the output features: the gradients of B.
  void backward_up(ConstTokens<Scalar> dy, const Pass<ConstTokens<Scalar>>& pass, Stack<Scalar> dB) const {
    const ConstTokens<Scalar> h = pass.saved.rows(0, shape.a_rows);
    if (!shape.mixes) return kernels::accumulate<Scalar>(h, dy, s, dB);  // G4  dB += s dY Hᵀ
    ScratchFrame scratch;
    const Tokens<Scalar> u = scratch.take_tokens<Scalar>(shape.up_rows(), dy.tokens());
    middle.mix(MiddleInput<Scalar>{h, pass.saved.rows(shape.a_rows, shape.gate.heads)}, u);  // F3  u_i = ω_i h
    kernels::accumulate<Scalar>(u, dy, s, dB);                                               // G4  dB_i += s dY U_iᵀ
  }

  /// The third step, for some of the input features: the gradients of A and of a gate on x, and dX.
  /// @param first  number of the first row of x and dx.
  void backward_down(ConstTokens<Scalar> x, ConstTokens<Scalar> dp, const Pass<ConstTokens<Scalar>>& pass,
                     Stack<Scalar> ddown, Tokens<Scalar> dx, Index first) const {
    const ConstTokens<Scalar> dh_and_dlogits = dp.rows(0, shape.down_rows());
    if (x.features() > 0) {
      detail::shrink_gradient<Scalar>(shape.a_rows, pass.dropout, x, dh_and_dlogits,
                                      ddown.feature_range(first, x.features()), first);  // G1  [dA; dG] += [dH; dL] Xᵀ
    }
    if (dx.features() > 0) {
      detail::shrink_backward<Scalar>(weights.down.feature_range(first, dx.features()), shape.a_rows, pass.dropout,
                                      dh_and_dlogits, dx, first);  // R1  dX += [A; G]ᵀ [dH; dL]
    }
  }

  /// Numbers per token of the gradient [dh; dω], in which dℓ replaces dω.
  Index gradient_rows() const { return shape.a_rows + shape.gate.heads; }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
