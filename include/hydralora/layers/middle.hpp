// SPDX-License-Identifier: MIT
// A middle computes u, which B expands, from h = A x and the weights ω of the heads. Layers differ only in this step. A
// new layer is a new middle: docs/adding-a-layer.md.
#pragma once

#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/adapter_shape.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The arguments of a middle's mix().
template <class Scalar>
struct MiddleInput {
  ConstTokens<Scalar> h;        ///< A x, (a_rows × tokens), read
  ConstTokens<Scalar> weights;  ///< ω, (heads × tokens), read; no rows in a layer without a gate
};

/// The results of a middle's mix_backward().
template <class Scalar>
struct MiddleGradient {
  Tokens<Scalar> h;        ///< dh, (a_rows × tokens), OVERWRITTEN
  Tokens<Scalar> weights;  ///< dω, (heads × tokens), OVERWRITTEN; no rows in a layer without a gate
};

/// The base of every middle. Its defaults describe one A, one B and anything between them; a middle redefines what
/// differs. A middle must define
///
///   using Config = …;        with in_features, out_features, rank, alpha, rank_stabilized, dropout (and heads, if any)
///   static AdapterShape shape(const Config&);
///   void mix(const MiddleInput<S>& in, Tokens<S> u) const;                                             OVERWRITES u
///   void mix_backward(const MiddleInput<S>& in, ConstTokens<S> v, const MiddleGradient<S>& d) const;   v = du
///
/// mix() and mix_backward() are templates over the scalar type S. They may be called for some of a batch's tokens, from
/// several threads. Tokens are independent. A middle may have a constructor that takes the Config.
/// Linear and Standard are types instead of flags, because a class derived from a middle would inherit a flag.
struct MiddleDefaults {
  static constexpr bool shares_A = true;  ///< the layer has one A
  static constexpr bool shares_B = true;  ///< the layer has one B
  using Linear = void;                    ///< the middle itself, if ΔW = s Σ_i ω_i B_i A_i: there is a ΔW to merge
  using Standard = void;  ///< the middle itself in the library's own layers, which adapter directories can hold

  /// Refuses settings that make no sense in this layer only. @throws std::invalid_argument with the reason.
  template <class Config>
  static void check(const AdapterShape& /*shape*/, const Config& /*config*/) {}
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
