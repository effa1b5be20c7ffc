// SPDX-License-Identifier: MIT
//
// Where the router's weights Ω meet the projections H, between the two stacks: the doors (see low_rank.hpp).
//
//   shared A (HydraLoRA)       h has r numbers        u_i = ω_i h        column-wise Khatri–Rao product of Ω and H
//   an A per head (SplitLoRA)  h has N·r numbers      u_i = ω_i h_i
//
// Which of the two it is follows from the number of rows of H; with one head they are the same thing.
#pragma once

#include <cassert>

#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/reference/head_mix.hpp"
#include "hydralora/kernels/simd/head_mix.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace kernels {

/// u_i = ω_i h (or ω_i h_i), for every token and head.
///
/// @param h        (r × tokens) or (N·r × tokens), read.
/// @param weights  ω, (N × tokens), read.
/// @param u        (N·r × tokens), OVERWRITTEN. Must overlap neither.
template <class Scalar>
void mix_heads(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> u) {
  assert(u.features() % weights.features() == 0);
  assert(h.features() == u.features() || h.features() * weights.features() == u.features());
  if constexpr (simd::has_simd<Scalar>) {
    simd::mix_heads<simd::DefaultArch>(h, weights, u);
  } else {
    reference::mix_heads(h, weights, u);
  }
}

/// The reduction over the heads: dω_i = ⟨v_i, h⟩ and dh = Σ_i ω_i v_i (or ⟨v_i, h_i⟩ and dh_i = ω_i v_i).
///
/// @param v         s·Bᵀ dy, (N·r × tokens), read.
/// @param h         (r × tokens) or (N·r × tokens), read.
/// @param weights   ω, (N × tokens), read.
/// @param dweights  dω, (N × tokens), OVERWRITTEN.
/// @param dh        shaped as h, OVERWRITTEN.
/// Cost             4 · tokens · N · r flop.
template <class Scalar>
void mix_heads_backward(ConstTokens<Scalar> v, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                        Tokens<Scalar> dweights, Tokens<Scalar> dh) {
  assert(v.features() % weights.features() == 0 && dh.shape() == h.shape() && dweights.shape() == weights.shape());
  assert(h.features() == v.features() || h.features() * weights.features() == v.features());
  if constexpr (simd::has_simd<Scalar>) {
    simd::mix_heads_backward<simd::DefaultArch>(v, h, weights, dweights, dh);
  } else {
    reference::mix_heads_backward(v, h, weights, dweights, dh);
  }
}

}  // namespace kernels
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
