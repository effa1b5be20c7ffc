// SPDX-License-Identifier: MIT
// The gate (router): computes the weights ω of the heads for every token, and the gradients.
//
//   logits         ℓ = G x                       or G A x, or G applied to the root mean square of A x over a segment
//   pooled         the mean of the logits         over the segment, or over its tokens up to this one
//   probabilities  π = softmax(ℓ / temperature)
//   weights        ω = π, or the largest π scaled to sum 1, or 1 for the largest and 0 for the others
#pragma once

#include <cstdlib>
#include <limits>
#include <ostream>
#include <sstream>
#include <string>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/segments.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/kernels/softmax.hpp"
#include "hydralora/layers/gate_config.hpp"
#include "hydralora/layers/gate_pooling.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What a gate saves in forward().
template <class View>
struct GateSaved {
  View weights;        ///< ω, (heads × tokens). A gate on x reads its logits G x here and replaces them
  View probabilities;  ///< π, (heads × tokens), where ω can differ from π; else no rows
  View log_partition;  ///< ln Σ exp(ℓ / temperature), (1 × tokens), with GateConfig::keep_log_partition; else no rows
};

/// The gate of a layer. It stores only settings: G belongs to the layer's parameters, and the data for backward() to
/// the layer's cache.
struct Gate {
  Index heads = 0;                     ///< weights per token; 0 = no gate, forward() and backward() then do nothing
  Routing routing = Routing::uniform;  ///< where ω comes from
  GateConfig config;                   ///< for Routing::learned
  Index probability_rows = 0;          ///< of GateSaved::probabilities
  Index partition_rows = 0;            ///< of GateSaved::log_partition

  Gate() = default;
  Gate(Index number_of_heads, Routing where_from, const GateConfig& settings)
      : heads(number_of_heads),
        routing(where_from),
        config(settings),
        probability_rows(learned() && settings.selection != GateSelection::dense ? heads : 0),
        partition_rows(learned() && settings.keep_log_partition ? 1 : 0) {}

  bool learned() const { return heads > 0 && routing == Routing::learned; }      ///< whether there is a G
  bool takes_weights() const { return heads > 0 && routing == Routing::given; }  ///< whether ω comes from the caller
  bool pools() const { return learned() && config.pools(); }                     ///< whether tokens are pooled
  /// Whether all tokens of a segment get the same ω.
  bool same_in_segment() const { return learned() && config.granularity == GateGranularity::segment; }
  bool reads_x() const { return learned() && !config.reads_projection(); }          ///< G is part of the down stack
  bool reads_projection() const { return learned() && config.reads_projection(); }  ///< G is a matrix of its own

  /// Numbers per token between forward() and backward().
  Index saved_rows() const { return heads + probability_rows + partition_rows; }
  /// The parts of these rows.
  template <class View>
  GateSaved<View> saved(View rows) const {
    return {rows.rows(0, heads), rows.rows(heads, probability_rows),
            rows.rows(heads + probability_rows, partition_rows)};
  }

  /// Computes ω from the logits G x, or from h = A x.
  /// @param G      (heads × rows of h), read by a gate on A x.
  /// @param h      A x, read.
  /// @param given  ω with Routing::given, read.
  /// @param rows   (saved_rows() × tokens), OVERWRITTEN. A gate on x reads its logits from the first `heads` rows.
  template <class Scalar>
  void forward(ConstStack<Scalar> G, ConstTokens<sum_t<Scalar>> h, ConstTokens<sum_t<Scalar>> given, Segments segments,
               Tokens<sum_t<Scalar>> rows) const;

  /// Computes the gradient of the logits G x, or those of G and h, from dω.
  /// @param rows      as written by forward(), read.
  /// @param logits_gradient  (heads × tokens) or empty: the gradient of a balance loss with respect to the pooled
  ///                  ℓ / temperature.
  /// @param dgiven    with Routing::given, unless empty: dω is ADDED to it.
  /// @param dweights  (heads × tokens): holds dω, and is OVERWRITTEN by a learned gate with the gradient of its logits.
  /// @param dG        ADDED to by a gate on A x.
  /// @param dh        ADDED to by a gate on A x.
  template <class Scalar, class Sum = sum_t<Scalar>>
  void backward(ConstStack<Scalar> G, ConstTokens<Sum> h, ConstTokens<Sum> rows, Segments segments,
                ConstTokens<Sum> logits_gradient, Tokens<Sum> dgiven, Tokens<Sum> dweights, Stack<Sum> dG,
                Tokens<Sum> dh) const;

