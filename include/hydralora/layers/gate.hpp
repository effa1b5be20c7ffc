// SPDX-License-Identifier: MIT
//
// The gate (router): what it reads, over which tokens it pools, how many heads it keeps, and back. The layers only know
// that a token comes in and the weights ω of its heads come out.
//
//   logits         ℓ = G x                       or G A x, or G applied to the root mean square of A x over a segment
//   pooled         the mean of the logits         over the segment, or over its tokens so far
//   probabilities  π = softmax(ℓ / temperature)
//   weights        ω = π, or only its largest, scaled to sum 1, or 1 for the largest alone
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/kernels/softmax.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/call_options.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Where the weights ω of the heads come from.
enum class Routing {
  uniform,  ///< ω_i = 1: the plain sum of the heads
  learned,  ///< from the layer's gate (GateConfig)
  given     ///< from the caller in CallOptions::weights: a task id (one-hot), another router
};

/// What the gate's matrix G is applied to.
enum class GateInput {
  x,           ///< the layer's input: G is heads × in_features. As released
  projection,  ///< A x: G is heads × rank (SplitLoRA and SharedBLoRA: heads × heads · rank). As the paper's eq. (4) writes it
  rms_projection  ///< √(mean of (A x)² + 1e-6) over a segment's tokens: G as above. Pooled only
};

/// Which heads a token keeps. Equal probabilities: the lower head.
enum class GateSelection {
  dense,   ///< all: ω = π
  top_k,   ///< the k most probable, ω = π over their sum
  top_p,   ///< the fewest whose probabilities sum to p or more, ω = π over their sum
  one_hot  ///< the most probable, ω = 1; gradients pass as if ω were π (straight-through, arXiv:1308.3432)
};

/// Which tokens share what the gate sees.
enum class GateGranularity {
  token,    ///< every token for itself
  segment,  ///< all tokens of a segment alike. A token then sees its future: right for classifiers and encoders, a leak
            ///< in a language model
  causal    ///< the segment's tokens up to this one
};

/// The learned gate of a layer. The default is the paper's: dense softmax of G x, token by token.
///
/// The gradients are those of the formulas as they stand, piecewise where heads are selected: an infinitesimal step does
/// not change which heads a token keeps.
struct GateConfig {
  GateInput input = GateInput::x;                        ///< what G is applied to
  GateSelection selection = GateSelection::dense;        ///< which heads a token keeps
  GateGranularity granularity = GateGranularity::token;  ///< which tokens share what the gate sees
  double temperature = 1;  ///< π = softmax(ℓ / temperature), > 0: below 1 sharper, above 1 flatter
  Index top_k = 1;         ///< for GateSelection::top_k, 1 … heads; all heads are exactly the dense gate
  double top_p = 1;        ///< for GateSelection::top_p, in (0, 1]; 1 is exactly the dense gate
  bool keep_log_partition =
      false;  ///< keep ln Σ exp(ℓ / temperature), a number per token, for the z-loss (train/balance.hpp)

  bool reads_projection() const { return input != GateInput::x; }  ///< whether G is applied to A x
  /// Whether tokens of a segment share what it sees.
  bool pools() const { return granularity != GateGranularity::token; }
  /// Whether gradients pass as if ω were π.
  bool straight_through() const { return selection == GateSelection::one_hot; }

  /// The same in every setting.
  friend bool operator==(const GateConfig& a, const GateConfig& b) {
    return a.input == b.input && a.selection == b.selection && a.granularity == b.granularity &&
           a.temperature == b.temperature && a.top_k == b.top_k && a.top_p == b.top_p &&
           a.keep_log_partition == b.keep_log_partition;
  }
};

