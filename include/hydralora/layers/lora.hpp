// SPDX-License-Identifier: MIT
// LoRA: one low-rank addition to a frozen weight.
#pragma once

#include "hydralora/layers/adapter.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The settings of a LoRA, or of any layer with one A and one B; checked by the layer.
struct LoRAConfig {
  Index in_features = 0;         ///< of x
  Index out_features = 0;        ///< of y
  Index rank = 8;                ///< of A and B
  double alpha = 16;             ///< s = alpha / rank
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;            ///< probability that an input of A is dropped in training
};

/// LoRA's middle: u = h.
struct LoRAMiddle : MiddleDefaults {
  using Config = LoRAConfig;
  using Linear = LoRAMiddle;
  using Standard = LoRAMiddle;

  static AdapterShape shape(const Config& c) {
    AdapterShape s("LoRA", c);
    s.mixes = false;
    return s;
  }
  template <class S>
  void mix(const MiddleInput<S>& /*in*/, Tokens<S> /*u*/) const {}
  template <class S>
  void mix_backward(const MiddleInput<S>& /*in*/, ConstTokens<S> /*v*/, const MiddleGradient<S>& /*d*/) const {}
};

/// One low-rank adapter, y += s · B (A x).
///
/// Source    Hu et al. 2021, arXiv:2106.09685, eq. (3).
/// forward   h = A x       y += s B h
/// backward  V = s Bᵀ dY   dB += s dY Hᵀ   dA += V Xᵀ   dX += Aᵀ V
///
/// Line by line: formula.hpp. Saved for backward: H, rank numbers per token. The members are documented in Adapter.
template <class Scalar = float, class Activation = Scalar>
class LoRA : public Adapter<Scalar, LoRAMiddle, Activation> {
 public:
  using Adapter<Scalar, LoRAMiddle, Activation>::Adapter;
};

/// A former name.
[[deprecated("use LoRAMiddle::shape()")]] inline AdapterShape shape_of(const LoRAConfig& c) {
  return LoRAMiddle::shape(c);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
