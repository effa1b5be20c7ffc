// SPDX-License-Identifier: MIT
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
// Capitals are matrices of all tokens: H, L of the logits ℓ, U, V. A gate on A x adds its dG, and Gᵀ dℓ to dh, in R2.
// The products of F1, F4 and their reverses are in kernels/low_rank.hpp, those of F3 in kernels/head_mix.hpp.
// dropout.hpp adds dropout to F1, R1 and G1. gate.hpp has the gates other than softmax(G x).
#pragma once

#include <type_traits>

#include "hydralora/core/narrow.hpp"
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

/// What forward() saves for backward(), and the settings that both need.
template <class View>
struct Pass {
  View saved;               ///< (saved_rows() × tokens): h, then what the gate saves
  detail::Dropout dropout;  ///< between x and A
  Segments segments;        ///< for a gate that pools

  /// The pass of some of the tokens. Only where no gate pools.
  Pass slice(Index begin, Index count) const { return {saved.slice(begin, count), dropout.from(begin), segments}; }
};

/// The steps of a layer's passes. The arguments have been checked. A result with an empty view is not computed. A
/// Formula refers to the layer, so it is made for one call.
template <class Scalar, class Middle, class Activation = Scalar>
struct Formula {
  using Sum = sum_t<Scalar>;  ///< of all but the parameters and activations

  const AdapterTensors<Scalar, Middle>& layer;  ///< A, G, B and their shape
  const Middle& middle;                         ///< the layer's
  Sum s;                                        ///< the scaling
  /// Whether this is HydraLoRA, u_i = ω_i h.
  static constexpr bool shares_A_alone =
      std::is_same_v<typename Middle::Standard, Middle> && Middle::shares_A && !Middle::shares_B;

