// SPDX-License-Identifier: MIT
// What PeftDirectory says about a module, and which layer holds it.
#pragma once

#include <string>
#include <type_traits>

#include "hydralora/core/config.hpp"
#include "hydralora/io/dtype.hpp"
#include "hydralora/layers/gate_config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

enum class AdapterKind { lora, split_lora, hydra_lora };

inline const char* name_of(AdapterKind kind) {
  return kind == AdapterKind::lora ? "LoRA" : kind == AdapterKind::split_lora ? "SplitLoRA" : "HydraLoRA";
}

/// One adapted module of a directory, without its parameters.
struct AdapterModule {
  std::string name;                      ///< in the model, without the prefix base_model.model.
  AdapterKind kind = AdapterKind::lora;  ///< the layer that load() makes
  bool dora = false;                     ///< whether it has a magnitude: a LoRA for DoRALinear
  Index in_features = 0;                 ///< columns of A
  Index out_features = 0;                ///< rows of B
  Index rank = 0;                        ///< of each head
  Index heads = 1;                       ///< number of B
  bool routed = false;                   ///< whether it has a gate; a SplitLoRA without one is the sum of its heads
  double alpha = 0;                      ///< lora_alpha, or this module's value in alpha_pattern
  bool rank_stabilized = false;          ///< use_rslora
  double dropout = 0;                    ///< lora_dropout
  DType type = DType::F32;               ///< of its A
};

/// A tensor of a directory that is no part of one of this library's layers.
struct OtherTensor {
  std::string name;    ///< in the file
  std::string target;  ///< in the model: lm_head.weight, without what PEFT wraps around a module
  std::string reason;  ///< what it is: saved by modules_to_save, a bias, …
};

namespace detail {

/// Calls f("lora_A", 0, layer.A(0)) and so on for every tensor of a layer; head −1: without a number.
template <class Layer, class Function>
void for_each_tensor(Layer& layer, Function&& f) {
  using Middle = typename std::decay_t<Layer>::Middle;
  if constexpr (Middle::shares_A) f("lora_A", -1, layer.A());
  if constexpr (Middle::shares_B) f("lora_B", -1, layer.B());
  for (Index i = 0; i < layer.shape().heads; ++i) {
    if constexpr (!Middle::shares_A) f("lora_A", i, layer.A(i));
    if constexpr (!Middle::shares_B) f("lora_B", i, layer.B(i));
  }
  if (layer.shape().gated()) f("lora_route", -1, layer.gate());
}

/// A layer with any other middle does not compile, even if its middle is derived from one of these.
template <class Layer>
constexpr AdapterKind kind_of() {
  using Middle = typename Layer::Middle;
  static_assert(std::is_same_v<typename Middle::Standard, Middle>,
                "hydralora: directories hold LoRA, SplitLoRA and HydraLoRA.");
  return Middle::shares_B ? AdapterKind::lora : Middle::shares_A ? AdapterKind::hydra_lora : AdapterKind::split_lora;
}

/// The settings of a layer whose directory has this gate: see PeftDirectory::gate().
inline void apply_gate(const std::string& name, Routing& routing, GateConfig& gate) {
  if (name == "given") routing = Routing::given;
  if (name == "causal") gate.granularity = GateGranularity::causal;
  if (name == "prompt") gate.granularity = GateGranularity::segment;
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
