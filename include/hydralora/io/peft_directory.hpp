// SPDX-License-Identifier: MIT
// Adapter directories of Python trainers: adapter_config.json and adapter_model.safetensors.
//
//   PEFT LoRA              <module>.lora_A.weight [r, in]       <module>.lora_B.weight [out, r]
//   HydraLoRA              … lora_A … lora_B0 … lora_B{N-1}     <module>.lora_route.weight [N, in]
//   LoRAMoE, SplitLoRA     … lora_A0 … lora_B0 …                <module>.lora_route.weight [N, in], or none (their sum)
//
// <module> is base_model.model. and the module's name in the model. One message names everything that is not supported.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <new>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/peft_config.hpp"
#include "hydralora/io/peft_names.hpp"
#include "hydralora/io/safetensors.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/split_lora.hpp"

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

/// An adapter directory, open for reading. The constructor checks the settings and all names, types and shapes:
///
///   const PeftDirectory adapter("my_adapter");
///   for (const AdapterModule& m : adapter.modules()) std::cout << m.name << '\n';
///   auto layer = adapter.load<HydraLoRA<float>>("model.layers.0.mlp.up_proj");
class PeftDirectory {
 public:
  /// @throws FileError  a missing or broken file, or settings or tensors that are not supported; all are named.
  explicit PeftDirectory(const std::filesystem::path& folder, FileAccess access = FileAccess::buffered)
      : config_(folder / detail::config_name), weights_(folder / detail::weights_name, access) {
    find_modules();
  }

  /// This library's own setting: causal, prompt or given; empty for the gate of HydraLoRA's trainer. A layer that is
  /// loaded has GateGranularity::causal, GateGranularity::segment (with Segments::prompts), or Routing::given.
  const std::string& gate() const { return config_.gate; }
  /// The names of the groups of gate given: the head of group i is i % heads. Empty where the writer had no names.
  const std::vector<std::string>& groups() const { return config_.groups; }
  const std::vector<AdapterModule>& modules() const { return modules_; }  ///< sorted by name
  /// @throws FileError  if there is no module of this name.
  const AdapterModule& module(const std::string& name) const {
    for (const AdapterModule& m : modules_) {
      if (m.name == name) return m;
    }
    throw FileError(weights_.path(), "has no module " + in_quotes(name));
  }
  /// @throws FileError  always: "module '…'" and the reason.
  [[noreturn]] void refuse(const std::string& name, const std::string& reason) const {
    throw FileError(weights_.path(), "module " + in_quotes(name) + reason);
  }
  /// A new layer (LoRA, SplitLoRA or HydraLoRA) with a module's settings and parameters. The seed is dropout's.
  /// @throws FileError  no such module, another kind, unreadable, or, with finite_only, a number that is not finite.
  template <class Layer>
  Layer load(const std::string& name, std::uint64_t seed = 0, bool finite_only = true) const {
    return without_bad_alloc(name, [&] {
      Layer layer(config_for<Layer>(module(name)), seed);
      read(layer, name, finite_only);
      return layer;
    });
  }
  /// Loads a module into an existing layer. On an error the layer is unchanged.
  /// Memory   a second set of parameters while reading: at most 2 × the file for float, 4 × from 16 bits to double.
  /// @throws FileError  as load(), or if sizes or scaling differ.
  template <class Layer>
  void load_into(Layer& layer, const std::string& name, bool finite_only = true) const {
    const AdapterModule& m = module(name);
    auto wanted = config_for<Layer>(m);
    if constexpr (detail::kind_of<Layer>() != AdapterKind::lora) {  // files do not store the temperature
      wanted.gate.temperature = layer.config().gate.temperature;
    }
    const AdapterShape has = Layer::Middle::shape(wanted), expected = layer.shape();
    const double scaling = scaling_of(wanted), expected_scaling = scaling_of(layer.config());
    if (!(has == expected) || std::abs(scaling - expected_scaling) > 1e-12 * std::abs(expected_scaling)) {
      std::ostringstream text;
      text.precision(14);  // shows any difference that is refused
      text << " is " << has << " with scaling " << scaling << ", the layer is " << expected << " with scaling "
           << expected_scaling;
      refuse(name, text.str());
    }
    without_bad_alloc(name, [&] {
      Layer loaded(wanted);
      read(loaded, name, finite_only);
      layer.parameters() = loaded.parameters();
    });
  }

 private:
  using Heads = std::map<Index, const TensorEntry*>;  // by number, -1 without one

