// SPDX-License-Identifier: MIT
// kernels/low_rank.hpp in plain loops for any scalar type. The tests compare the vectorised kernels with them. Only
// sums of products, so that they stay analytic in complex numbers.
#pragma once

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace reference {

/// P = S X.
template <class Scalar, class X = Scalar>
void shrink(ConstStack<Scalar> s, type_t<ConstTokens<X>> x, Tokens<sum_t<Scalar>> p) {
  for (Index t = 0; t < x.tokens(); ++t) {
    for (Index k = 0; k < s.rows; ++k) {
      sum_t<Scalar> sum(0);
      for (Index j = 0; j < s.features; ++j) sum += widen(s(k, j)) * widen(x(j, t));
      p(k, t) = sum;
    }
  }
}

/// Y += scale · Sᵀ P.
template <class Scalar, class Y = Scalar>
void expand(ConstStack<Scalar> s, ConstTokens<sum_t<Scalar>> p, sum_t<Scalar> scale, type_t<Tokens<Y>> y) {
  for (Index t = 0; t < p.tokens(); ++t) {
    for (Index j = 0; j < s.features; ++j) {
      sum_t<Scalar> sum(0);
      for (Index k = 0; k < s.rows; ++k) sum += widen(s(k, j)) * p(k, t);
      y(j, t) = narrow<Y>(widen(y(j, t)) + scale * sum);
    }
  }
}

/// dS += scale · P Xᵀ.
template <class Scalar, class X = Scalar>
void accumulate(ConstTokens<Scalar> p, type_t<ConstTokens<X>> x, Scalar scale, Stack<Scalar> ds) {
  for (Index k = 0; k < ds.rows; ++k) {
    for (Index j = 0; j < ds.features; ++j) {
      Scalar sum(0);
      for (Index t = 0; t < x.tokens(); ++t) sum += p(k, t) * widen(x(j, t));
      ds(k, j) += scale * sum;
    }
  }
}

}  // namespace reference
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
