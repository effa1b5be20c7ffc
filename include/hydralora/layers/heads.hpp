// SPDX-License-Identifier: MIT
// The settings and the middle that all layers of N heads share.
#pragma once

#include <cstdint>

#include "hydralora/layers/adapter.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

enum class Shared : std::uint8_t { nothing, A, B };

/// The settings of a layer of N heads; checked by the layer.
template <Shared shared>
struct HeadsConfig {
  Index in_features = 0;         ///< of x
  Index out_features = 0;        ///< of y
  Index rank = 8;                ///< of each head
  double alpha = 16;             ///< s = alpha / rank
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;  ///< probability that an input of A is dropped in training; the gate's input is not dropped
  Index heads = 4;     ///< N; one head is a LoRA
  Routing routing = shared == Shared::nothing ? Routing::uniform : Routing::learned;  ///< where ω comes from
  GateConfig gate = {};                                                               ///< for Routing::learned
};

template <Shared shared>
struct HeadsMiddle : MiddleDefaults {
  using Config = HeadsConfig<shared>;
  static constexpr bool shares_A = shared == Shared::A, shares_B = shared == Shared::B;

  static void check(const AdapterShape& s, const Config& c) {
    expects(s.heads == c.heads, s.layer, ": shape() has ", s.heads, " heads, expected heads_shape() with ", c.heads);
    detail::check_gate(s.layer, c.gate, c.routing, c.heads, c.dropout);
  }

 protected:
  /// @param weights  numbers per token: heads, or 0 without weights.
  static AdapterShape heads_shape(const char* layer, const Config& c, Index weights) {
    return {layer, c, shares_A, shares_B, Gate(weights, c.routing, c.gate)};
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
