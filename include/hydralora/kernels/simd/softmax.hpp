// SPDX-License-Identifier: MIT
//
// Softmax with the vector exponential. A register covers up to `lanes` heads of one token; its unused lanes are never
// summed. A token takes the same path whatever its batch.
#pragma once

#include <algorithm>
#include <limits>

#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// See kernels::softmax.
template <class Arch, class Scalar>
void softmax(Tokens<Scalar> weights) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  constexpr Scalar minus_infinity = -std::numeric_limits<Scalar>::infinity();
  const Index heads = weights.features();
  for (Index t = 0; t < weights.tokens(); ++t) {
    Scalar* w = weights.token(t);
    Scalar largest = minus_infinity;
    for (Index i = 0; i < heads; ++i) largest = w[i] > largest ? w[i] : largest;
    if (largest ==
        minus_infinity) {  // all −Inf (or NaN, which stays): Inf − Inf would be NaN, so compare equal instead
      for (Index i = 0; i < heads; ++i) w[i] = w[i] == minus_infinity ? Scalar(0) : w[i];
      largest = 0;
    }
    for (Index i = 0; i < heads; i += step) {
      const Index count = std::min(step, heads - i);
      store_first<Arch>(exponential<Arch>(load_first<Arch>(w + i, count) - B(largest)), w + i, count);
    }
    Scalar sum = 0;
    for (Index i = 0; i < heads; ++i) sum += w[i];
    for (Index i = 0; i < heads; ++i) w[i] /= sum;
  }
}

/// See kernels::softmax_backward.
template <class Arch, class Scalar>
void softmax_backward(ConstTokens<Scalar> weights, Tokens<Scalar> gradient) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  const Index heads = weights.features();
  for (Index t = 0; t < weights.tokens(); ++t) {
    const Scalar* w = weights.token(t);
    Scalar* g = gradient.token(t);
    B products(Scalar(0));  // unused lanes hold 0 · 0
    for (Index i = 0; i < heads; i += step) {
      const Index count = std::min(step, heads - i);
      products = fma(load_first<Arch>(w + i, count), load_first<Arch>(g + i, count), products);
    }
    const B mean(ordered_sum<Arch>(products));
    for (Index i = 0; i < heads; i += step) {
      const Index count = std::min(step, heads - i);
      store_first<Arch>(load_first<Arch>(w + i, count) * (load_first<Arch>(g + i, count) - mean), g + i, count);
    }
  }
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