  /// y += ΔW(x).
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, const Pass<Tokens<Sum>>& pass,
               const CallOptions<Sum>& options) const {
    const AdapterShape& shape = layer.shape();
    const Gate& gate = shape.gate;
    const Tokens<Sum> h_and_logits = pass.saved.rows(0, shape.down_rows());

    // F1  [h; ℓ] = [A; G] x
    detail::shrink<Scalar, Activation>(layer.down_stack(), shape.a_rows, pass.dropout, x, h_and_logits);
    // F4  y += s B h, where u = h and there is no gate
    if (!shape.mixes) return kernels::expand<Scalar, Activation>(layer.up_stack(), h_and_logits, s, y);
    // F2  ω = softmax(ℓ); ω replaces the logits
    const Tokens<Sum> h = pass.saved.rows(0, shape.a_rows);
    const Tokens<Sum> saved_by_gate = pass.saved.rows(shape.a_rows, gate.saved_rows());
    const Tokens<Sum> weights = saved_by_gate.rows(0, gate.heads);
    gate.forward<Scalar>(layer.gate_stack(), h, options.weights, pass.segments, saved_by_gate);
    // F3 and F4 of HydraLoRA with B̄ = Σ_i ω_i B_i, where the tokens of a segment share ω. backward() does not use B̄.
    if (shares_A_alone && gate.same_in_segment()) {
      return kernels::expand_segments<Scalar, Activation>(layer.up_stack(), h, weights, pass.segments, s, y);
    }
    // F3  u, in HydraLoRA u_i = ω_i h
    ScratchFrame scratch;
    const Tokens<Sum> u = scratch.take_tokens<Sum>(shape.up_rows(), x.tokens());
    middle.mix(MiddleInput<Sum>{h, weights}, u);
    // F4  y += s [B_1 … B_N] u
    kernels::expand<Scalar, Activation>(layer.up_stack(), u, s, y);
  }

  /// Adds the gradients of the layer's matrices to g, and that of x to dx.
  /// @param x  empty: A and a gate on x are frozen.
  void backward(ConstTokens<Activation> x, ConstTokens<Activation> dy, const Pass<ConstTokens<Sum>>& pass,
                AdapterTensors<Sum, Middle>& g, Tokens<Activation> dx, const CallOptions<Sum>& options) const {
    ScratchFrame scratch;
    const Tokens<Sum> dp = scratch.take_tokens<Sum>(gradient_rows(), dy.tokens());
    backward_tokens(dy, pass, dp, g.gate_stack(), options);
    backward_up(dy, pass, g.up_stack());
    backward_down(x, dp, pass, g.down_stack(), dx, 0);
  }

  /// The first step of backward(), for some of the tokens: from dY to dp = [dh; dℓ].
  /// @param dp  (gradient_rows() × tokens), OVERWRITTEN.
  /// @param dG  ADDED to by a gate on A x.
  void backward_tokens(ConstTokens<Activation> dy, const Pass<ConstTokens<Sum>>& pass, Tokens<Sum> dp, Stack<Sum> dG,
                       const CallOptions<Sum>& options) const {
    const AdapterShape& shape = layer.shape();
    const Gate& gate = shape.gate;
    const Tokens<Sum> dh = dp.rows(0, shape.a_rows);

    // R4  dh = s Bᵀ dY, where u = h
    if (!shape.mixes) return kernels::shrink<Scalar, Activation>(layer.up_stack(), dy, s, dh);
    // R4  V = s [B_1 … B_N]ᵀ dY
    ScratchFrame scratch;
    const Tokens<Sum> v = scratch.take_tokens<Sum>(shape.up_rows(), dy.tokens());
    kernels::shrink<Scalar, Activation>(layer.up_stack(), dy, s, v);
    // R3  dω and dh, in HydraLoRA dω_i = ⟨V_i, h⟩, dh = Σ_i ω_i V_i
    const ConstTokens<Sum> h = pass.saved.rows(0, shape.a_rows);
    const ConstTokens<Sum> saved_by_gate = pass.saved.rows(shape.a_rows, gate.saved_rows());
    const Tokens<Sum> dweights = dp.rows(shape.a_rows, gate.heads);
    middle.mix_backward(MiddleInput<Sum>{h, saved_by_gate.rows(0, gate.heads)}, ConstTokens<Sum>(v),
                        MiddleGradient<Sum>{dh, dweights});
    // R2  dℓ = ω ∘ (dω − ⟨ω, dω⟩); dℓ replaces dω
    gate.backward<Scalar>(layer.gate_stack(), h, saved_by_gate, pass.segments, options.logits_gradient,
                          options.weights_gradient, dweights, dG, dh);
  }

  /// The second step, for some of the output features: the gradients of B.
  void backward_up(ConstTokens<Activation> dy, const Pass<ConstTokens<Sum>>& pass, Stack<Sum> dB) const {
    const AdapterShape& shape = layer.shape();
    const ConstTokens<Sum> h = pass.saved.rows(0, shape.a_rows);

    // G4  dB += s dY Hᵀ, where u = h
    if (!shape.mixes) return kernels::accumulate<Sum, Activation>(h, dy, s, dB);
    // F3  u again
    ScratchFrame scratch;
    const Tokens<Sum> u = scratch.take_tokens<Sum>(shape.up_rows(), dy.tokens());
    middle.mix(MiddleInput<Sum>{h, pass.saved.rows(shape.a_rows, shape.gate.heads)}, u);
    // G4  dB_i += s dY U_iᵀ
    kernels::accumulate<Sum, Activation>(u, dy, s, dB);
  }

  /// The third step, for some of the input features: the gradients of A and of a gate on x, and dX.
  /// @param first  number of the first row of x and dx.
  void backward_down(ConstTokens<Activation> x, ConstTokens<Sum> dp, const Pass<ConstTokens<Sum>>& pass,
                     Stack<Sum> ddown, Tokens<Activation> dx, Index first) const {
    const AdapterShape& shape = layer.shape();
    const ConstTokens<Sum> dh_and_dlogits = dp.rows(0, shape.down_rows());

    // G1  [dA; dG] += [dH; dL] Xᵀ
    if (x.features() > 0) {
      detail::shrink_gradient<Sum, Activation>(shape.a_rows, pass.dropout, x, dh_and_dlogits,
                                               ddown.feature_range(first, x.features()), first);
    }
    // R1  dX += [A; G]ᵀ [dH; dL]
    if (dx.features() > 0) {
      detail::shrink_backward<Scalar, Activation>(layer.down_stack().feature_range(first, dx.features()), shape.a_rows,
                                                  pass.dropout, dh_and_dlogits, dx, first);
    }
  }

  /// Numbers per token of the gradient [dh; dω], in which dℓ replaces dω.
  Index gradient_rows() const { return layer.shape().a_rows + layer.shape().gate.heads; }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