  /// A sparse file may claim terabytes.
  template <class Function>
  auto without_bad_alloc(const std::string& name, Function&& f) const {
    try {
      return f();
    } catch (const std::bad_alloc&) {
      refuse(name, " does not fit into memory");
    }
  }
  void find_modules() {
    struct Parts {
      Heads A, B;
      const TensorEntry* route = nullptr;
    };
    std::map<std::string, Parts> found;
    std::string reasons;
    const auto refuse = [&](const std::string& reason) { detail::add_reason(reasons, reason); };
    for (const auto& [name, entry] : weights_.tensors()) {
      detail::TensorName parsed;
      if (!parsed.parse(name)) {
        refuse("has the unknown tensor " + in_quotes(name));
        continue;
      }
      if (entry.shape.size() != 2 || !detail::is_floating(entry.type)) {
        refuse("tensor " + in_quotes(name) + " is " + info_of(entry.type).name + ' ' + shape_text(entry.shape) +
               ", expected a floating-point matrix");
        continue;
      }
      Parts& parts = found[parsed.module];
      const TensorEntry*& place = parsed.part == "lora_route" ? parts.route
                                  : parsed.part == "lora_A"   ? parts.A[parsed.head]
                                                              : parts.B[parsed.head];
      place = &entry;
    }
    for (const auto& [name, parts] : found) {
      if (!reasons.empty()) break;
      const std::string reason = add_module(name, parts.A, parts.B, parts.route);
      if (!reason.empty()) refuse("module " + in_quotes(name) + ": " + reason);
    }
    if (reasons.empty() && modules_.empty()) refuse("holds no adapter");
    if (!reasons.empty()) throw FileError(weights_.path(), reasons);
  }

  /// @return  an error message, or an empty string.
  std::string add_module(const std::string& name, const Heads& A, const Heads& B, const TensorEntry* route) {
    const auto numbered = [](const Heads& heads) {  // 0 … n-1
      return !heads.empty() && heads.begin()->first == 0 &&
             heads.rbegin()->first + 1 == static_cast<Index>(heads.size());
    };
    const auto single = [](const Heads& heads) { return heads.size() == 1 && heads.begin()->first == -1; };
    AdapterModule m;
    m.name = name;
    m.routed = route != nullptr;
    if (single(A) && single(B) && !m.routed) {
      m.kind = AdapterKind::lora;
    } else if (single(A) && numbered(B) && m.routed != (config_.gate == "given")) {
      m.kind = AdapterKind::hydra_lora;
    } else if (numbered(A) && numbered(B) && A.size() == B.size()) {
      m.kind = AdapterKind::split_lora;
    } else {
      return "its " + std::to_string(A.size()) + " lora_A and " + std::to_string(B.size()) + " lora_B " +
             (m.routed ? "with" : "without") + " lora_route are not a LoRA, HydraLoRA or LoRAMoE";
    }
    m.heads = static_cast<Index>(B.size());
    const TensorEntry& first = *A.begin()->second;
    m.rank = first.shape[0];
    m.in_features = first.shape[1];
    m.out_features = B.begin()->second->shape[0];
    m.type = first.type;
    m.alpha = detail::PeftConfig::for_module(config_.alpha_pattern, name, config_.alpha);
    m.rank_stabilized = config_.rank_stabilized;
    m.dropout = config_.dropout;
    const Index rank = detail::PeftConfig::for_module(config_.rank_pattern, name, config_.rank);
    if (m.rank != rank) {
      return "its lora_A has " + std::to_string(m.rank) + " rows, the settings say rank " + std::to_string(rank);
    }
    if (m.kind != AdapterKind::lora && config_.heads != m.heads) {
      return "it has " + std::to_string(m.heads) + " heads, the settings say lora_nums " +
             std::to_string(config_.heads);
    }
    if (m.in_features < 1 || m.out_features < 1) return "it has no features";
    for (const auto& [heads, shape] : {std::pair(&A, std::vector<Index>{m.rank, m.in_features}),
                                       std::pair(&B, std::vector<Index>{m.out_features, m.rank})}) {
      for (const auto& [head, entry] : *heads) {
        if (entry->shape != shape) return "a shape is " + shape_text(entry->shape) + ", expected " + shape_text(shape);
      }
    }
    if (route != nullptr && route->shape != std::vector<Index>{m.heads, m.in_features}) {
      return "lora_route has shape " + shape_text(route->shape) + ", expected " + shape_text({m.heads, m.in_features});
    }
    modules_.push_back(std::move(m));
    return {};
  }

  template <class Layer>
  typename Layer::Config config_for(const AdapterModule& m) const {
    using Config = typename Layer::Config;
    constexpr AdapterKind kind = detail::kind_of<Layer>();
    if (m.kind != kind) {
      refuse(m.name, std::string(" is a ") + name_of(m.kind) + ", not a " + name_of(kind));
    }
    Config config;
    config.in_features = m.in_features;
    config.out_features = m.out_features;
    config.rank = m.rank;
    config.alpha = m.alpha;
    config.rank_stabilized = m.rank_stabilized;
    config.dropout = m.dropout;
    if constexpr (kind != AdapterKind::lora) {
      config.heads = m.heads;
      config.routing = m.routed ? Routing::learned : Routing::uniform;
      detail::apply_gate(config_.gate, config.routing, config.gate);
    }
    if (!std::isfinite(static_cast<typename Layer::Scalar>(scaling_of(config)))) {
      refuse(m.name, " has a scaling that is too large for the layer's scalar type");
    }
    return config;
  }

  template <class Layer>
  void read(Layer& layer, const std::string& name, bool finite_only) const {
    detail::for_each_tensor(layer, [&](const char* part, Index head, auto matrix) {
      weights_.read(detail::tensor_name(name, part, head), matrix, finite_only);
    });
  }
  detail::PeftConfig config_;
  SafetensorsFile weights_;
  std::vector<AdapterModule> modules_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
