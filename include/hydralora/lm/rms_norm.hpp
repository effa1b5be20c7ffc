// SPDX-License-Identifier: MIT
// RMSNorm, forward and backward.
#pragma once

#include <cassert>
#include <cmath>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/lm/reference.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// n = g ∘ x / √(mean of x² + ε), for every token. Source: Zhang & Sennrich 2019, arXiv:1910.07467, with ε as in Llama.
/// @param x        (features × tokens), read.
/// @param gain     g, `features` numbers.
/// @param inverse  OVERWRITTEN with 1 / √(mean of x² + ε), a number per token, for backward.
/// @param n        (features × tokens), OVERWRITTEN. May be x.
template <class Scalar>
void rms_norm(ConstTokens<Scalar> x, const Scalar* gain, double epsilon, Scalar* inverse, Tokens<Scalar> n) {
  assert(x.shape() == n.shape());
  if constexpr (!simd::has_simd<Scalar>) {
    reference::rms_norm(x, gain, epsilon, inverse, n);
  } else {
    using B = simd::Batch<Scalar, simd::DefaultArch>;
    constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
    const Index features = x.features();
    parallel_chunks(x.tokens(), 64, 5 * features * x.tokens(), [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        const Scalar* from = x.token(t);
        Scalar* to = n.token(t);
        B sums(Scalar(0));
        for (Index i = 0; i < features; i += width) {
          const B v = simd::load_first<simd::DefaultArch>(from + i, features - i);
          sums = fma(v, v, sums);
        }
        const Scalar sum = simd::ordered_sum<simd::DefaultArch>(sums);
        const Scalar r = 1 / std::sqrt(sum / Scalar(features) + Scalar(epsilon));
        inverse[t] = r;
        for (Index i = 0; i < features; i += width) {
          const B v = simd::load_first<simd::DefaultArch>(from + i, features - i);
          const B g = simd::load_first<simd::DefaultArch>(gain + i, features - i);
          simd::store_first<simd::DefaultArch>(B(v * B(r) * g), to + i, features - i);
        }
      }
    });
  }
}

/// dx += r g ∘ dn − r³ ⟨g ∘ dn, x⟩ / features · x, with the r of forward. dg is rms_norm_gain_backward().
/// @param dx  (features × tokens), ADDED to. Must not overlap dn.
template <class Scalar>
void rms_norm_backward(ConstTokens<Scalar> x, const Scalar* gain, const Scalar* inverse, ConstTokens<Scalar> dn,
                       Tokens<Scalar> dx) {
  assert(x.shape() == dn.shape() && x.shape() == dx.shape());
  if constexpr (!simd::has_simd<Scalar>) {
    reference::rms_norm_backward(x, gain, inverse, dn, dx);
  } else {
    using B = simd::Batch<Scalar, simd::DefaultArch>;
    constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
    const Index features = x.features();
    parallel_chunks(x.tokens(), 64, 9 * features * x.tokens(), [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        const Scalar *from = x.token(t), *d = dn.token(t);
        Scalar* to = dx.token(t);
        B sums(Scalar(0));
        const auto load = [&](const Scalar* p, Index i) {
          return simd::load_first<simd::DefaultArch>(p + i, features - i);
        };
        for (Index i = 0; i < features; i += width) sums = fma(load(from, i), load(gain, i) * load(d, i), sums);
        const Scalar sum = simd::ordered_sum<simd::DefaultArch>(sums);
        const Scalar r = inverse[t], c = r * r * r * sum / Scalar(features);
        for (Index i = 0; i < features; i += width) {
          const B sum_of_both = load(to, i) + B(r) * load(gain, i) * load(d, i) - B(c) * load(from, i);
          simd::store_first<simd::DefaultArch>(sum_of_both, to + i, features - i);
        }
      }
    });
  }
}

/// dg += Σ over tokens of r x ∘ dn, for full fine-tuning. @param gain_gradient  `features` numbers, ADDED to.
template <class Scalar>
void rms_norm_gain_backward(ConstTokens<Scalar> x, const Scalar* inverse, ConstTokens<Scalar> dn,
                            Scalar* gain_gradient) {
  for (Index t = 0; t < x.tokens(); ++t) {
    for (Index i = 0; i < x.features(); ++i) gain_gradient[i] += inverse[t] * x(i, t) * dn(i, t);
  }
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
