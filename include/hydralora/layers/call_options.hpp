// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

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
  std::uint64_t first_token = 0;

  /// ω for Routing::given, (heads × tokens). Read by forward(); backward() takes what the cache kept.
  ConstTokens<Scalar> weights;

  /// dω for Routing::given, (heads × tokens), ADDED to by backward() where it is not empty. Must overlap none of x, dy,
  /// dx.
  Tokens<Scalar> weights_gradient;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
