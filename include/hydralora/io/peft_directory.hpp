// SPDX-License-Identifier: MIT
//
// Adapter directories as Python trainers write and read them: adapter_config.json beside adapter_model.safetensors.
//
//   PEFT LoRA              <module>.lora_A.weight [r, in]       <module>.lora_B.weight [out, r]
//   HydraLoRA              … lora_A … lora_B0 … lora_B{N-1}     <module>.lora_route.weight [N, in]
//   LoRAMoE, SplitLoRA     … lora_A0 … lora_B0 …                <module>.lora_route.weight [N, in], or none: their sum
//
// <module> is base_model.model. and the module's name in the model. Nothing that is there is ignored: what this library
// cannot do as the trainer did it is refused, all of it in one message.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/peft_config.hpp"
#include "hydralora/io/safetensors.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/split_lora.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The layer that a module's tensors are for.
enum class AdapterKind { lora, split_lora, hydra_lora };

/// The layer's name, for messages.
inline const char* name_of(AdapterKind kind) {
  return kind == AdapterKind::lora ? "LoRA" : kind == AdapterKind::split_lora ? "SplitLoRA" : "HydraLoRA";
}

/// One adapted module of a directory, all that there is to know of it without its numbers.
struct AdapterModule {
  std::string name;                      ///< in the model, without base_model.model.
  AdapterKind kind = AdapterKind::lora;  ///< the layer to load() it into
  Index in_features = 0;                 ///< columns of A
  Index out_features = 0;                ///< rows of B
  Index rank = 0;                        ///< of each head
  Index heads = 1;                       ///< how many B there are
  bool routed = false;                   ///< it has a gate; a SplitLoRA without one is the sum of its heads
  double alpha = 0;                      ///< lora_alpha, or what alpha_pattern says of this module
  bool rank_stabilized = false;          ///< use_rslora
  double dropout = 0;                    ///< lora_dropout
  DType type = DType::F32;               ///< of its A
};

namespace detail {

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";
constexpr const char* module_prefix = "base_model.model.";

/// "…lora_B12.weight" in its parts.
struct TensorName {
  std::string module, part;  // part: lora_A, lora_B, lora_route
  Index head = -1;           // -1: no number

  /// False where the name is none of those that adapters have.
  bool parse(const std::string& name) {
    constexpr std::string_view ending = ".weight";
    if (name.size() < ending.size() || name.compare(name.size() - ending.size(), ending.size(), ending) != 0)
      return false;
    const std::string stem = name.substr(0, name.size() - ending.size());
    const std::size_t dot = stem.rfind('.');
    if (dot == std::string::npos || dot == 0) return false;
    constexpr std::string_view prefix = module_prefix;
    if (stem.compare(0, prefix.size(), prefix) != 0 || dot <= prefix.size()) return false;
    module = stem.substr(prefix.size(), dot - prefix.size());
    part = stem.substr(dot + 1);
    head = -1;
    const std::size_t digits = part.find_first_of("0123456789");
    if (digits != std::string::npos) {
      const std::string number = part.substr(digits);
      // Four digits are more heads than anybody has; 07 and 7 would be the same head.
      if (number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) return false;
      if (number.size() > 1 && number[0] == '0') return false;
      head = std::stol(number);
      part.resize(digits);
    }
    return part == "lora_A" || part == "lora_B" || (part == "lora_route" && head < 0);
  }
};

inline std::string tensor_name(const std::string& module, const std::string& part, Index head = -1) {
  return module_prefix + module + '.' + part + (head < 0 ? "" : std::to_string(head)) + ".weight";
}

/// Calls f("lora_A", 0, layer.A(0)) and so on for every tensor that a layer has in a file. Head −1 stands for a name without
/// a number.
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

/// What a directory calls a layer. A layer with any other middle, also one derived from these, does not compile.
template <class Layer>
constexpr AdapterKind kind_of() {
  using Middle = typename Layer::Middle;
  static_assert(std::is_same_v<typename Middle::Standard, Middle>,
                "hydralora: directories hold LoRA, SplitLoRA and HydraLoRA.");
  return Middle::shares_B ? AdapterKind::lora : Middle::shares_A ? AdapterKind::hydra_lora : AdapterKind::split_lora;
}

}  // namespace detail

/// An adapter directory that is open for reading. Opening it reads and checks the settings and all names, types and shapes:
///
///   const PeftDirectory adapter("my_adapter");
///   for (const AdapterModule& m : adapter.modules()) std::cout << m.name << '\n';
///   auto layer = adapter.load<HydraLoRA<float>>("model.layers.0.mlp.up_proj");
class PeftDirectory {
 public:
  /// @throws FileError  a file that is missing or broken; options or tensors that this library has no use for, all of them.
  explicit PeftDirectory(const std::filesystem::path& folder, FileAccess access = FileAccess::buffered)
      : config_(folder / detail::config_name), weights_(folder / detail::weights_name, access) {
    find_modules();
  }

  /// By name, in its order.
  const std::vector<AdapterModule>& modules() const { return modules_; }
  /// @throws FileError  where there is none of this name.
  const AdapterModule& module(const std::string& name) const {
    for (const AdapterModule& m : modules_) {
      if (m.name == name) return m;
    }
    throw FileError(weights_.path(), "has no module " + in_quotes(name));
  }

  /// A new layer (LoRA, SplitLoRA or HydraLoRA) with a module's settings and parameters. The seed serves dropout.
  /// @throws FileError  no such module, one of another kind, unreadable, or with finite_only numbers that are not finite.
  template <class Layer>
  Layer load(const std::string& name, std::uint64_t seed = 0, bool finite_only = true) const {
    return without_bad_alloc(name, [&] {
      Layer layer(config_for<Layer>(module(name)), seed);
      read(layer, name, finite_only);
      return layer;
    });
  }

