// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "hydralora/core/segments.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What one call of forward() or backward() may add. Every member has a default; set the ones that are wanted:
///
///   CallOptions<float> options;
///   options.step = step;
///   layer.forward(x, y, cache, options);
template <class Scalar>
struct CallOptions {
  /// Dropout draws its mask from (the layer's seed, step, first_token + column, feature), so that a training step can
  /// be computed again bit for bit, and in pieces. Read by forward() with a cache, which remembers both for backward().
  std::uint64_t step = 0;
  std::uint64_t first_token = 0;  ///< of a batch in pieces: tokens before this piece

  /// ω for Routing::given, (heads × tokens). Read by forward(); backward() reads them from the cache.
  ConstTokens<Scalar> weights;

  /// dω for Routing::given, (heads × tokens), ADDED to by backward() where it is not empty. Must overlap none of x, dy,
  /// dx.
  Tokens<Scalar> weights_gradient;

  /// For a gate that pools (GateConfig::granularity): lengths ≥ 0 that sum to the tokens of the call. Empty: all tokens are
  /// one segment. Checked, and without effect, in other layers. Read by forward(), which remembers it for backward().
  Segments segments;

  /// The gradient of a balance loss (train/balance.hpp) for a learned gate, (heads × tokens), added inside the gate by
  /// backward(): that of the pooled logits over the temperature. Must not overlap dx.
  ConstTokens<Scalar> logits_gradient;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
