// SPDX-License-Identifier: MIT
// kernels/head_mix.hpp in plain loops for any scalar type.
#pragma once

#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace reference {

template <class Scalar>
void mix_heads(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> u) {
  const Index heads = weights.features(), rank = u.features() / heads;
  const Index step = h.features() == rank ? 0 : rank;  // from one head's h to the next; 0 where they share it
  for (Index t = 0; t < u.tokens(); ++t) {
    for (Index i = 0; i < heads; ++i) {
      for (Index j = 0; j < rank; ++j) u(i * rank + j, t) = weights(i, t) * h(i * step + j, t);
    }
  }
}

template <class Scalar>
void mix_heads_backward(ConstTokens<Scalar> v, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                        Tokens<Scalar> dweights, Tokens<Scalar> dh) {
  const Index heads = weights.features(), rank = v.features() / heads;
  const Index step = h.features() == rank ? 0 : rank;
  for (Index t = 0; t < v.tokens(); ++t) {
    for (Index j = 0; j < h.features(); ++j) dh(j, t) = Scalar(0);
    for (Index i = 0; i < heads; ++i) {
      Scalar product(0);
      for (Index j = 0; j < rank; ++j) {
        product += v(i * rank + j, t) * h(i * step + j, t);
        dh(i * step + j, t) += weights(i, t) * v(i * rank + j, t);
      }
      dweights(i, t) = product;
    }
  }
}

}  // namespace reference
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
