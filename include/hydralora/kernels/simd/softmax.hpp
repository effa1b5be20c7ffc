// SPDX-License-Identifier: MIT
// kernels/softmax.hpp with the vector exponential. A lane depends on its number only, and a token's sums are taken one
// number after another, so a token has the same bits in any batch.
#pragma once

#include <algorithm>
#include <limits>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Tokens that a thread takes at a time: enough exponentials to pay for starting it.
inline constexpr Index softmax_chunk = 64;

/// The exponentials of a chunk of tokens are taken side by side, so that they fill registers with any number of heads.
template <class Arch, class Scalar>
void softmax(Tokens<Scalar> weights) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  constexpr Scalar minus_infinity = -std::numeric_limits<Scalar>::infinity();
  constexpr Index flop_per_number = 50;
  const Index heads = weights.features();
  const Index work = flop_per_number * weights.tokens() * heads;
  parallel_chunks(weights.tokens(), softmax_chunk, work, [&](Index begin, Index count) {
    const Index numbers = (count * heads + step - 1) / step * step;
    ScratchFrame scratch;
    Scalar* powers = scratch.take<Scalar>(numbers);
    std::fill(powers + count * heads, powers + numbers, Scalar(0));
    for (Index t = 0; t < count; ++t) {
      const Scalar* logits = weights.token(begin + t);
      Scalar largest = minus_infinity;
      for (Index i = 0; i < heads; ++i) largest = logits[i] > largest ? logits[i] : largest;
      // If all are −Inf or NaN: −Inf gives equal weights, instead of the NaN of Inf − Inf; NaN stays.
      const bool none = largest == minus_infinity;
      for (Index i = 0; i < heads; ++i) {
        powers[t * heads + i] = none ? (logits[i] == minus_infinity ? Scalar(0) : logits[i]) : logits[i] - largest;
      }
    }
    for (Index i = 0; i < numbers; i += step) {
      exponential<Arch>(B::load_unaligned(powers + i)).store_unaligned(powers + i);
    }
    for (Index t = 0; t < count; ++t) {
      const Scalar* power = powers + t * heads;
      Scalar sum = 0;
      for (Index i = 0; i < heads; ++i) sum += power[i];
      for (Index i = 0; i < heads; ++i) weights(i, begin + t) = power[i] / sum;
    }
  });
}

/// The products are taken side by side, too.
template <class Arch, class Scalar>
void softmax_backward(ConstTokens<Scalar> weights, Tokens<Scalar> gradient) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  constexpr Index flop_per_number = 20;
  const Index heads = weights.features();
  const Index work = flop_per_number * weights.tokens() * heads;
  parallel_chunks(weights.tokens(), softmax_chunk, work, [&](Index begin, Index count) {
    const Index numbers = (count * heads + step - 1) / step * step;
    ScratchFrame scratch;
    Scalar* products = scratch.take<Scalar>(numbers);
    Scalar* factors = scratch.take<Scalar>(numbers);
    std::fill(products + count * heads, products + numbers, Scalar(0));
    std::fill(factors + count * heads, factors + numbers, Scalar(0));
    for (Index t = 0; t < count; ++t) {
      std::copy(weights.token(begin + t), weights.token(begin + t) + heads, products + t * heads);
      std::copy(gradient.token(begin + t), gradient.token(begin + t) + heads, factors + t * heads);
    }
    // In registers, so that the compiler cannot fuse products with the sums below, which would change a token's bits.
    for (Index i = 0; i < numbers; i += step) {
      (B::load_unaligned(products + i) * B::load_unaligned(factors + i)).store_unaligned(products + i);
    }
    for (Index t = 0; t < count; ++t) {
      Scalar mean = 0;
      for (Index i = 0; i < heads; ++i) mean += products[t * heads + i];
      for (Index i = 0; i < heads; ++i) {
        gradient(i, begin + t) = weights(i, begin + t) * (gradient(i, begin + t) - mean);
      }
    }
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
