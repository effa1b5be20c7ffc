// SPDX-License-Identifier: MIT
//
// From a token to its rank-r projection and router logits, and back, with dropout on the way into A.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/low_rank.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Inverted dropout (Srivastava et al. 2014) whose mask is a function of position: never stored, drawn again in
/// backward.
struct Dropout {
  double probability = 0;
  CounterRandom random{0};
  std::uint64_t step = 0;
  std::uint64_t first_token = 0;

  /// x(j, t) becomes x(j, t) / (1 − p), or 0 with probability p. Eight features share one Philox block; p is met to
  /// 2^-32. `first_feature`, a multiple of `share`, is j of the view's first row.
  static constexpr Index share = 8;
  template <class Scalar>
  void apply(Tokens<Scalar> x, Index first_feature = 0) const {
    const auto threshold = static_cast<std::uint64_t>(probability * 0x1p32);
    const Scalar factor(static_cast<real_t<Scalar>>(1.0 / (1.0 - probability)));
    constexpr Index flop_per_number = 10;
    parallel_for(x.tokens(), x.tokens() * x.features() * flop_per_number, [&](Index t) {
      for (Index j = 0; j < x.features(); j += share) {
        const auto words = random.block(static_cast<std::uint64_t>((first_feature + j) / share),
                                        first_token + static_cast<std::uint64_t>(t), step);
        for (Index i = 0; i < std::min(share, x.features() - j); ++i) {
          const std::uint64_t draw =
              (words[static_cast<std::size_t>(i / 2)] >> (32U * (static_cast<unsigned>(i) % 2U))) & 0xffffffffU;
          Scalar& value = x(j + i, t);
          value = draw < threshold ? Scalar(0) : value * factor;
        }
      }
    });
  }

  /// The same for the tokens from `token` on.
  Dropout from(Index token) const {
    Dropout result = *this;
    result.first_token += static_cast<std::uint64_t>(token);
    return result;
  }
};

/// The features of a stack that begin at `first`.
template <class Scalar>
Stack<Scalar> stack_features(Stack<Scalar> s, Index first, Index features) {
  return {s.data + first * s.feature_stride,
          s.rows,
          features,
          s.row_stride,
          s.feature_stride,
          s.slack + (s.row_stride == 1 ? (s.features - first - features) * s.feature_stride : 0)};
}

/// The rows of a stack that begin at `first`.
template <class Scalar>
Stack<Scalar> stack_rows(Stack<Scalar> s, Index first, Index rows) {
  return {s.data + first * s.row_stride, rows, s.features, s.row_stride, s.feature_stride};
}

/// P = [A x̃; G x] for every token: the first adapter_rows rows of `down` see x with dropout, the gate sees it whole.
/// Without dropout both are one product.
/// @param p  (down rows × tokens), OVERWRITTEN.
template <class Scalar>
void project_down(ConstStack<Scalar> down, Index adapter_rows, const Dropout& dropout, ConstTokens<Scalar> x,
                  Tokens<Scalar> p) {
  if (dropout.probability == 0) return kernels::shrink(down, x, Scalar(1), p);

  ScratchFrame scratch;
  const Tokens<Scalar> dropped = scratch.take_tokens<Scalar>(x.features(), x.tokens());
  dropped.matrix() = x.matrix();
  dropout.apply(dropped);
  const Index gate_rows = down.rows - adapter_rows;
  kernels::shrink<Scalar>(stack_rows(down, 0, adapter_rows), dropped, Scalar(1), p.rows(0, adapter_rows));
  if (gate_rows == 0) return;
  kernels::shrink(stack_rows(down, adapter_rows, gate_rows), x, Scalar(1), p.rows(adapter_rows, gate_rows));
}

/// dDown += dP Xᵀ, i.e. with the mask m of dropout  dA += dH (m∘X)ᵀ  and  dG += dL Xᵀ.
/// @param first_feature  what x and the stack begin at, where they are a piece of the features. For dropout.
template <class Scalar>
void project_down_gradient(Index adapter_rows, const Dropout& dropout, ConstTokens<Scalar> x, ConstTokens<Scalar> dp,
                           Stack<Scalar> ddown, Index first_feature = 0) {
  if (dropout.probability == 0) return kernels::accumulate(dp, x, Scalar(1), ddown);

  ScratchFrame scratch;
  const Tokens<Scalar> dropped = scratch.take_tokens<Scalar>(x.features(), x.tokens());
  const Index gate_rows = ddown.rows - adapter_rows;
  dropped.matrix() = x.matrix();
  dropout.apply(dropped, first_feature);
  kernels::accumulate<Scalar>(dp.rows(0, adapter_rows), dropped, Scalar(1), stack_rows(ddown, 0, adapter_rows));
  if (gate_rows == 0) return;
  kernels::accumulate(dp.rows(adapter_rows, gate_rows), x, Scalar(1), stack_rows(ddown, adapter_rows, gate_rows));
}

/// dX += downᵀ dP, i.e. with the mask of dropout  dX += m ∘ (Aᵀ dH) + Gᵀ dL.
template <class Scalar>
void project_down_backward(ConstStack<Scalar> down, Index adapter_rows, const Dropout& dropout, ConstTokens<Scalar> dp,
                           Tokens<Scalar> dx, Index first_feature = 0) {
  if (dropout.probability == 0) return kernels::expand(down, dp, Scalar(1), dx);

  ScratchFrame scratch;
  const Tokens<Scalar> through_a = scratch.take_tokens<Scalar>(dx.features(), dx.tokens());
  const Index gate_rows = down.rows - adapter_rows;
  through_a.matrix().setZero();
  kernels::expand(stack_rows(down, 0, adapter_rows), dp.rows(0, adapter_rows), Scalar(1), through_a);
  dropout.apply(through_a, first_feature);
  dx.matrix() += through_a.matrix();
  if (gate_rows == 0) return;
  kernels::expand(stack_rows(down, adapter_rows, gate_rows), dp.rows(adapter_rows, gate_rows), Scalar(1), dx);
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
