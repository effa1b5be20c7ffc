// SPDX-License-Identifier: MIT
// What an adapter directory holds: its modules, found by the names and shapes of their tensors, and everything else.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/io/adapter_module.hpp"
#include "hydralora/io/peft_config.hpp"
#include "hydralora/io/peft_names.hpp"
#include "hydralora/io/safetensors.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

namespace detail {

/// diffusers writes the settings into the metadata of the weights: {"unet.r": 8, "unet.lora_alpha": 16, …}.
/// @return  by part of the pipeline: unet, transformer, text_encoder; "" where they are of all modules.
inline std::map<std::string, PeftConfig> read_diffusers_settings(const std::filesystem::path& path,
                                                                 const std::string& text) {
  JsonChecks checks(path);
  struct Part {
    nlohmann::json settings = nlohmann::json::object();
    std::map<std::string, std::vector<std::string>> order;
  };
  std::map<std::string, Part> parts;
  nlohmann::json all_settings = parse_json_object(path, text, checks);
  for (auto& [key, value] : all_settings.items()) {
    const std::size_t dot = key.find('.');
    Part& part = parts[dot == std::string::npos ? "" : key.substr(0, dot)];
    const std::string setting = dot == std::string::npos ? key : key.substr(dot + 1);
    part.settings[setting] = std::move(value);
    part.order[setting] = std::move(checks.order[key]);
    constexpr std::size_t most = 16;
    if (parts.size() > most) throw FileError(path, "lora_adapter_metadata has settings for more than 16 parts");
  }
  std::map<std::string, PeftConfig> all;
  for (auto& [name, part] : parts) {
    all.try_emplace(name, path, std::move(part.settings), std::move(part.order),
                    "lora_adapter_metadata" + (name.empty() ? "" : " of " + in_quotes(name)) + ": ");
  }
  return all;
}

/// The tensors of one module.
struct ModuleTensors {
  using Tensor = std::pair<const std::string, TensorEntry>;
  using Heads = std::map<Index, const Tensor*>;  // by number, -1 without one

  Heads A, B;
  const Tensor *route = nullptr, *magnitude = nullptr, *alpha = nullptr;
  bool transposed = false;
};

/// Sorts the tensors of a file into modules and others. All errors are collected.
class ModuleFinder {
 public:
  using Tensor = ModuleTensors::Tensor;

  ModuleFinder(const SafetensorsFile& file, PeftConfig& config) : file_(file), config_(config) {
    for (const std::string& one : config.target_parameters) parents_.insert(one.substr(0, one.rfind('.')));
    constexpr std::size_t enough = 1000;  // they only give the reason for a tensor that is listed
    if (config.modules_to_save.size() > enough) config.modules_to_save.resize(enough);
  }

  std::vector<std::pair<AdapterModule, ModuleTensors>> modules;  ///< sorted by name
  std::vector<OtherTensor> others;
  std::string dialect, reasons;
  bool needs_settings = false;              ///< whether a module's names are of a trainer that writes settings
  std::map<std::string, PeftConfig> parts;  ///< settings for modules whose names begin so, of diffusers

  void add(const Tensor& tensor, const TensorName& name) {
    using Part = TensorName::Part;
    if (!name.dialect.empty()) dialect = name.dialect;
    if (name.part == Part::other) return add_other(tensor, name.module);
    if (is_parameter(name.module)) {
      const std::size_t prefix = starts_with(tensor.first, module_prefix) ? std::string_view(module_prefix).size() : 0;
      return add_other(tensor, tensor.first.substr(prefix));
    }
    if (name.needs_settings) needs_settings = true;
    if (!name.adapter.empty()) {
      if (adapter_.empty()) adapter_ = name.adapter;
      if (name.adapter != adapter_) {
        return refuse("has the adapters " + in_quotes(adapter_) + " and " + in_quotes(name.adapter) +
                      ", expected one: save them apart");
      }
    }
    ModuleTensors& of = found_[name.module];
    if ((!of.A.empty() || !of.B.empty()) && of.transposed != name.transposed && name.part != Part::alpha) {
      refuse("module " + in_quotes(name.module) + " has names of several trainers");
    }
    of.transposed = of.transposed || name.transposed;
    const Tensor*& place = name.part == Part::A           ? of.A[name.head]
                           : name.part == Part::B         ? of.B[name.head]
                           : name.part == Part::route     ? of.route
                           : name.part == Part::magnitude ? of.magnitude
                                                          : of.alpha;
    put(place, tensor);
    if (name.part == Part::A || name.part == Part::B || name.part == Part::route) check_matrix(tensor);
  }
  void finish() {
    if (!empty_.empty()) {
      refuse("has no numbers in " + empty_ +
             ": DeepSpeed ZeRO-3 saved a part that it did not gather. Save again with "
             "stage3_gather_16bit_weights_on_model_save, or convert with zero_to_fp32.py");
    }
    for (auto& [name, tensors] : found_) {
      if (tensors.magnitude != nullptr && tensors.A.empty() && tensors.B.empty()) {
        others.push_back({tensors.magnitude->first, name, "DoRA on what is no linear"});
        continue;
      }
      if (!reasons.empty()) break;
      AdapterModule module;
      module.name = name;
      const std::string reason = describe(module, tensors);
      if (!reason.empty()) refuse("module " + in_quotes(name) + ": " + reason);
      modules.emplace_back(std::move(module), std::move(tensors));
    }
    found_.clear();
  }
  void refuse(const std::string& reason) { add_reason(reasons, reason); }