namespace detail {

/// What the gate adds to the sizes of a layer's tensors and cache.
inline void add_gate(AdapterShape& shape, Routing routing, const GateConfig& gate) {
  const bool learned = routing == Routing::learned;
  shape.gate_rows = learned && !gate.reads_projection() ? shape.heads : 0;
  shape.gate_columns = learned && gate.reads_projection() ? shape.a_rows : 0;
  shape.probability_rows = gate.selection == GateSelection::dense ? 0 : shape.heads;
  shape.partition_rows = gate.keep_log_partition ? 1 : 0;
  shape.pooled = gate.pools();
  shape.takes_weights = routing == Routing::given;
  shape.gate = static_cast<std::uint32_t>(gate.input) * 100 + static_cast<std::uint32_t>(gate.selection) * 10 +
               static_cast<std::uint32_t>(gate.granularity);
}

/// Refuses a gate that makes no sense in this layer, with the reason.
inline void check_gate(const char* layer, const GateConfig& gate, Routing routing, Index heads, double dropout) {
  expects(gate.top_k >= 1 && gate.top_k <= heads, layer, ": gate.top_k ", gate.top_k, " must be in [1, ", heads,
          "], the number of heads");
  expects(gate.top_p > 0 && gate.top_p <= 1, layer, ": gate.top_p ", gate.top_p, " must be in (0, 1]");
  constexpr auto least = static_cast<double>(std::numeric_limits<float>::min());  // layers in float divide by it
  expects(gate.temperature >= least && gate.temperature <= 1 / least, layer, ": gate.temperature ", gate.temperature,
          " must be finite and above 0");
  expects(routing == Routing::learned || gate == GateConfig{}, layer,
          ": gate settings without Routing::learned would have no effect");
  expects(gate.input != GateInput::rms_projection || gate.pools(), layer,
          ": GateInput::rms_projection is a mean over tokens: it needs GateGranularity::segment or causal");
  expects(!gate.reads_projection() || dropout == 0, layer, ": a gate that reads A x would see what dropout ", dropout,
          " leaves of x in training, and all of it later: use GateInput::x or dropout 0");
}

/// f(first, count) for every segment; without a list all tokens are one.
template <class Function>
void for_each_segment(Segments segments, Index tokens, Function&& f) {
  if (segments.count == 0) return f(Index(0), tokens);
  for (Index i = 0, first = 0; i < segments.count; first += segments.lengths[i++]) f(first, segments.lengths[i]);
}

/// Every column becomes the mean of its segment's columns, or of those up to it (causal), one after another in order.
template <class Scalar>
void pool_mean(GateGranularity granularity, Segments segments, Tokens<Scalar> values) {
  using Real = real_t<Scalar>;
  for_each_segment(segments, values.tokens(), [&](Index first, Index count) {
    for (Index i = 0; i < values.features(); ++i) {
      Scalar sum(0);
      for (Index t = 0; t < count; ++t) {
        sum += values(i, first + t);
        if (granularity == GateGranularity::causal) values(i, first + t) = sum / Scalar(static_cast<Real>(t + 1));
      }
      if (granularity == GateGranularity::causal) continue;
      for (Index t = 0; t < count; ++t) values(i, first + t) = sum / Scalar(static_cast<Real>(count));
    }
  });
}

/// Its transpose: from the gradients of the means to those of the columns.
template <class Scalar>
void pool_mean_backward(GateGranularity granularity, Segments segments, Tokens<Scalar> gradient) {
  using Real = real_t<Scalar>;
  for_each_segment(segments, gradient.tokens(), [&](Index first, Index count) {
    for (Index i = 0; i < gradient.features(); ++i) {
      Scalar sum(0);
      for (Index t = count; t-- > 0;) {
        const bool causal = granularity == GateGranularity::causal;
        sum += gradient(i, first + t) / Scalar(static_cast<Real>(causal ? t + 1 : count));
        if (causal) gradient(i, first + t) = sum;
      }
      if (granularity == GateGranularity::causal) continue;
      for (Index t = 0; t < count; ++t) gradient(i, first + t) = sum;
    }
  });
}

/// z = √(mean of h² + 1e-6), pooled as pool_mean() does. The constant keeps the gradient finite where h = 0.
template <class Scalar>
void pool_rms(GateGranularity granularity, Segments segments, ConstTokens<Scalar> h, Tokens<Scalar> z) {
  using std::sqrt;
  z.matrix() = h.matrix().cwiseProduct(h.matrix());
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

/// ω of the heads a token keeps; a column with a NaN stays NaN.
template <class Scalar>
void select_heads(const GateConfig& gate, ConstTokens<Scalar> probabilities, Tokens<Scalar> weights) {
  using std::real;
  const Index heads = probabilities.features();
  weights.matrix() = probabilities.matrix();
  const Index most = gate.selection == GateSelection::top_k                     ? gate.top_k
                     : gate.selection == GateSelection::top_p && gate.top_p < 1 ? heads
                     : gate.selection == GateSelection::one_hot                 ? 1
                                                                                : 0;
  if (most == 0 || (most == heads && gate.selection == GateSelection::top_k)) return;
  const bool by_sum = gate.selection == GateSelection::top_p;
  for (Index t = 0; t < probabilities.tokens(); ++t) {
    // In descending order, equals by index: the next is the largest of those behind the last.
    const auto pi = [&](Index i) { return real(probabilities(i, t)); };
    Index last = -1;
    Scalar sum(0);
    for (Index n = 0; n < most && !(by_sum && real(sum) >= gate.top_p); ++n) {
      Index next = -1;
      for (Index i = 0; i < heads; ++i) {
        const bool behind = last < 0 || pi(i) < pi(last) || (pi(i) == pi(last) && i > last);
        if (behind && (next < 0 ? pi(i) >= 0 : pi(i) > pi(next))) next = i;
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

/// What a gate leaves behind for its backward pass and for the balance losses, and where its own matrix is.
template <class Scalar, class View = Tokens<Scalar>>
struct GateTensors {
  ConstStack<Scalar> matrix;  ///< G where it reads A x; no rows where it is part of the down stack
  View weights;               ///< (heads × tokens): ω; for GateInput::x the logits on the way in
  View probabilities;         ///< (heads × tokens): π, where ω is not π; else no rows
  View log_partition;         ///< (1 × tokens): ln Σ exp(ℓ / temperature), or no rows
};

/// From the logits G x, or from h = A x, to ω.
template <class Scalar>
void gate_forward(const GateConfig& gate, const GateTensors<Scalar>& to, ConstTokens<Scalar> h, Segments segments) {
  using std::exp;
  using std::log;
  using std::real;
  const Tokens<Scalar> logits = to.weights;
  if (gate.input == GateInput::projection) kernels::shrink<Scalar>(to.matrix, h, Scalar(1), logits);  // ℓ = G h
  if (gate.input == GateInput::rms_projection) {
    ScratchFrame scratch;
    const Tokens<Scalar> z = scratch.take_tokens<Scalar>(h.features(), h.tokens());
    pool_rms(gate.granularity, segments, h, z);
    kernels::shrink<Scalar>(to.matrix, z, Scalar(1), logits);  // ℓ = G z
  } else if (gate.pools()) {
    pool_mean(gate.granularity, segments, logits);
  }
  if (gate.temperature != 1) logits.matrix() /= Scalar(static_cast<real_t<Scalar>>(gate.temperature));
  if (to.log_partition.features() > 0) {
    for (Index t = 0; t < logits.tokens(); ++t) {
      Index top = 0;
      for (Index i = 1; i < logits.features(); ++i) top = real(logits(i, t)) > real(logits(top, t)) ? i : top;
      Scalar sum(0);
      for (Index i = 0; i < logits.features(); ++i) sum += exp(logits(i, t) - logits(top, t));
      to.log_partition(0, t) = logits(top, t) + log(sum);
    }
  }
  kernels::softmax(logits);  // π
  if (to.probabilities.features() == 0) return;
  to.probabilities.matrix() = logits.matrix();
  select_heads<Scalar>(gate, to.probabilities, to.weights);
}

/// From dω to the gradients of the logits G x, or to those of G and h.
///
/// @param kept      as gate_forward() left it, read.
/// @param extra     (heads × tokens) or empty: a gradient of ℓ / temperature, pooled, that a balance loss adds.
/// @param dweights  (heads × tokens): dω in; out, for GateInput::x, the gradient of G x.
/// @param dmatrix   dG where the gate reads A x, ADDED to.
/// @param dh        ADDED to where the gate reads A x.
template <class Scalar>
void gate_backward(const GateConfig& gate, const GateTensors<Scalar, ConstTokens<Scalar>>& kept, ConstTokens<Scalar> h,
                   Segments segments, ConstTokens<Scalar> extra, Tokens<Scalar> dweights, Stack<Scalar> dmatrix,
                   Tokens<Scalar> dh) {
  // Where heads are left out their ω is 0, and the softmax over the others has the same derivative as that over all.
  kernels::softmax_backward(gate.straight_through() ? kept.probabilities : kept.weights, dweights);
  const Tokens<Scalar> dlogits = dweights;
  if (extra.tokens() > 0) dlogits.matrix() += extra.matrix();
  if (gate.temperature != 1) dlogits.matrix() /= Scalar(static_cast<real_t<Scalar>>(gate.temperature));
  if (gate.pools() && gate.input != GateInput::rms_projection) {
    pool_mean_backward(gate.granularity, segments, dlogits);
  }
  if (gate.input == GateInput::projection) {
    kernels::accumulate<Scalar>(dlogits, h, Scalar(1), dmatrix);   // dG += dL Hᵀ
    kernels::expand<Scalar>(kept.matrix, dlogits, Scalar(1), dh);  // dH += Gᵀ dL
  }
  if (gate.input == GateInput::rms_projection) {
    ScratchFrame scratch;
    const Tokens<Scalar> z = scratch.take_tokens<Scalar>(h.features(), h.tokens());
    const Tokens<Scalar> dz = scratch.take_tokens<Scalar>(h.features(), h.tokens());
    pool_rms(gate.granularity, segments, h, z);
    kernels::accumulate<Scalar>(dlogits, z, Scalar(1), dmatrix);  // dG += dL Zᵀ
    dz.matrix().setZero();
    kernels::expand<Scalar>(kept.matrix, dlogits, Scalar(1), dz);  // dZ = Gᵀ dL
    pool_rms_backward<Scalar>(gate.granularity, segments, h, z, dz, dh);
  }
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
