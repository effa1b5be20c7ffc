// SPDX-License-Identifier: MIT
// Element by element. Eigen computes the same, but each of its expressions takes a tenth of a second to compile.
#pragma once

#include <algorithm>
#include <cassert>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace kernels {

/// Y = value.
template <class Scalar>
void fill(Tokens<Scalar> y, Scalar value) {
  for (Index t = 0; t < y.tokens(); ++t) std::fill(y.token(t), y.token(t) + y.features(), value);
}

/// Y = X, where numbers of 16 bits are widened or rounded.
template <class Scalar, class Y = Scalar>
void copy(ConstTokens<Scalar> x, type_t<Tokens<Y>> y) {
  assert(x.shape() == y.shape());
  for (Index t = 0; t < y.tokens(); ++t) {
    if constexpr (std::is_same_v<Scalar, Y>) {
      std::copy(x.token(t), x.token(t) + x.features(), y.token(t));
    } else if constexpr (simd::has_simd_sums<Scalar>) {
      simd::copy<simd::DefaultArch>(x.token(t), y.token(t), x.features());
    } else {
      for (Index i = 0; i < y.features(); ++i) y(i, t) = narrow<Y>(widen(x(i, t)));
    }
  }
}

/// Y += X.
template <class Scalar, class Y = Scalar>
void add(ConstTokens<Scalar> x, type_t<Tokens<Y>> y) {
  assert(x.shape() == y.shape());
  for (Index t = 0; t < y.tokens(); ++t) {
    const Scalar* from = x.token(t);
    Y* to = y.token(t);
    Index i = 0;
    if constexpr (simd::has_simd_sums<Scalar>) {
      constexpr Index width = simd::lanes<sum_t<Scalar>, simd::DefaultArch>;
      for (; i + width <= y.features(); i += width) {
        simd::store<simd::DefaultArch>(simd::load<simd::DefaultArch>(to + i) + simd::load<simd::DefaultArch>(from + i),
                                       to + i);
      }
    }
    for (; i < y.features(); ++i) to[i] = narrow<Y>(widen(to[i]) + widen(from[i]));
  }
}

/// Y = factor · Y.
template <class Scalar>
void scale(Tokens<Scalar> y, Scalar factor) {
  for (Index t = 0; t < y.tokens(); ++t) {
    Scalar* to = y.token(t);
    Index i = 0;
    if constexpr (simd::has_simd<Scalar>) {
      using B = simd::Batch<Scalar, simd::DefaultArch>;
      constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
      for (; i + width <= y.features(); i += width) {
        (B::load_unaligned(to + i) * B(factor)).store_unaligned(to + i);
      }
    }
    for (; i < y.features(); ++i) to[i] *= factor;
  }
}

/// Y = Y / divisor.
template <class Scalar>
void divide(Tokens<Scalar> y, Scalar divisor) {
  if constexpr (!simd::has_simd<Scalar>) {  // complex numbers: other roundings than Eigen's would change results
    y.matrix() /= divisor;
    return;
  }
  for (Index t = 0; t < y.tokens(); ++t) {
    for (Index i = 0; i < y.features(); ++i) y(i, t) /= divisor;
  }
}

#define HYDRALORA_ELEMENTWISE_INSTANCES(keyword, Scalar)                   \
  keyword template void fill<Scalar>(Tokens<Scalar>, Scalar);              \
  keyword template void copy<Scalar>(ConstTokens<Scalar>, Tokens<Scalar>); \
  keyword template void add<Scalar>(ConstTokens<Scalar>, Tokens<Scalar>);  \
  keyword template void scale<Scalar>(Tokens<Scalar>, Scalar);             \
  keyword template void divide<Scalar>(Tokens<Scalar>, Scalar);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_ELEMENTWISE_INSTANCES)

}  // namespace kernels
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
