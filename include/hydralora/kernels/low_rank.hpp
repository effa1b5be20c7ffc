// SPDX-License-Identifier: MIT
// The three low-rank products, which are the main work of all layers, forward and backward:
//
//   shrink       P  = scale · S X      [h; ℓ] = [A; G] x            V = s · Bᵀ dy
//   expand       Y += scale · Sᵀ P     y += s · B u                 dx += [A; G]ᵀ [dh; dℓ]
//   accumulate   dS += scale · P Xᵀ    [dA; dG] += [dh; dℓ] xᵀ      dB += s · dy uᵀ
//
// With xsimd, float and double use the vectorised kernels of simd/, otherwise any scalar type uses the plain loops of
// reference/. The caller checks the shapes; here are assertions only.
// S, X and Y may have numbers of 16 bits (core/narrow.hpp): P and dS are then float. The types are template arguments,
// and the views convert as if there was one type: shrink<bfloat16>(S, X, …), expand<float, bfloat16>(S, P, …, Y).
//
// Numerics  The bits of a token's result depend on that token only, not on the other tokens, its place in the batch or
//           the number of threads. A sum over tokens does not depend on the number of threads.
#pragma once

#include <cassert>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/kernels/reference/low_rank.hpp"
#include "hydralora/kernels/simd/low_rank.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace kernels {

/// P = scale · S X, for every token: p_k = scale · Σ_j S(k, j) x_j.
/// @param s  (rows × features), read.
/// @param x  (features × tokens), read.
/// @param p  (rows × tokens), OVERWRITTEN. Must overlap neither s nor x.
/// Cost      2 · tokens · rows · features flop; scratch for one copy of s, as sum_t.
template <class Scalar, class X = Scalar>
void shrink(ConstStack<Scalar> s, type_t<ConstTokens<X>> x, sum_t<Scalar> scale, Tokens<sum_t<Scalar>> p) {
  assert(x.features() == s.features && p.features() == s.rows && p.tokens() == x.tokens());
  if constexpr (simd::has_simd_sums<Scalar>) {
    simd::shrink<simd::DefaultArch, Scalar, X>(s, x, p);
  } else {
    reference::shrink<Scalar, X>(s, x, p);
  }
  if (scale != sum_t<Scalar>(1)) kernels::scale<sum_t<Scalar>>(p, scale);
}
/// The former name of shrink(), without a scale.
template <class Scalar>
[[deprecated("use kernels::shrink(s, x, scale, p)")]] void contract(ConstStack<Scalar> s, ConstTokens<Scalar> x,
                                                                    Tokens<Scalar> p) {
  shrink<Scalar>(s, x, Scalar(1), p);
}

/// Y += scale · Sᵀ P, for every token: y_j += scale · Σ_k S(k, j) p_k.
/// @param s  (rows × features), read.
/// @param p  (rows × tokens), read.
/// @param y  (features × tokens), ADDED to. Must overlap neither s nor p.
/// Cost      2 · tokens · rows · features flop; expand_scratch() numbers, taken before y is written.
/// Numerics  each number of y is rounded once.
template <class Scalar, class Y = Scalar>
void expand(ConstStack<Scalar> s, ConstTokens<sum_t<Scalar>> p, sum_t<Scalar> scale, type_t<Tokens<Y>> y) {
  assert(p.features() == s.rows && y.features() == s.features && p.tokens() == y.tokens());
  if constexpr (simd::has_simd_sums<Scalar>) {
    simd::expand<simd::DefaultArch, Scalar, Y>(s, p, scale, y);
  } else {
    reference::expand<Scalar, Y>(s, p, scale, y);
  }
}

/// Numbers (sum_t) of scratch memory that expand() takes from the calling thread.
template <class Scalar>
Index expand_scratch([[maybe_unused]] ConstStack<Scalar> s, [[maybe_unused]] Index tokens) {
  if constexpr (simd::has_simd_sums<Scalar>) {
    return simd::ExpandPlan<simd::DefaultArch, Scalar>(s, tokens).rooms;
  } else {
    return 0;
  }
}

/// dS += scale · P Xᵀ: dS(k, j) += scale · Σ_t P(k, t) X(j, t).
/// @param p   (rows × tokens), read.
/// @param x   (features × tokens), read.
/// @param ds  (rows × features), ADDED to. Must overlap neither p nor x.
/// Cost       2 · tokens · rows · features flop.
template <class Scalar, class X = Scalar>
void accumulate(ConstTokens<Scalar> p, type_t<ConstTokens<X>> x, Scalar scale, Stack<Scalar> ds) {
  assert(p.features() == ds.rows && x.features() == ds.features && p.tokens() == x.tokens());
  assert(ds.row_stride == 1 || ds.feature_stride == 1);
  if constexpr (simd::has_simd<Scalar>) {
    simd::accumulate<simd::DefaultArch, Scalar, X>(p, x, scale, ds);
  } else {
    reference::accumulate<Scalar, X>(p, x, scale, ds);
  }
}

/// The instances that HYDRALORA_EXTERN_TEMPLATES compiles once (instantiate.hpp).
#define HYDRALORA_LOW_RANK_INSTANCES(keyword, Scalar)                                                    \
  keyword template void shrink<Scalar>(ConstStack<Scalar>, ConstTokens<Scalar>, Scalar, Tokens<Scalar>); \
  keyword template void expand<Scalar>(ConstStack<Scalar>, ConstTokens<Scalar>, Scalar, Tokens<Scalar>); \
  keyword template Index expand_scratch<Scalar>(ConstStack<Scalar>, Index);                              \
  keyword template void accumulate<Scalar>(ConstTokens<Scalar>, ConstTokens<Scalar>, Scalar, Stack<Scalar>);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_LOW_RANK_INSTANCES)

}  // namespace kernels
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