 private:
  void put(const Tensor*& place, const Tensor& tensor) {
    if (place != nullptr) {
      refuse("has two tensors for one: " + in_quotes(place->first) + ", " + in_quotes(tensor.first));
    }
    place = &tensor;
  }
  void check_matrix(const Tensor& tensor) {
    const auto& [name, entry] = tensor;
    if (entry.shape.size() == 2 && is_floating(entry.type)) return;
    if (entry.shape == std::vector<Index>{0}) return add_reason(empty_, in_quotes(name));
    const std::string what = "tensor " + in_quotes(name) + " is " + entry.type_name() + ' ' + shape_text(entry.shape);
    if (matrix_shape(entry.shape).size() > 2) return refuse(what + ": of convolutions only 1 x 1 is supported");
    if (entry.shape.size() < 2 || !is_floating(entry.type)) {
      refuse(what + ", expected a matrix of F64, F32, F16 or BF16");
    }
  }
  /// Whether LoRA changes a parameter of this module, not the module: target_parameters.
  bool is_parameter(const std::string& module) const {
    if (ends_with(module, ".base_layer")) return true;
    if (parents_.empty()) return false;
    std::size_t begin = module.size();
    for (int ends = 0; ends < 32 && begin > 0; ++ends) {  // the name's ends behind its dots
      const std::size_t dot = module.rfind('.', begin - 1);
      const std::size_t first = dot == std::string::npos ? 0 : dot + 1;
      if (parents_.count(module.substr(first)) > 0) return true;
      begin = dot == std::string::npos ? 0 : dot;
    }
    return false;
  }
  void add_other(const Tensor& tensor, const std::string& target) {
    const auto has = [&, &name = tensor.first](const char* text) { return name.find(text) != std::string::npos; };
    std::string reason = "unknown";
    const std::string module = target.substr(0, target.rfind('.'));
    if (has("lora_embedding_") || has("embed_tokens.lora_") || has("wte.lora_")) {
      reason = "LoRA on an embedding";
    } else if (has("trainable_tokens")) {
      reason = "trainable_token_indices";
    } else if (is_parameter(target.substr(0, target.rfind(".lora_"))) || (has("lora_") && has("base_layer."))) {
      reason = "LoRA on a parameter of a fused module, target_parameters";
    } else if (has("lora_route.")) {
      reason = "a gate's bias";
    } else if (has("lora_B") && has(".bias")) {
      reason = "lora_bias";
    } else if (has("moe_gate")) {
      reason = "MixLoRA's router over whole feed-forward networks";
    } else if (ends_with(target, ".bias")) {
      reason = "a bias";
    } else if (std::any_of(config_.modules_to_save.begin(), config_.modules_to_save.end(),
                           [&](const std::string& one) { return ends_with(module, one); })) {
      reason = "modules_to_save";
    } else if (ends_with(target, "embed_tokens.weight") || ends_with(target, "lm_head.weight")) {
      reason = "an embedding that was saved, too";
    } else if (has("conv") || has("lora_mid") || has("hada_") || has("lokr_") || has("dora_scale")) {
      reason = "an adapter of a kind that this library has not";
    }
    put(targets_[target], tensor);
    others.push_back({tensor.first, target, reason});
  }

