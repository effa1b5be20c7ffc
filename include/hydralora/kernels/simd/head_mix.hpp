// SPDX-License-Identifier: MIT
// kernels/head_mix.hpp, vectorised along the rank. A rank (4 … 64) is often less than a register, and part of a
// register is expensive to load and store. So whole registers are used wherever they stay within the token's numbers:
// what is written beyond a head is overwritten by the next head, and what is read there is masked out.
#pragma once

#include <algorithm>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Tokens that a thread mixes at a time: some 10^4 multiply-adds, which pay for starting it.
inline constexpr Index mix_chunk = 64;

namespace detail {

/// The pieces of a token: `heads` times `rank` numbers, each head in pieces of one register.
template <class Arch, class Scalar>
struct HeadCut {
  static constexpr Index step = lanes<Scalar, Arch>;
  Index heads, rank;

  /// Numbers of the piece that begins at j.
  Index count(Index j) const { return (std::min)(step, rank - j); }
  /// Numbers to load or store at j of head i: a whole register if it fits into the token.
  Index reach(Index i, Index j) const { return heads * rank - i * rank - j < step ? count(j) : step; }
};

}  // namespace detail

template <class Arch, class Scalar>
void mix_heads(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> u) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  const Index heads = weights.features(), rank = u.features() / heads;
  const detail::HeadCut<Arch, Scalar> cut{heads, rank};
  const bool shared = h.features() == rank;
  parallel_chunks(u.tokens(), mix_chunk, 4 * u.tokens() * u.features(), [&](Index begin, Index count) {
    ScratchFrame scratch;
    Scalar* padded = scratch.take<Scalar>(rank + step);  // the shared h, padded to whole registers
    std::fill(padded, padded + rank + step, Scalar(0));
    for (Index t = begin; t < begin + count; ++t) {
      if (shared) std::copy(h.token(t), h.token(t) + rank, padded);
      Scalar* to = u.token(t);
      for (Index i = 0; i < heads; ++i, to += rank) {
        const B weight(weights(i, t));
        const Scalar* from = shared ? padded : h.token(t) + i * rank;
        for (Index j = 0; j < rank; j += step) {
          const Index reach = cut.reach(i, j);
          const B value = shared ? B::load_unaligned(from + j) : load_first<Arch>(from + j, reach);
          store_first<Arch>(weight * value, to + j, reach);
        }
      }
    }
  });
}

template <class Arch, class Scalar>
void mix_heads_backward(ConstTokens<Scalar> v, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                        Tokens<Scalar> dweights, Tokens<Scalar> dh) {
  using B = Batch<Scalar, Arch>;
  constexpr Index step = lanes<Scalar, Arch>;
  const Index heads = weights.features(), rank = v.features() / heads;
  const detail::HeadCut<Arch, Scalar> cut{heads, rank};
  const bool shared = h.features() == rank;
  const auto last_lanes = first_lanes<Arch, Scalar>(cut.count((rank - 1) / step * step));
  parallel_chunks(v.tokens(), mix_chunk, 8 * v.tokens() * v.features(), [&](Index begin, Index count) {
    ScratchFrame scratch;
    Scalar* padded = scratch.take<Scalar>(rank + step);
    Scalar* sums = scratch.take<Scalar>(rank + step);  // the shared dh
    std::fill(padded, padded + rank + step, Scalar(0));
    for (Index t = begin; t < begin + count; ++t) {
      if (shared) {
        std::copy(h.token(t), h.token(t) + rank, padded);
        std::fill(sums, sums + rank + step, Scalar(0));
      }
      for (Index i = 0; i < heads; ++i) {
        const B weight(weights(i, t));
        const Scalar* vi = v.token(t) + i * rank;
        B products(Scalar(0));
        for (Index j = 0; j < rank; j += step) {
          const Index reach = cut.reach(i, j);
          const B value = load_first<Arch>(vi + j, reach);
          const B other = shared ? B::load_unaligned(padded + j) : load_first<Arch>(h.token(t) + i * rank + j, reach);
          const B sum = fma(value, other, products);
          products = j + step <= rank ? sum : select(last_lanes, sum, products);
          if (shared) {
            fma(weight, value, B::load_unaligned(sums + j)).store_unaligned(sums + j);
          } else {
            store_first<Arch>(weight * value, dh.token(t) + i * rank + j, reach);
          }
        }
        dweights(i, t) = ordered_sum<Arch>(products, rank);
      }
      if (shared) std::copy(sums, sums + rank, dh.token(t));
    }
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
