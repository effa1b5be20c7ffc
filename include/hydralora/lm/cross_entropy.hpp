// SPDX-License-Identifier: MIT
// Cross-entropy, with its gradient in the place of the logits.
#pragma once

#include <numeric>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/lm/attention.hpp"
#include "hydralora/lm/reference.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// loss = Σ over tokens of ln Σ_i exp(z_i) − z_label,  and z becomes scale · (softmax(z) − one-hot(label)).
/// @param logits  (vocabulary × tokens), OVERWRITTEN with the gradient of scale · loss.
/// @param labels  a number in [0, vocabulary) for every token.
/// @return  the sum of the losses, without the scale.
/// Numerics  the same bits for any number of threads. Cost: two passes over the logits.
template <class Scalar>
loss_t<Scalar> cross_entropy(Tokens<Scalar> logits, const int* labels, real_t<Scalar> scale) {
  if constexpr (!simd::has_simd<Scalar>) {
    return reference::cross_entropy(logits, labels, scale);
  } else {
    ScratchFrame scratch;
    auto* losses = scratch.take<double>(logits.tokens());
    parallel_for(logits.tokens(), 30 * logits.features() * logits.tokens(), [&](Index t) {
      Scalar* const z = logits.token(t);
      const Scalar target = z[labels[t]];
      losses[t] = static_cast<double>(detail::softmax_of(z, logits.features())) - static_cast<double>(target);
      kernels::scale<Scalar>(logits.slice(t, 1), scale);
      z[labels[t]] -= scale;
    });
    return std::accumulate(losses, losses + logits.tokens(), 0.0);
  }
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
