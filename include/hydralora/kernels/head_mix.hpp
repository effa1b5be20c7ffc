// SPDX-License-Identifier: MIT
//
// Where the router's weights Ω meet the projections H, between the two stacks: the doors (see low_rank.hpp).
//
//   shared A (HydraLoRA)       h has r numbers        u_i = ω_i h        column-wise Khatri–Rao product of Ω and H
//   an A per head (SplitLoRA)  h has N·r numbers      u_i = ω_i h_i
//   shared B (SharedBLoRA)     as shared A, with h and v in each other's place
//
// Which of the two it is follows from the number of rows of H; with one head they are the same thing.
#pragma once

#include <algorithm>
#include <cassert>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/low_rank.hpp"
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

/// B̄ = Σ_i ω_i B_i, for a run of tokens that share one ω: then y += s · B̄ h is a plain product of rank r, 1/N of the work
/// of expand(). Source: HydraLoRA, arXiv:2404.19245, section 3.3 (inference).
///
/// @param s         [B_1 … B_N], (N·r × features), read.
/// @param weights   ω, (N × 1), read.
/// @param combined  B̄, (r × features), features side by side (feature_stride 1), OVERWRITTEN. Must overlap neither.
/// Cost             2 · N · r · features flop, one read of s. Forming B̄ takes a token's expand(), and every token then takes
///                  1/N of one: with two heads it pays from three tokens a run on, with more from two.
template <class Scalar>
void combine_heads(ConstStack<Scalar> s, ConstTokens<Scalar> weights, Stack<Scalar> combined) {
  const Index heads = weights.features(), rank = combined.rows;
  assert(weights.tokens() == 1 && s.rows == heads * rank);
  assert(s.features == combined.features && combined.feature_stride == 1);
  // Column j of B̄ is what ω expands to over the columns j of the heads.
  parallel_for(rank, 2 * s.rows * s.features, [&](Index j) {
    const ConstStack<Scalar> columns{&s(j, 0), heads, s.features, rank * s.row_stride, s.feature_stride};
    const Tokens<Scalar> sum(&combined(j, 0), s.features, 1);
    std::fill(sum.data(), sum.data() + s.features, Scalar(0));
    expand<Scalar>(columns, weights, Scalar(1), sum);
  });
}

}  // namespace kernels
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
