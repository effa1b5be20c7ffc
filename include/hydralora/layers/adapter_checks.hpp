// SPDX-License-Identifier: MIT
// The checks of forward() and backward(). All of them come before anything is written.
#pragma once

#include <ostream>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/adapter_cache.hpp"
#include "hydralora/layers/adapter_shape.hpp"
#include "hydralora/layers/call_options.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

inline void check_view(const AdapterShape& s, const char* where, const char* what, Shape actual, Shape expected,
                       const char* meaning) {
  expects(actual == expected, s.layer, where, what, " is ", actual, ", expected ", expected, " (", meaning,
          " x tokens)");
}

/// Refuses weights, or their gradient, in a layer that does not use them.
template <class Scalar>
void check_weights(const AdapterShape& s, const char* where, const char* what, ConstTokens<Scalar> weights,
                   Index tokens, bool required) {
  if (!s.takes_weights) {
    expects(weights.features() == 0, s.layer, where, what, " are ", weights.shape(),
            ", but this layer takes none (only one with Routing::given does)");
  } else if (required || weights.features() != 0 || weights.tokens() != 0) {
    expects(tokens == 0 || weights.shape() == Shape{s.heads, tokens}, s.layer, where, what, " are ", weights.shape(),
            ", expected ", Shape{s.heads, tokens}, " (heads x tokens)");
  }
}

inline void check_segments(const AdapterShape& s, Segments segments, Index tokens) {
  if (segments.count == 0) return;
  constexpr auto where = "::forward: ";
  expects(segments.count > 0 && segments.lengths != nullptr, s.layer, where, "segments: ", segments.count, " lengths",
          segments.lengths == nullptr ? " (null)" : "");
  Index left = tokens;
  for (Index i = 0; i < segments.count; ++i) {
    const Index length = segments.lengths[i];
    expects(length >= 0, s.layer, where, "segment ", i, " has length ", length);
    expects(length <= left, s.layer, where, "segments 0 to ", i, " hold more than the ", tokens, " tokens");
    left -= length;
    if (segments.prompts == nullptr || length == 0) continue;
    const Index prompt = segments.prompts[i];
    expects(prompt >= 1 && prompt <= length, s.layer, where, "prompt ", i, " has ", prompt, " tokens, its segment ",
            length);
  }
  expects(left == 0, s.layer, where, "the segments hold ", tokens - left, " of ", tokens, " tokens");
}

template <class Scalar>
void check_forward(const AdapterShape& s, ConstTokens<Scalar> x, Tokens<Scalar> y,
                   const CallOptions<sum_t<Scalar>>& options) {
  constexpr auto where = "::forward: ";
  check_view(s, where, "x", x.shape(), {s.in, x.tokens()}, "in_features");
  check_view(s, where, "y", y.shape(), {s.out, x.tokens()}, "out_features");
  expects(!overlap<Scalar>(x, y), s.layer, where, "x ", x.shape(), " and y ", y.shape(), " overlap");
  check_weights<sum_t<Scalar>>(s, where, "weights", options.weights, x.tokens(), true);
  expects(!overlap<sum_t<Scalar>, Scalar>(options.weights, y), s.layer, where, "weights ", options.weights.shape(),
          " and y ", y.shape(), " overlap");
  check_segments(s, options.segments, x.tokens());
}

/// Prints the settings in which the gate and the dropout of a cache differ from the layer's.
struct CacheDifference {
  const Gate& gate;
  const Gate& expected_gate;
  const Dropout& dropout;
  const Dropout& expected_dropout;

  friend std::ostream& operator<<(std::ostream& out, const CacheDifference& d) {
    d.gate.print_difference(out, d.expected_gate, true);
    if (d.dropout.probability != d.expected_dropout.probability) {
      out << ", dropout " << shortest(d.dropout.probability) << ", expected "
          << shortest(d.expected_dropout.probability);
    } else if (!same_masks(d.dropout, d.expected_dropout)) {
      out << ", dropout of another seed";
    }
    return out;
  }
};

