// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "hydralora/core/segments.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Optional arguments of forward() and backward():
///
///   CallOptions<float> options;
///   options.step = step;
///   layer.forward(x, y, cache, options);
template <class Scalar>
struct CallOptions {
  /// Dropout draws its mask from (the layer's seed, step, first_token + column, feature). So a training step can be
  /// repeated bit for bit, and computed in pieces. Read by forward() with a cache, which saves both for backward().
  std::uint64_t step = 0;
  std::uint64_t first_token = 0;  ///< the number of tokens before this piece of a batch

  /// ω for Routing::given, (heads × tokens). Read by forward(); backward() reads them from the cache.
  ConstTokens<Scalar> weights;
  /// dω for Routing::given, (heads × tokens) or empty, ADDED to by backward(). Must not overlap x, dy or dx.
  Tokens<Scalar> weights_gradient;
  /// For a gate that pools (GateConfig::granularity): lengths ≥ 0 that sum to the tokens of the call, and prompts.
  /// Empty: all tokens are one segment. Other layers only check it. Read by forward(), which saves it for backward().
  Segments segments;
  /// For a learned gate: the gradient of a balance loss (train/balance.hpp) with respect to the pooled logits /
  /// temperature, (heads × tokens). Read by backward(). Must not overlap dx.
  ConstTokens<Scalar> logits_gradient;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
