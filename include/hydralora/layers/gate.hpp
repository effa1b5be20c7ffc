// SPDX-License-Identifier: MIT
//
// The gate (router): from logits to the weights of the heads, and back. Which gate a layer has is decided here and
// nowhere else; the layers only know that logits go in and weights come out.
#pragma once

#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/softmax.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The dense softmax gate, per token:  ω = softmax(ℓ).
///
/// Source   HydraLoRA, Tian et al. 2024, arXiv:2404.19245, eq. (4) and (5); the logits ℓ = G x come from the layer.
struct SoftmaxGate {
  /// @param weights  (heads × tokens): logits in, weights out. See kernels::softmax for extreme logits.
  template <class Scalar>
  static void forward(Tokens<Scalar> weights) {
    kernels::softmax(weights);
  }

  /// @param weights   ω, (heads × tokens), read.
  /// @param gradient  (heads × tokens): dω in, dℓ out.
  template <class Scalar>
  static void backward(ConstTokens<Scalar> weights, Tokens<Scalar> gradient) {
    kernels::softmax_backward(weights, gradient);
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
