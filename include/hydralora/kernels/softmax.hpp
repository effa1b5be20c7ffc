// SPDX-License-Identifier: MIT
// Softmax over the heads of every token, and its backward pass. Dispatch as in low_rank.hpp.
#pragma once

#include <cassert>

#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/reference/softmax.hpp"
#include "hydralora/kernels/simd/softmax.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace kernels {

/// ω_i = exp(ℓ_i − m) / Σ_j exp(ℓ_j − m), m = max_j ℓ_j, for every token, in place.
/// @param weights  (heads × tokens): logits ℓ in, weights ω out.
/// Numerics  finite for every finite logit; −Inf gives weight 0; all −Inf gives equal weights; NaN or +Inf gives NaN in
///           that token's column. One head gives exactly 1.
/// Cost      one exponential per weight.
template <class Scalar>
void softmax(Tokens<Scalar> weights) {
  if constexpr (simd::has_simd<Scalar>) {
    simd::softmax<simd::DefaultArch>(weights);
  } else {
    reference::softmax(weights);
  }
}

/// dℓ = ω ∘ (dω − ⟨ω, dω⟩), for every token, in place.
/// @param weights  (heads × tokens): ω, read.
/// @param gradient (heads × tokens): dω in, dℓ out. Must not overlap weights.
template <class Scalar>
void softmax_backward(ConstTokens<Scalar> weights, Tokens<Scalar> gradient) {
  assert(weights.shape() == gradient.shape());
  if constexpr (simd::has_simd<Scalar>) {
    simd::softmax_backward<simd::DefaultArch>(weights, gradient);
  } else {
    reference::softmax_backward(weights, gradient);
  }
}

#define HYDRALORA_SOFTMAX_INSTANCES(keyword, Scalar)     \
  keyword template void softmax<Scalar>(Tokens<Scalar>); \
  keyword template void softmax_backward<Scalar>(ConstTokens<Scalar>, Tokens<Scalar>);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_SOFTMAX_INSTANCES)

}  // namespace kernels
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