  /// Whether one gate can use the cache of the other. Settings without effect are not compared, such as top_k of a
  /// dense gate or the temperature of a single head.
  friend bool operator==(const Gate& a, const Gate& b) {
    const GateConfig &c = a.config, &d = b.config;
    return a.heads == b.heads && (a.heads == 0 || a.routing == b.routing) && c.input == d.input &&
           c.selection == d.selection && c.granularity == d.granularity &&
           c.keep_log_partition == d.keep_log_partition && (c.temperature == d.temperature || !a.uses_temperature()) &&
           (c.top_k == d.top_k || !a.uses_top_k()) && (c.top_p == d.top_p || !a.uses_top_p());
  }
  /// The settings other than the defaults, for messages: Routing::learned, temperature 5.
  friend std::ostream& operator<<(std::ostream& out, const Gate& gate) {
    if (gate.heads == 0) return out << "no gate";
    out << gate.routing;
    if (gate.learned()) gate.print_difference(out, Gate(gate.heads, gate.routing, {}), false);
    return out;
  }
  /// Prints the settings that differ from `other`'s and have an effect, with the other value if that is the expected
  /// one: ", temperature 1, expected 5".
  void print_difference(std::ostream& out, const Gate& other, bool other_is_expected) const;

 private:
  bool uses_temperature() const { return heads > 1 || config.keep_log_partition; }
  bool uses_top_k() const { return heads > 1 && config.selection == GateSelection::top_k; }
  bool uses_top_p() const { return heads > 1 && config.selection == GateSelection::top_p; }
};

template <class Scalar>
void Gate::forward(ConstStack<Scalar> G, ConstTokens<sum_t<Scalar>> h, ConstTokens<sum_t<Scalar>> given,
                   Segments segments, Tokens<sum_t<Scalar>> rows) const {
  using Sum = sum_t<Scalar>;
  if (heads == 0) return;
  const auto [weights, probabilities, log_partition] = saved(rows);
  if (routing == Routing::uniform) kernels::fill<Sum>(weights, Sum(1));
  if (routing == Routing::given) kernels::copy<Sum>(given, weights);
  if (routing != Routing::learned) return;
  const Tokens<Sum> logits = weights;
  if (config.input == GateInput::projection) kernels::shrink<Scalar, Sum>(G, h, Sum(1), logits);  // ℓ = G h
  if (config.input == GateInput::rms_projection) {
    ScratchFrame scratch;
    const Tokens<Sum> z = scratch.take_tokens<Sum>(h.features(), h.tokens());
    detail::pool_rms(config.granularity, segments, h, z);
    kernels::shrink<Scalar, Sum>(G, z, Sum(1), logits);  // ℓ = G z
  } else if (config.pools()) {
    detail::pool_mean(config.granularity, segments, logits);
  }
  if (config.temperature != 1) kernels::divide<Sum>(logits, Sum(static_cast<real_t<Sum>>(config.temperature)));
  if (log_partition.features() > 0) detail::log_sum_exp<Sum>(logits, log_partition);
  kernels::softmax(logits);  // π
  if (probabilities.features() == 0) return;
  kernels::copy<Sum>(weights, probabilities);
  detail::select_heads<Sum>(config, probabilities, weights);
}

