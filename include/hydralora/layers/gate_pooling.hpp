// SPDX-License-Identifier: MIT
// Two steps of a gate: pooling over the tokens of a segment, and the selection of heads.
#pragma once

#include <algorithm>
#include <cmath>

#include "hydralora/core/segments.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/layers/gate_config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Every column becomes the mean of its segment's pooled columns; if causal, of those up to it. Sums are in token
/// order.
template <class Scalar>
void pool_mean(GateGranularity granularity, Segments segments, Tokens<Scalar> values) {
  using Real = real_t<Scalar>;
  const bool causal = granularity == GateGranularity::causal;
  segments.for_each_pooled(values.tokens(), [&](Index first, Index count, Index pooled) {
    for (Index i = 0; i < values.features(); ++i) {
      Scalar sum(0);
      for (Index t = 0; t < (causal ? count : pooled); ++t) {
        sum += values(i, first + t);
        if (causal) values(i, first + t) = sum / Scalar(static_cast<Real>(t + 1));
      }
      for (Index t = 0; t < count && !causal; ++t) values(i, first + t) = sum / Scalar(static_cast<Real>(pooled));
    }
  });
}

/// The transpose of pool_mean(): the gradients of the means become those of the columns.
template <class Scalar>
void pool_mean_backward(GateGranularity granularity, Segments segments, Tokens<Scalar> gradient) {
  using Real = real_t<Scalar>;
  const bool causal = granularity == GateGranularity::causal;
  segments.for_each_pooled(gradient.tokens(), [&](Index first, Index count, Index pooled) {
    for (Index i = 0; i < gradient.features(); ++i) {
      Scalar sum(0);
      for (Index t = count; t-- > 0;) {
        sum += gradient(i, first + t) / Scalar(static_cast<Real>(causal ? t + 1 : pooled));
        if (causal) gradient(i, first + t) = sum;
      }
      for (Index t = 0; t < count && !causal; ++t) gradient(i, first + t) = t < pooled ? sum : Scalar(0);
    }
  });
}

/// z = √(mean of h² + 1e-6), pooled as pool_mean() does. The constant keeps the gradient finite where h = 0.
template <class Scalar>
void pool_rms(GateGranularity granularity, Segments segments, ConstTokens<Scalar> h, Tokens<Scalar> z) {
  using std::sqrt;
  for (Index t = 0; t < z.tokens(); ++t) {
    for (Index i = 0; i < z.features(); ++i) z(i, t) = h(i, t) * h(i, t);
  }
  pool_mean(granularity, segments, z);
  for (Index t = 0; t < z.tokens(); ++t) {
    for (Index i = 0; i < z.features(); ++i) z(i, t) = sqrt(z(i, t) + Scalar(static_cast<real_t<Scalar>>(1e-6)));
  }
}

/// dh += h ∘ (the pooled dz / z).   @param dz  OVERWRITTEN.
template <class Scalar>
void pool_rms_backward(GateGranularity granularity, Segments segments, ConstTokens<Scalar> h, ConstTokens<Scalar> z,
                       Tokens<Scalar> dz, Tokens<Scalar> dh) {
  dz.matrix() = dz.matrix().cwiseQuotient(z.matrix());
  pool_mean_backward(granularity, segments, dz);
  dh.matrix() += dz.matrix().cwiseProduct(h.matrix());
}

/// ln Σ_i exp(ℓ_i) of every token.
template <class Scalar>
void log_sum_exp(ConstTokens<Scalar> logits, Tokens<Scalar> result) {
  using std::exp;
  using std::log;
  using std::real;
  for (Index t = 0; t < logits.tokens(); ++t) {
    Index top = 0;
    for (Index i = 1; i < logits.features(); ++i) top = real(logits(i, t)) > real(logits(top, t)) ? i : top;
    Scalar sum(0);
    for (Index i = 0; i < logits.features(); ++i) sum += exp(logits(i, t) - logits(top, t));
    result(0, t) = logits(top, t) + log(sum);
  }
}

/// Computes ω of the selected heads from π. A column with a NaN stays NaN.
template <class Scalar>
void select_heads(const GateConfig& gate, ConstTokens<Scalar> probabilities, Tokens<Scalar> weights) {
  using std::real;
  const Index heads = probabilities.features();
  kernels::copy<Scalar>(probabilities, weights);
  const Index limit = gate.selection == GateSelection::top_k                     ? gate.top_k
                      : gate.selection == GateSelection::top_p && gate.top_p < 1 ? heads
                      : gate.selection == GateSelection::one_hot                 ? 1
                                                                                 : 0;
  if (limit == 0 || (limit == heads && gate.selection == GateSelection::top_k)) return;
  const bool by_sum = gate.selection == GateSelection::top_p;
  for (Index t = 0; t < probabilities.tokens(); ++t) {
    // Heads are visited by descending π, equal ones by index. Each step finds the next.
    const auto pi = [&](Index i) { return real(probabilities(i, t)); };
    Index last = -1;
    Scalar sum(0);
    for (Index n = 0; n < limit; ++n) {
      const double selected = real(sum);
      if (by_sum && selected >= gate.top_p) break;
      Index next = -1;
      for (Index i = 0; i < heads; ++i) {
        const bool after = last < 0 || pi(i) < pi(last) || (pi(i) == pi(last) && i > last);
        if (after && (next < 0 ? pi(i) >= 0 : pi(i) > pi(next))) next = i;
      }
      if (next < 0) break;
      if (n == 0) std::fill(weights.token(t), weights.token(t) + heads, Scalar(0));
      weights(next, t) = probabilities(next, t);
      sum += probabilities(next, t);
      last = next;
    }
    if (last < 0) continue;
    for (Index i = 0; i < heads; ++i) {
      weights(i, t) = gate.selection == GateSelection::one_hot ? Scalar(i == last ? 1 : 0) : weights(i, t) / sum;
    }
  }
}

#define HYDRALORA_GATE_POOLING_INSTANCES(keyword, Scalar)                                                              \
  keyword template void pool_mean<Scalar>(GateGranularity, Segments, Tokens<Scalar>);                                  \
  keyword template void pool_mean_backward<Scalar>(GateGranularity, Segments, Tokens<Scalar>);                         \
  keyword template void pool_rms<Scalar>(GateGranularity, Segments, ConstTokens<Scalar>, Tokens<Scalar>);              \
  keyword template void pool_rms_backward<Scalar>(GateGranularity, Segments, ConstTokens<Scalar>, ConstTokens<Scalar>, \
                                                  Tokens<Scalar>, Tokens<Scalar>);                                     \
  keyword template void log_sum_exp<Scalar>(ConstTokens<Scalar>, Tokens<Scalar>);                                      \
  keyword template void select_heads<Scalar>(const GateConfig&, ConstTokens<Scalar>, Tokens<Scalar>);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_GATE_POOLING_INSTANCES)

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