  /// @return  an error message, or an empty string.
  std::string describe(AdapterModule& m, const ModuleTensors& t) {
    const auto numbered = [](const auto& heads) {  // 0 … n-1
      return !heads.empty() && heads.begin()->first == 0 &&
             heads.rbegin()->first + 1 == static_cast<Index>(heads.size());
    };
    const auto single = [](const auto& heads) { return heads.size() == 1 && heads.begin()->first == -1; };
    m.routed = t.route != nullptr;
    m.dora = t.magnitude != nullptr;
    if (single(t.A) && single(t.B) && !m.routed) {
      m.kind = AdapterKind::lora;
    } else if (single(t.A) && numbered(t.B) && m.routed != (config_.gate == "given")) {
      m.kind = AdapterKind::hydra_lora;
    } else if (numbered(t.A) && numbered(t.B) && t.A.size() == t.B.size()) {
      m.kind = AdapterKind::split_lora;
    } else {
      return "its " + std::to_string(t.A.size()) + " lora_A and " + std::to_string(t.B.size()) + " lora_B " +
             (m.routed ? "with" : "without") + " lora_route are not a LoRA, HydraLoRA or LoRAMoE";
    }
    m.heads = static_cast<Index>(t.B.size());
    const auto shape_of = [&](const Tensor* tensor) {
      std::vector<Index> shape = matrix_shape(tensor->second.shape);
      if (t.transposed) std::reverse(shape.begin(), shape.end());
      return shape;
    };
    const std::vector<Index> first = shape_of(t.A.begin()->second);
    m.rank = first[0];
    m.in_features = first[1];
    m.out_features = shape_of(t.B.begin()->second)[0];
    m.type = t.A.begin()->second->second.type;
    if (m.in_features < 1 || m.out_features < 1) return "it has no features";
    if (m.rank < 1) return "its lora_A has 0 rows";
    const std::size_t dot = m.name.find('.');
    const auto part = parts.count("") > 0 ? parts.find("") : parts.find(m.name.substr(0, dot));
    std::string reason = part != parts.end()
                             ? settings_of(part->second, part->first.empty() ? m.name : m.name.substr(dot + 1), m, t)
                         : config_.from_tensors ? alpha_of_tensor(m, t)
                                                : settings_of(config_, m.name, m, t);
    if (!reason.empty()) return reason;
    for (const auto& [heads, shape] : {std::pair(&t.A, std::vector<Index>{m.rank, m.in_features}),
                                       std::pair(&t.B, std::vector<Index>{m.out_features, m.rank})}) {
      for (const auto& [head, tensor] : *heads) {
        if (shape_of(tensor) != shape) {
          return in_quotes(tensor->first) + " has shape " + shape_text(shape_of(tensor)) + ", expected " +
                 shape_text(shape);
        }
      }
    }
    const std::vector<Index> gate{m.heads, m.in_features};
    if (m.routed && t.route->second.shape != gate) {
      return "lora_route has shape " + shape_text(t.route->second.shape) + ", expected " + shape_text(gate);
    }
    if (!m.dora) return {};
    if (m.kind != AdapterKind::lora) return "its lora_magnitude_vector belongs to a LoRA, it is none";
    if (t.magnitude->second.elements() != m.out_features || !is_floating(t.magnitude->second.type)) {
      return "lora_magnitude_vector is " + t.magnitude->second.type_name() + ' ' +
             shape_text(t.magnitude->second.shape) + ", expected " + shape_text({m.out_features});
    }
    return {};
  }
  static std::string settings_of(PeftConfig& config, const std::string& name, AdapterModule& m,
                                 const ModuleTensors& t) {
    m.alpha = config.alpha_of(name);
    m.rank_stabilized = config.rank_stabilized;
    m.dropout = config.dropout;
    const Index rank = config.rank_of(name);
    if (m.rank != rank) {
      return "its lora_A has " + std::to_string(m.rank) + " rows, the settings say rank " + std::to_string(rank);
    }
    if (m.kind != AdapterKind::lora && config.heads != m.heads) {
      return "it has " + std::to_string(m.heads) + " heads, lora_nums in the settings is " +
             (config.heads == 0 ? "missing" : std::to_string(config.heads));
    }
    if (t.alpha != nullptr)
      return "it has a tensor " + in_quotes(t.alpha->first) + " beside lora_alpha in the settings";
    if (m.dora != config.dora) {
      return std::string("it has ") + (m.dora ? "a" : "no") + " lora_magnitude_vector, use_dora in the settings is " +
             (config.dora ? "true" : "false");
    }
    return {};
  }
  /// kohya and diffusers: the scaling is alpha / rank, or 1 without an alpha.
  std::string alpha_of_tensor(AdapterModule& m, const ModuleTensors& t) {
    m.alpha = static_cast<double>(m.rank);
    if (t.alpha == nullptr) return {};
    if (t.alpha->second.elements() != 1 || !is_floating(t.alpha->second.type)) {
      return "its alpha is " + t.alpha->second.type_name() + ' ' + shape_text(t.alpha->second.shape) +
             ", expected one number";
    }
    Eigen::Matrix<double, 1, 1> alpha;
    file_.read(t.alpha->first, alpha);
    m.alpha = alpha(0, 0);
    return {};
  }

  const SafetensorsFile& file_;
  PeftConfig& config_;
  std::map<std::string, ModuleTensors> found_;
  std::map<std::string, const Tensor*> targets_;  // of `others`
  std::set<std::string> parents_;                 // of target_parameters
  std::string adapter_, empty_;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
