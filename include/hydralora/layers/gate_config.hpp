// SPDX-License-Identifier: MIT
// The settings of a gate. What they do is in gate.hpp.
#pragma once

#include <ostream>

#include "hydralora/core/config.hpp"

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
  x,           ///< the layer's input: G is heads × in_features. As in HydraLoRA's code
  projection,  ///< A x: G is heads × rank, with an A per head heads × heads · rank. As in HydraLoRA's paper, eq. (4)
  rms_projection  ///< √(mean of (A x)² + 1e-6) over a segment's tokens: G as above. Needs a gate that pools
};

/// Which heads a token uses. Of equal probabilities the lower head comes first.
enum class GateSelection {
  dense,   ///< all: ω = π
  top_k,   ///< the k most probable, ω = π over their sum
  top_p,   ///< the smallest number of heads whose probabilities sum to at least p, ω = π over their sum
  one_hot  ///< the most probable, ω = 1; gradients pass as if ω were π (straight-through, arXiv:1308.3432)
};

/// Which tokens are pooled before the softmax.
enum class GateGranularity {
  token,    ///< none
  segment,  ///< all tokens of a segment get the same ω, of all its tokens or of its prompt (Segments::prompts). Of all
            ///< tokens, a token sees its future: right for classifiers and encoders, a leak in a language model
  causal    ///< the segment's tokens up to this one
};

inline std::ostream& operator<<(std::ostream& out, Routing r) {
  constexpr const char* names[] = {"uniform", "learned", "given"};
  return out << "Routing::" << names[static_cast<int>(r)];
}
inline std::ostream& operator<<(std::ostream& out, GateInput i) {
  constexpr const char* names[] = {"x", "projection", "rms_projection"};
  return out << "GateInput::" << names[static_cast<int>(i)];
}
inline std::ostream& operator<<(std::ostream& out, GateSelection s) {
  constexpr const char* names[] = {"dense", "top_k", "top_p", "one_hot"};
  return out << "GateSelection::" << names[static_cast<int>(s)];
}
inline std::ostream& operator<<(std::ostream& out, GateGranularity g) {
  constexpr const char* names[] = {"token", "segment", "causal"};
  return out << "GateGranularity::" << names[static_cast<int>(g)];
}

/// The learned gate of a layer. The default is the paper's: dense softmax of G x, token by token.
/// If heads are selected, the gradients are those for a fixed selection.
struct GateConfig {
  GateInput input = GateInput::x;                        ///< what G is applied to
  GateSelection selection = GateSelection::dense;        ///< which heads a token uses
  GateGranularity granularity = GateGranularity::token;  ///< which tokens are pooled
  double temperature = 1;           ///< π = softmax(ℓ / temperature), > 0: below 1 sharper, above 1 flatter
  Index top_k = 1;                  ///< for GateSelection::top_k, 1 … heads; top_k = heads is the dense gate
  double top_p = 1;                 ///< for GateSelection::top_p, in (0, 1]; 1 is the dense gate
  bool keep_log_partition = false;  ///< save ln Σ exp(ℓ / temperature) per token, for the z-loss (train/balance.hpp)

  bool reads_projection() const { return input != GateInput::x; }
  bool pools() const { return granularity != GateGranularity::token; }
  bool straight_through() const { return selection == GateSelection::one_hot; }

  friend bool operator==(const GateConfig& a, const GateConfig& b) {
    return a.input == b.input && a.selection == b.selection && a.granularity == b.granularity &&
           a.temperature == b.temperature && a.top_k == b.top_k && a.top_p == b.top_p &&
           a.keep_log_partition == b.keep_log_partition;
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
