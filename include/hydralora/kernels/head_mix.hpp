// SPDX-License-Identifier: MIT
// The products with the weights ω of the heads, between the two stacks. Dispatch as in low_rank.hpp.
//
//   shared A (HydraLoRA)       h has r numbers        u_i = ω_i h        columnwise Khatri–Rao product of Ω and H
//   an A per head (SplitLoRA)  h has N·r numbers      u_i = ω_i h_i
//   shared B (SharedBLoRA)     h has N·r numbers      u = Σ_i ω_i h_i
//
// The rows of h decide between the first two. The third uses the kernels of the first with h and v exchanged.
#pragma once

#include <algorithm>
#include <cassert>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/segments.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/kernels/reference/head_mix.hpp"
#include "hydralora/kernels/simd/head_mix.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace kernels {

/// u_i = ω_i h (or ω_i h_i), for every token and head.
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

/// Backward of mix_heads(): dω_i = ⟨v_i, h⟩ and dh = Σ_i ω_i v_i (or ⟨v_i, h_i⟩ and dh_i = ω_i v_i).
/// @param v         the gradient of u, (N·r × tokens), read.
/// @param h, weights  as above, read.
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

/// u = Σ_i ω_i h_i, for every token.
/// @param h        (N·r × tokens), read.
/// @param weights  ω, (N × tokens), read.
/// @param u        (r × tokens), OVERWRITTEN. Must overlap neither.
template <class Scalar>
void sum_heads(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> u) {
  ScratchFrame scratch;
  const Tokens<Scalar> unused = scratch.take_tokens<Scalar>(weights.features(), weights.tokens());
  mix_heads_backward<Scalar>(h, h.rows(0, u.features()), weights, unused, u);
}

/// Backward of sum_heads(): dω_i = ⟨v, h_i⟩ and dh_i = ω_i v.
/// @param v         the gradient of u, (r × tokens), read.
/// @param h, weights  as above, read.
/// @param dweights  dω, (N × tokens), OVERWRITTEN.
/// @param dh        (N·r × tokens), OVERWRITTEN.
template <class Scalar>
void sum_heads_backward(ConstTokens<Scalar> v, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                        Tokens<Scalar> dweights, Tokens<Scalar> dh) {
  ScratchFrame scratch;
  const Tokens<Scalar> unused = scratch.take_tokens<Scalar>(v.features(), v.tokens());
  mix_heads_backward<Scalar>(h, v, weights, dweights, unused);
  mix_heads<Scalar>(v, weights, dh);
}

/// B̄ = Σ_i ω_i B_i, for tokens that share one ω: y += s · B̄ h is then a product of rank r, 1/N of the work of
/// expand(). Source: HydraLoRA, arXiv:2404.19245, section 3.3 (inference).
/// @param s         [B_1 … B_N], (N·r × features), read.
/// @param weights   ω, (N × 1), read.
/// @param combined  B̄, (r × features), features side by side (feature_stride 1), OVERWRITTEN. Must overlap neither.
/// Cost             2 · N · r · features flop, as much as expand() of one token. It pays from three tokens on with two
///                  heads, from two tokens with more heads.
template <class Scalar>
void combine_heads(ConstStack<Scalar> s, ConstTokens<sum_t<Scalar>> weights, Stack<sum_t<Scalar>> combined) {
  using Sum = sum_t<Scalar>;
  const Index heads = weights.features(), rank = combined.rows;
  assert(weights.tokens() == 1 && s.rows == heads * rank);
  assert(s.features == combined.features && combined.feature_stride == 1);
  // Column j of B̄ is expand() of ω with the columns j of the heads.
  parallel_for(rank, 2 * s.rows * s.features, [&](Index j) {
    const ConstStack<Scalar> columns{&s(j, 0), heads, s.features, rank * s.row_stride, s.feature_stride};
    const Tokens<Sum> sum(&combined(j, 0), s.features, 1);
    std::fill(sum.data(), sum.data() + s.features, Sum(0));
    expand<Scalar, Sum>(columns, weights, Sum(1), sum);
  });
}

