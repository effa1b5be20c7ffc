// SPDX-License-Identifier: MIT
// The products with [A; G], forward and backward, with dropout between x and A. The gate sees x without dropout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/kernels/low_rank.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Inverted dropout (Srivastava et al. 2014). The mask is a function of position and is drawn again in backward().
struct Dropout {
  double probability = 0;         ///< that a feature of a token is dropped
  CounterRandom random{0};        ///< of the layer's seed
  std::uint64_t step = 0;         ///< of training
  std::uint64_t first_token = 0;  ///< number of the first token

  static constexpr Index share = 8;  ///< features of one Philox block

  /// x(j, t) becomes 0 with probability p (exact to 2^-32), otherwise x(j, t) / (1 − p).
  /// @param first_feature  j of the view's first row, a multiple of `share`.
  template <class Scalar>
  void apply(Tokens<Scalar> x, Index first_feature = 0) const {
    const auto threshold = static_cast<std::uint64_t>(probability * 0x1p32);
    const Scalar factor(static_cast<real_t<Scalar>>(1.0 / (1.0 - probability)));
    constexpr Index flop_per_number = 10;
    parallel_for(x.tokens(), x.tokens() * x.features() * flop_per_number, [&](Index t) {
      for (Index j = 0; j < x.features(); j += share) {
        const auto words = random.block(static_cast<std::uint64_t>((first_feature + j) / share),
                                        first_token + static_cast<std::uint64_t>(t), step);
        for (Index i = 0; i < (std::min)(share, x.features() - j); ++i) {
          const std::uint64_t draw =
              (words[static_cast<std::size_t>(i / 2)] >> (32U * (static_cast<unsigned>(i) % 2U))) & 0xffffffffU;
          Scalar& value = x(j + i, t);
          value = draw < threshold ? Scalar(0) : value * factor;
        }
      }
    });
  }

  /// The dropout of the tokens from `token` on.
  Dropout from(Index token) const {
    Dropout result = *this;
    result.first_token += static_cast<std::uint64_t>(token);
    return result;
  }
};

/// Whether two dropouts draw the same masks at the same step and tokens.
inline bool same_masks(const Dropout& a, const Dropout& b) {
  return a.probability == b.probability && (a.probability == 0 || a.random == b.random);
}

/// P = [A x̃; G x] for every token, x̃ being x with dropout. Without dropout it is one product.
/// @param down    [A; G], (rows × features), read. A is its first a_rows rows.
/// @param p       (rows × tokens), OVERWRITTEN.
template <class Scalar, class X = Scalar>
void shrink(ConstStack<Scalar> down, Index a_rows, const Dropout& dropout, ConstTokens<X> x, Tokens<sum_t<Scalar>> p) {
  using Sum = sum_t<Scalar>;
  if (dropout.probability == 0) return kernels::shrink<Scalar, X>(down, x, Sum(1), p);

  ScratchFrame scratch;
  const Tokens<Sum> dropped = scratch.take_tokens<Sum>(x.features(), x.tokens());
  kernels::copy<X, Sum>(x, dropped);
  dropout.apply(dropped);
  const Index gate_rows = down.rows - a_rows;
  kernels::shrink<Scalar, Sum>(down.row_range(0, a_rows), dropped, Sum(1), p.rows(0, a_rows));
  if (gate_rows == 0) return;
  kernels::shrink<Scalar, X>(down.row_range(a_rows, gate_rows), x, Sum(1), p.rows(a_rows, gate_rows));
}

/// dDown += dP Xᵀ. With the mask m of dropout:  dA += dH (m∘X)ᵀ  and  dG += dL Xᵀ.
/// @param x              (features × tokens), read. It may be some of the features.
/// @param dp             [dH; dL], (rows × tokens), read.
/// @param ddown          (rows × features), ADDED to.
/// @param first_feature  number of the first row of x and of the first feature of ddown.
template <class Scalar, class X = Scalar>
void shrink_gradient(Index a_rows, const Dropout& dropout, ConstTokens<X> x, ConstTokens<Scalar> dp,
                     Stack<Scalar> ddown, Index first_feature) {
  if (dropout.probability == 0) return kernels::accumulate<Scalar, X>(dp, x, Scalar(1), ddown);

  ScratchFrame scratch;
  const Tokens<Scalar> dropped = scratch.take_tokens<Scalar>(x.features(), x.tokens());
  const Index gate_rows = ddown.rows - a_rows;
  kernels::copy<X, Scalar>(x, dropped);
  dropout.apply(dropped, first_feature);
  kernels::accumulate<Scalar>(dp.rows(0, a_rows), dropped, Scalar(1), ddown.row_range(0, a_rows));
  if (gate_rows == 0) return;
  kernels::accumulate<Scalar, X>(dp.rows(a_rows, gate_rows), x, Scalar(1), ddown.row_range(a_rows, gate_rows));
}

/// dX += downᵀ dP. With the mask m of dropout:  dX += m ∘ (Aᵀ dH) + Gᵀ dL.
/// @param dx             (features × tokens), ADDED to. It may be some of the features.
/// @param first_feature  number of the first row of dx and of the first feature of down.
template <class Scalar, class X = Scalar>
void shrink_backward(ConstStack<Scalar> down, Index a_rows, const Dropout& dropout, ConstTokens<sum_t<Scalar>> dp,
                     Tokens<X> dx, Index first_feature) {
  using Sum = sum_t<Scalar>;
  if (dropout.probability == 0) return kernels::expand<Scalar, X>(down, dp, Sum(1), dx);

  ScratchFrame scratch;
  const Tokens<Sum> through_A = scratch.take_tokens<Sum>(dx.features(), dx.tokens());
  const Index gate_rows = down.rows - a_rows;
  kernels::fill<Sum>(through_A, Sum(0));
  kernels::expand<Scalar, Sum>(down.row_range(0, a_rows), dp.rows(0, a_rows), Sum(1), through_A);
  dropout.apply(through_A, first_feature);
  kernels::add<Sum, X>(through_A, dx);
  if (gate_rows == 0) return;
  kernels::expand<Scalar, X>(down.row_range(a_rows, gate_rows), dp.rows(a_rows, gate_rows), Sum(1), dx);
}

#define HYDRALORA_DROPOUT_INSTANCES(keyword, Scalar)                                                             \
  keyword template void shrink<Scalar>(ConstStack<Scalar>, Index, const Dropout&, ConstTokens<Scalar>,           \
                                       Tokens<Scalar>);                                                          \
  keyword template void shrink_gradient<Scalar>(Index, const Dropout&, ConstTokens<Scalar>, ConstTokens<Scalar>, \
                                                Stack<Scalar>, Index);                                           \
  keyword template void shrink_backward<Scalar>(ConstStack<Scalar>, Index, const Dropout&, ConstTokens<Scalar>,  \
                                                Tokens<Scalar>, Index);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_DROPOUT_INSTANCES)

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