  /// The same into a layer that is there: its parameters are all replaced, or none is.
  /// Memory   a second set of parameters until all is read: 2 × file at most into float, 4 × from 16 bits into double.
  /// @throws FileError  as above, or where sizes or scaling differ.
  template <class Layer>
  void load_into(Layer& layer, const std::string& name, bool finite_only = true) const {
    const AdapterModule& m = module(name);
    auto wanted = config_for<Layer>(m);
    if constexpr (detail::kind_of<Layer>() != AdapterKind::lora) {  // files say nothing about the temperature
      wanted.gate.temperature = layer.config().gate.temperature;
    }
    const AdapterShape has = Layer::Middle::shape(wanted), expected = layer.shape();
    const double scaling = scaling_of(wanted), expected_scaling = scaling_of(layer.config());
    if (!(has == expected) || std::abs(scaling - expected_scaling) > 1e-12 * std::abs(expected_scaling)) {
      std::ostringstream text;
      text.precision(14);  // a difference that is refused can be seen
      text << "module " << in_quotes(name) << " is " << has << " with scaling " << scaling << ", the layer is "
           << expected << " with scaling " << expected_scaling;
      throw FileError(weights_.path(), text.str());
    }
    without_bad_alloc(name, [&] {
      Layer loaded(wanted);
      read(loaded, name, finite_only);
      layer.parameters() = loaded.parameters();
    });
  }

 private:
  /// A file with holes may claim terabytes.
  template <class Function>
  auto without_bad_alloc(const std::string& name, Function&& f) const {
    try {
      return f();
    } catch (const std::bad_alloc&) {
      throw FileError(weights_.path(), "module " + in_quotes(name) + " needs more memory than there is");
    }
  }

  void find_modules() {
    struct Parts {
      std::map<Index, const TensorEntry*> A, B;
      const TensorEntry* route = nullptr;
    };
    std::map<std::string, Parts> found;
    detail::Reasons reasons;
    const auto refuse = [&](const std::string& reason) { reasons.add(reason); };
    for (const auto& [name, entry] : weights_.tensors()) {
      detail::TensorName parsed;
      if (!parsed.parse(name)) {
        refuse("has no use for tensor " + in_quotes(name));
        continue;
      }
      if (entry.shape.size() != 2 || !detail::is_floating(entry.type)) {
        refuse("tensor " + in_quotes(name) + " is " + info_of(entry.type).name + ' ' + shape_text(entry.shape) +
               ", expected a floating-point matrix");
        continue;
      }
      Parts& parts = found[parsed.module];
      if (parsed.part == "lora_route") {
        parts.route = &entry;
      } else {
        (parsed.part == "lora_A" ? parts.A : parts.B)[parsed.head] = &entry;
      }
    }
    for (const auto& [name, parts] : found) {
      if (!reasons.empty()) break;
      const std::string reason = add_module(name, parts.A, parts.B, parts.route);
      if (!reason.empty()) refuse("module " + in_quotes(name) + ": " + reason);
    }
    if (reasons.empty() && modules_.empty()) refuse("holds no adapter");
    if (!reasons.empty()) throw FileError(weights_.path(), reasons.text());
  }

  /// @return  what is wrong with it, or nothing.
  std::string add_module(const std::string& name, const std::map<Index, const TensorEntry*>& A,
                         const std::map<Index, const TensorEntry*>& B, const TensorEntry* route) {
    const auto numbered = [](const std::map<Index, const TensorEntry*>& heads) {  // 0 … n-1
      return !heads.empty() && heads.begin()->first == 0 &&
             heads.rbegin()->first + 1 == static_cast<Index>(heads.size());
    };
    const auto single = [](const std::map<Index, const TensorEntry*>& heads) {
      return heads.size() == 1 && heads.begin()->first == -1;
    };
    AdapterModule m;
    m.name = name;
    m.routed = route != nullptr;
    if (single(A) && single(B) && !m.routed) {
      m.kind = AdapterKind::lora;
    } else if (single(A) && numbered(B) && m.routed) {
      m.kind = AdapterKind::hydra_lora;
    } else if (numbered(A) && numbered(B) && A.size() == B.size()) {
      m.kind = AdapterKind::split_lora;
    } else {
      return "its " + std::to_string(A.size()) + " lora_A and " + std::to_string(B.size()) + " lora_B " +
             (m.routed ? "with" : "without") + " lora_route are no LoRA, HydraLoRA or LoRAMoE";
    }
    m.heads = static_cast<Index>(B.size());
    m.rank = A.begin()->second->shape[0];
    m.in_features = A.begin()->second->shape[1];
    m.out_features = B.begin()->second->shape[0];
    m.type = A.begin()->second->type;
    m.alpha = detail::PeftConfig::for_module(config_.alpha_pattern, name, config_.alpha);
    m.rank_stabilized = config_.rank_stabilized;
    m.dropout = config_.dropout;
    const Index rank = detail::PeftConfig::for_module(config_.rank_pattern, name, config_.rank);
    if (m.rank != rank)
      return "its lora_A has " + std::to_string(m.rank) + " rows, the settings say rank " + std::to_string(rank);
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
      throw FileError(weights_.path(),
                      "module " + in_quotes(m.name) + " is a " + name_of(m.kind) + ", not a " + name_of(kind));
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
    }
    if (!std::isfinite(static_cast<typename Layer::Scalar>(scaling_of(config)))) {
      throw FileError(weights_.path(), "module " + in_quotes(m.name) + " has a scaling beyond the layer's numbers");
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
