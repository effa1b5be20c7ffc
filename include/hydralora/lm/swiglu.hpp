// SPDX-License-Identifier: MIT
// SwiGLU, forward and backward.
#pragma once

#include <cassert>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/lm/reference.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// h = silu(gate) ∘ up, silu(z) = z / (1 + exp(−z)). Source: Shazeer 2020, arXiv:2002.05202.
/// @param gate_up  (2 features × tokens): gate above up, read.
/// @param h        (features × tokens), OVERWRITTEN. Must not overlap gate_up.
template <class Scalar>
void swiglu(ConstTokens<Scalar> gate_up, Tokens<Scalar> h) {
  assert(gate_up.features() == 2 * h.features() && gate_up.tokens() == h.tokens());
  if constexpr (!simd::has_simd<Scalar>) {
    reference::swiglu(gate_up, h);
  } else {
    using B = simd::Batch<Scalar, simd::DefaultArch>;
    constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
    const Index features = h.features();
    parallel_chunks(h.tokens(), 16, 25 * features * h.tokens(), [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        const Scalar *gate = gate_up.token(t), *up = gate + features;
        Scalar* to = h.token(t);
        for (Index i = 0; i < features; i += width) {
          const Index n = features - i;
          const B z = simd::load_first<simd::DefaultArch>(gate + i, n);
          const B u = simd::load_first<simd::DefaultArch>(up + i, n);
          const B s = B(Scalar(1)) / (B(Scalar(1)) + simd::exponential<simd::DefaultArch>(-z));
          simd::store_first<simd::DefaultArch>(B(z * s * u), to + i, n);
        }
      }
    });
  }
}

/// dgate = dh ∘ up ∘ σ(gate) (1 + gate (1 − σ(gate))),  dup = dh ∘ silu(gate).
/// @param gate_up  (2 features × tokens): gate and up in, OVERWRITTEN with their gradients.
template <class Scalar>
void swiglu_backward(Tokens<Scalar> gate_up, ConstTokens<Scalar> dh) {
  assert(gate_up.features() == 2 * dh.features() && gate_up.tokens() == dh.tokens());
  if constexpr (!simd::has_simd<Scalar>) {
    reference::swiglu_backward(gate_up, dh);
  } else {
    using B = simd::Batch<Scalar, simd::DefaultArch>;
    constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
    const Index features = dh.features();
    parallel_chunks(dh.tokens(), 16, 30 * features * dh.tokens(), [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        Scalar *gate = gate_up.token(t), *up = gate + features;
        const Scalar* d = dh.token(t);
        for (Index i = 0; i < features; i += width) {
          const Index n = features - i;
          const B z = simd::load_first<simd::DefaultArch>(gate + i, n);
          const B u = simd::load_first<simd::DefaultArch>(up + i, n);
          const B g = simd::load_first<simd::DefaultArch>(d + i, n);
          const B s = B(Scalar(1)) / (B(Scalar(1)) + simd::exponential<simd::DefaultArch>(-z));
          const B silu = z * s;
          simd::store_first<simd::DefaultArch>(B(g * silu), up + i, n);
          simd::store_first<simd::DefaultArch>(B(g * u * (s + silu * (B(Scalar(1)) - s))), gate + i, n);
        }
      }
    });
  }
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
