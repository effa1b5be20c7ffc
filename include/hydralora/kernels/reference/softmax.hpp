// SPDX-License-Identifier: MIT
// kernels/softmax.hpp in plain loops for any scalar type. Analytic in complex numbers, as the shift is a real number.
#pragma once

#include <cmath>
#include <limits>

#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace reference {

template <class Scalar>
void softmax(Tokens<Scalar> weights) {
  using std::exp;
  using std::real;
  using Real = real_t<Scalar>;
  constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
  for (Index t = 0; t < weights.tokens(); ++t) {
    Real largest = minus_infinity;
    for (Index i = 0; i < weights.features(); ++i) {
      if (real(weights(i, t)) > largest) largest = real(weights(i, t));
    }
    Scalar sum(0);
    for (Index i = 0; i < weights.features(); ++i) {
      const bool equal = largest == minus_infinity && !std::isnan(real(weights(i, t)));  // where all are −Inf
      weights(i, t) = equal ? Scalar(1) : exp(weights(i, t) - Scalar(largest));
      sum += weights(i, t);
    }
    for (Index i = 0; i < weights.features(); ++i) weights(i, t) /= sum;
  }
}

template <class Scalar>
void softmax_backward(ConstTokens<Scalar> weights, Tokens<Scalar> gradient) {
  for (Index t = 0; t < weights.tokens(); ++t) {
    Scalar mean(0);
    for (Index i = 0; i < weights.features(); ++i) mean += weights(i, t) * gradient(i, t);
    for (Index i = 0; i < weights.features(); ++i) gradient(i, t) = weights(i, t) * (gradient(i, t) - mean);
  }
}

}  // namespace reference
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
