// SPDX-License-Identifier: MIT
//
// Head mixing, vectorised along the rank. Ranks are small (4 … 64), so a head is one to eight AVX2 registers; heads are
// added in order, and a product ⟨v_i, h⟩ sums lane by lane, then the lanes in order.
#pragma once

#include <algorithm>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Tokens one thread mixes at a time: some 10^4 multiply-adds, enough to pay for waking it.
inline constexpr Index mix_chunk = 64;

/// See kernels::mix_heads.
template <class Arch, class Scalar>
void mix_heads(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> u) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  const Index heads = weights.features(), rank = u.features() / heads;
  const Index own = h.features() == rank ? 0 : rank;
  const auto mix_token = [&](Index t) {
    for (Index i = 0; i < heads; ++i) {
      const B weight(weights(i, t));
      const Scalar* from = h.token(t) + i * own;
      Scalar* to = u.token(t) + i * rank;
      for (Index j = 0; j < rank; j += step) {
        const Index count = std::min(step, rank - j);
        store_first<Arch>(weight * load_first<Arch>(from + j, count), to + j, count);
      }
    }
  };
  parallel_for((u.tokens() + mix_chunk - 1) / mix_chunk, u.tokens() * u.features(), [&](Index chunk) {
    for (Index t = chunk * mix_chunk; t < std::min(u.tokens(), (chunk + 1) * mix_chunk); ++t) mix_token(t);
  });
}

/// See kernels::mix_heads_backward.
template <class Arch, class Scalar>
void mix_heads_backward(ConstTokens<Scalar> v, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                        Tokens<Scalar> dweights, Tokens<Scalar> dh) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  const Index heads = weights.features(), rank = v.features() / heads;
  const Index own = h.features() == rank ? 0 : rank;
  const auto reduce_token = [&](Index t) {
    std::fill(dh.token(t), dh.token(t) + dh.features(), Scalar(0));
    for (Index i = 0; i < heads; ++i) {
      const B weight(weights(i, t));
      const Scalar* vi = v.token(t) + i * rank;
      const Scalar* hi = h.token(t) + i * own;
      Scalar* dhi = dh.token(t) + i * own;
      B products(Scalar(0));  // unused lanes hold 0 · 0
      for (Index j = 0; j < rank; j += step) {
        const Index count = std::min(step, rank - j);
        const B value = load_first<Arch>(vi + j, count);
        products = fma(value, load_first<Arch>(hi + j, count), products);
        store_first<Arch>(fma(weight, value, load_first<Arch>(dhi + j, count)), dhi + j, count);
      }
      dweights(i, t) = ordered_sum<Arch>(products);
    }
  };
  parallel_for((v.tokens() + mix_chunk - 1) / mix_chunk, 4 * v.tokens() * v.features(), [&](Index chunk) {
    for (Index t = chunk * mix_chunk; t < std::min(v.tokens(), (chunk + 1) * mix_chunk); ++t) reduce_token(t);
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
