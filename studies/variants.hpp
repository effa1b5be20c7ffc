// SPDX-License-Identifier: MIT
//
// The methods of the studies: those of finetune_mlp with other gates, starts and losses, and further adapters.
#pragma once

#include <array>

#include "../examples/support/layers.hpp"

namespace finetune {

/// A method with everything about it that a study changes.
struct Variant : Method {
  enum class Adapter { usual, lora_fa, dora, shared_b_lora };  ///< usual: as the method's kind says
  /// gaussian: B too, deviation 0.01; clusters: the gate.
  enum class Start { kaiming, gaussian, orthogonal, clusters };

  Variant(const Method& method) : Method(method) {}  // NOLINT(google-explicit-constructor)

  Adapter adapter = Adapter::usual;
  hydralora::Routing routing = hydralora::Routing::learned;  ///< given: one head for each part, told to the router
  hydralora::GateConfig gate = {};
  double scaling = 2;  ///< alpha / rank
  Start start = Start::kaiming;
  double balance = 0;  ///< weight of the Switch load
  Index warmup = 0;    ///< steps of HeadWarmup
};

/// methods(), and four further adapters of HydraLoRA's size.
std::vector<Variant> study_methods(const Settings& settings, MixtureKind kind);

/// What a study looks at in a trained layer.
struct Inspection {
  double head_likeness = 0;  ///< the mean cosine between two heads' B, where it has several
  Matrix A, B;               ///< of a LoRA
};

/// Numbers that a variant trains on a weight of this shape, and in the whole model.
Index trainable_parameters(const Variant& variant, Index in, Index out);
Index trainable_parameters(const Variant& variant, const Settings& settings);

/// @param inputs  what the layer sees, for a gate that starts from its clusters.
std::unique_ptr<Linear> make_layer(const Variant& variant, const Matrix& weight, const Settings& settings,
                                   std::uint64_t seed, const Matrix& inputs);

/// @param start  added to the seed where adapters are initialised.
Mlp make_model(const Weights& base, const Variant& variant, const Mixture& mixture, const Settings& settings,
               std::uint64_t start);

Inspection inspect(const Linear& layer);

}  // namespace finetune