/// The checks of backward() that need no x. dx may be empty.
template <class Scalar>
void check_backward(const AdapterShape& s, const Dropout& dropout, ConstTokens<Scalar> dy,
                    const AdapterCache<sum_t<Scalar>>& cache, const AdapterShape& g, Tokens<Scalar> dx,
                    const CallOptions<sum_t<Scalar>>& options) {
  constexpr auto where = "::backward: ";
  const Index tokens = dy.tokens();
  check_view(s, where, "dy", dy.shape(), {s.out, tokens}, "out_features");
  expects(cache.shape() == s && cache.tokens() == tokens && same_masks(cache.dropout(), dropout), s.layer, where,
          "the cache is from ", cache.shape(), " with ", cache.tokens(), " tokens, expected ", s, " with ", tokens,
          " tokens", CacheDifference{cache.shape().gate, s.gate, cache.dropout(), dropout});
  expects(g.same_tensors(s), s.layer, where, "the gradients are for ", g, ", expected ", s);
  check_weights<sum_t<Scalar>>(s, where, "weights_gradient", options.weights_gradient, tokens, false);
  expects(!overlap<sum_t<Scalar>, Scalar>(options.weights_gradient, dy), s.layer, where, "weights_gradient ",
          options.weights_gradient.shape(), " overlaps x or dy");
  const ConstTokens<sum_t<Scalar>> logits_gradient = options.logits_gradient;
  if (logits_gradient.features() > 0 || logits_gradient.tokens() > 0) {
    expects(s.gated(), s.layer, where, "logits_gradient is ", logits_gradient.shape(), ", but this layer has no gate");
    check_view(s, where, "logits_gradient", logits_gradient.shape(), {s.heads, tokens}, "heads");
    expects(!overlap<sum_t<Scalar>, Scalar>(logits_gradient, dx), s.layer, where, "logits_gradient ",
            logits_gradient.shape(), " overlaps dx");
  }
  expects(!overlap<Scalar>(dx, dy), s.layer, where, "dx ", dx.shape(), " and dy ", dy.shape(), " overlap");
  expects(!overlap<Scalar, sum_t<Scalar>>(dx, options.weights_gradient), s.layer, where, "dx ", dx.shape(),
          " and weights_gradient ", options.weights_gradient.shape(), " overlap");
}

template <class Scalar>
void check_backward(const AdapterShape& s, const Dropout& dropout, ConstTokens<Scalar> x, ConstTokens<Scalar> dy,
                    const AdapterCache<sum_t<Scalar>>& cache, const AdapterShape& g, Tokens<Scalar> dx,
                    const CallOptions<sum_t<Scalar>>& options) {
  constexpr auto where = "::backward: ";
  check_view(s, where, "x", x.shape(), {s.in, x.tokens()}, "in_features");
  check_view(s, where, "dy", dy.shape(), {s.out, x.tokens()}, "out_features");
  expects(!overlap<sum_t<Scalar>, Scalar>(options.weights_gradient, x), s.layer, where, "weights_gradient ",
          options.weights_gradient.shape(), " overlaps x or dy");
  check_backward<Scalar>(s, dropout, dy, cache, g, dx, options);
  expects(!overlap<Scalar>(dx, x), s.layer, where, "dx ", dx.shape(), " and x ", x.shape(), " overlap");
}

#define HYDRALORA_ADAPTER_CHECKS_INSTANCES(keyword, Scalar)                                                           \
  keyword template void check_forward<Scalar>(const AdapterShape&, ConstTokens<Scalar>, Tokens<Scalar>,               \
                                              const CallOptions<Scalar>&);                                            \
  keyword template void check_backward<Scalar>(const AdapterShape&, const Dropout&, ConstTokens<Scalar>,              \
                                               const AdapterCache<Scalar>&, const AdapterShape&, Tokens<Scalar>,      \
                                               const CallOptions<Scalar>&);                                           \
  keyword template void check_backward<Scalar>(const AdapterShape&, const Dropout&, ConstTokens<Scalar>,              \
                                               ConstTokens<Scalar>, const AdapterCache<Scalar>&, const AdapterShape&, \
                                               Tokens<Scalar>, const CallOptions<Scalar>&);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_ADAPTER_CHECKS_INSTANCES)

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