template <class Scalar, class Sum>
void Gate::backward(ConstStack<Scalar> G, ConstTokens<Sum> h, ConstTokens<Sum> rows, Segments segments,
                    ConstTokens<Sum> logits_gradient, Tokens<Sum> dgiven, Tokens<Sum> dweights, Stack<Sum> dG,
                    Tokens<Sum> dh) const {
  if (takes_weights() && dgiven.tokens() > 0) kernels::add<Sum>(dweights, dgiven);
  if (!learned()) return;
  // The derivative of the softmax over the selected heads: the others have ω = 0. With one_hot as if ω were π.
  const GateSaved<ConstTokens<Sum>> from = saved(rows);
  kernels::softmax_backward(config.straight_through() ? from.probabilities : from.weights, dweights);
  const Tokens<Sum> dlogits = dweights;
  if (logits_gradient.tokens() > 0) kernels::add<Sum>(logits_gradient, dlogits);
  if (config.temperature != 1) kernels::divide<Sum>(dlogits, Sum(static_cast<real_t<Sum>>(config.temperature)));
  if (config.pools() && config.input != GateInput::rms_projection) {
    detail::pool_mean_backward(config.granularity, segments, dlogits);
  }
  if (config.input == GateInput::projection) {
    kernels::accumulate<Sum>(dlogits, h, Sum(1), dG);      // dG += dL Hᵀ
    kernels::expand<Scalar, Sum>(G, dlogits, Sum(1), dh);  // dH += Gᵀ dL
  }
  if (config.input == GateInput::rms_projection) {
    ScratchFrame scratch;
    const Tokens<Sum> z = scratch.take_tokens<Sum>(h.features(), h.tokens());
    const Tokens<Sum> dz = scratch.take_tokens<Sum>(h.features(), h.tokens());
    detail::pool_rms(config.granularity, segments, h, z);
    kernels::accumulate<Sum>(dlogits, z, Sum(1), dG);  // dG += dL Zᵀ
    kernels::fill<Sum>(dz, Sum(0));
    kernels::expand<Scalar, Sum>(G, dlogits, Sum(1), dz);  // dZ = Gᵀ dL
    detail::pool_rms_backward<Sum>(config.granularity, segments, h, z, dz, dh);
  }
}

#define HYDRALORA_GATE_INSTANCES(keyword, Scalar)                                                                      \
  keyword template void Gate::forward<Scalar>(ConstStack<Scalar>, ConstTokens<Scalar>, ConstTokens<Scalar>, Segments,  \
                                              Tokens<Scalar>) const;                                                   \
  keyword template void Gate::backward<Scalar>(ConstStack<Scalar>, ConstTokens<Scalar>, ConstTokens<Scalar>, Segments, \
                                               ConstTokens<Scalar>, Tokens<Scalar>, Tokens<Scalar>, Stack<Scalar>,     \
                                               Tokens<Scalar>) const;
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_GATE_INSTANCES)

namespace detail {

/// The shortest decimal number that reads back as `value`.
inline std::string shortest(double value) {
  for (int digits = 1;; ++digits) {
    std::ostringstream text;
    text.precision(digits);
    text << value;
    if (digits == std::numeric_limits<double>::max_digits10 || std::strtod(text.str().c_str(), nullptr) == value) {
      return text.str();
    }
  }
}

/// @throws std::invalid_argument  on settings that are invalid for this number of heads and this dropout.
inline void check_gate(const char* layer, const GateConfig& c, Routing routing, Index heads, double dropout) {
  expects(c.top_k >= 1 && c.top_k <= heads, layer, ": gate.top_k ", c.top_k, " must be in [1, ", heads,
          "], the number of heads");
  expects(c.top_p > 0 && c.top_p <= 1, layer, ": gate.top_p ", c.top_p, " must be in (0, 1]");
  constexpr auto smallest = static_cast<double>((std::numeric_limits<float>::min)());  // layers in float divide by it
  expects(c.temperature >= smallest && c.temperature <= 1 / smallest, layer, ": gate.temperature ", c.temperature,
          " must be finite and above 0");
  expects(routing == Routing::learned || c == GateConfig{}, layer,
          ": gate settings without Routing::learned would have no effect");
  expects(c.input != GateInput::rms_projection || c.pools(), layer,
          ": GateInput::rms_projection is a mean over tokens: it needs GateGranularity::segment or causal");
  expects(!c.reads_projection() || dropout == 0, layer, ": a gate that reads A x would read x with dropout ", dropout,
          " in training and without it at inference: use GateInput::x or dropout 0");
}

}  // namespace detail

inline void Gate::print_difference(std::ostream& out, const Gate& other, bool other_is_expected) const {
  const GateConfig &a = config, &b = other.config;
  const auto compare = [&](const char* setting, const auto& here, const auto& there, bool has_effect) {
    if (here == there || !has_effect) return;
    out << ", " << setting << ' ' << here;
    if (other_is_expected) out << ", expected " << there;
  };
  compare("input", a.input, b.input, true);
  compare("selection", a.selection, b.selection, true);
  compare("granularity", a.granularity, b.granularity, true);
  compare("temperature", detail::shortest(a.temperature), detail::shortest(b.temperature), uses_temperature());
  compare("top_k", a.top_k, b.top_k, uses_top_k());
  compare("top_p", detail::shortest(a.top_p), detail::shortest(b.top_p), uses_top_p());
  compare("keep_log_partition", a.keep_log_partition, b.keep_log_partition, true);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