/// Y += scale · [B_1 … B_N] U with u_i = ω_i h, where all tokens of a segment have the same ω: by B̄ = Σ_i ω_i B_i, if
/// the segment is long enough.
/// @param up        [B_1 … B_N], (N·r × features), read.
/// @param h         (r × tokens), read.
/// @param weights   ω, (N × tokens), read. B̄ uses the weights of the segment's first token.
/// @param segments  lengths that sum to the number of tokens.
/// @param y         (features × tokens), ADDED to. All scratch memory is reserved before y is written.
template <class Scalar, class Y = Scalar>
void expand_segments(ConstStack<Scalar> up, ConstTokens<sum_t<Scalar>> h, ConstTokens<sum_t<Scalar>> weights,
                     Segments segments, sum_t<Scalar> scale, type_t<Tokens<Y>> y) {
  using Sum = sum_t<Scalar>;
  const Index heads = weights.features(), rank = h.features();
  // In units of 2 · rank · features flop: forming B̄ costs N, and each token then costs 1 instead of N.
  const auto combines = [&](Index count) { return heads + count < heads * count; };
  ScratchFrame scratch;
  const Tokens<Sum> columns = scratch.take_tokens<Sum>(up.features, rank);
  const Stack<Sum> combined{columns.data(), rank, up.features, columns.stride(), 1};

  // Every segment uses the same scratch. The largest need is reserved first: if memory runs out, y is unchanged.
  Index largest = 0;
  segments.for_each(y.tokens(), [&](Index, Index count) {
    constexpr Index line = cache_line<Sum>;  // scratch begins at a cache line
    largest = (std::max)(largest, combines(count) ? expand_scratch<Sum>(combined, count)
                                                  : up.rows * count + line + expand_scratch<Scalar>(up, count));
  });
  { ScratchFrame().template take<Sum>(largest); }

  segments.for_each(y.tokens(), [&](Index first, Index count) {
    if (combines(count)) {
      combine_heads<Scalar>(up, weights.slice(first, 1), combined);
      return expand<Sum, Y>(combined, h.slice(first, count), scale, y.slice(first, count));
    }
    ScratchFrame of_segment;
    const Tokens<Sum> u = of_segment.take_tokens<Sum>(up.rows, count);
    mix_heads<Sum>(h.slice(first, count), weights.slice(first, count), u);
    expand<Scalar, Y>(up, u, scale, y.slice(first, count));
  });
}

#define HYDRALORA_HEAD_MIX_INSTANCES(keyword, Scalar)                                                             \
  keyword template void mix_heads<Scalar>(ConstTokens<Scalar>, ConstTokens<Scalar>, Tokens<Scalar>);              \
  keyword template void mix_heads_backward<Scalar>(ConstTokens<Scalar>, ConstTokens<Scalar>, ConstTokens<Scalar>, \
                                                   Tokens<Scalar>, Tokens<Scalar>);                               \
  keyword template void sum_heads<Scalar>(ConstTokens<Scalar>, ConstTokens<Scalar>, Tokens<Scalar>);              \
  keyword template void sum_heads_backward<Scalar>(ConstTokens<Scalar>, ConstTokens<Scalar>, ConstTokens<Scalar>, \
                                                   Tokens<Scalar>, Tokens<Scalar>);                               \
  keyword template void combine_heads<Scalar>(ConstStack<Scalar>, ConstTokens<Scalar>, Stack<Scalar>);            \
  keyword template void expand_segments<Scalar>(ConstStack<Scalar>, ConstTokens<Scalar>, ConstTokens<Scalar>,     \
                                                Segments, Scalar, Tokens<Scalar>);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_HEAD_MIX_INSTANCES)

}  // namespace kernels
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
