// SPDX-License-Identifier: MIT
// kernels/low_rank.hpp in plain loops for any scalar type. The tests compare the vectorised kernels with them. Only
// sums of products, so that they stay analytic in complex numbers.
#pragma once

#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace reference {

/// P = S X.
template <class Scalar>
void shrink(ConstStack<Scalar> s, ConstTokens<Scalar> x, Tokens<Scalar> p) {
  for (Index t = 0; t < x.tokens(); ++t) {
    for (Index k = 0; k < s.rows; ++k) {
      Scalar sum(0);
      for (Index j = 0; j < s.features; ++j) sum += s(k, j) * x(j, t);
      p(k, t) = sum;
    }
  }
}

/// Y += scale · Sᵀ P.
template <class Scalar>
void expand(ConstStack<Scalar> s, ConstTokens<Scalar> p, Scalar scale, Tokens<Scalar> y) {
  for (Index t = 0; t < p.tokens(); ++t) {
    for (Index j = 0; j < s.features; ++j) {
      Scalar sum(0);
      for (Index k = 0; k < s.rows; ++k) sum += s(k, j) * p(k, t);
      y(j, t) += scale * sum;
    }
  }
}

/// dS += scale · P Xᵀ.
template <class Scalar>
void accumulate(ConstTokens<Scalar> p, ConstTokens<Scalar> x, Scalar scale, Stack<Scalar> ds) {
  for (Index k = 0; k < ds.rows; ++k) {
    for (Index j = 0; j < ds.features; ++j) {
      Scalar sum(0);
      for (Index t = 0; t < x.tokens(); ++t) sum += p(k, t) * x(j, t);
      ds(k, j) += scale * sum;
    }
  }
}

}  // namespace reference
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
