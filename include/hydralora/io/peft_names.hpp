// SPDX-License-Identifier: MIT
// The names of an adapter's files and tensors, in the dialects of the common trainers.
//
//   PEFT, Unsloth, Swift …   base_model.model.<module>.lora_A.weight
//   PEFT's state_dict        base_model.model.<module>.lora_A.<adapter>.weight
//   torch.compile, FSDP      … _orig_mod. … _fsdp_wrapped_module. …
//   no prefix                <module>.lora_A.weight
//   diffusers                unet.<module>.lora_A.weight, unet.<module>.lora.down.weight,
//                            <module>.processor.to_q_lora.down.weight
//   kohya                    lora_unet_<module_with_underscores>.lora_down.weight, .lora_up.weight, .alpha
//   MLX                      <module>.lora_a [in, r], <module>.lora_b [r, out]
//   MixLoRA                  mixlora.layers.<n>.<module>.lora_A.weight
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";
constexpr const char* module_prefix = "base_model.model.";
// In the metadata of the weights while the settings beside them are replaced: the new settings, and the old ones.
constexpr const char* settings_key = "hydralora.adapter_config";
constexpr const char* old_settings_key = "hydralora.replaced_adapter_config";

/// Whether a key of target_modules means a module: the name, or its end behind a dot.
inline bool means_module(const std::string& key, const std::string& module) {
  if (module.size() < key.size()) return false;
  const std::size_t rest = module.size() - key.size();
  return module.compare(rest, key.size(), key) == 0 && (rest == 0 || module[rest - 1] == '.');
}

inline bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}
inline bool starts_with(std::string_view text, std::string_view begin) { return text.substr(0, begin.size()) == begin; }

/// A tensor's name, taken apart.
struct TensorName {
  enum class Part { other, A, B, route, magnitude, alpha };

  std::string module;          ///< in the model; of `other` the tensor's name there
  Part part = Part::other;     ///< `other`: no part of an adapter that this library has
  Index head = -1;             ///< -1: no number
  bool transposed = false;     ///< [in, r] and [r, out], as MLX writes
  bool needs_settings = true;  ///< whether its trainer writes the scaling into a file of settings
  std::string adapter;         ///< the adapter's name in PEFT's state_dict, or empty
  std::string_view dialect;    ///< whose name this is; empty: PEFT's

  explicit TensorName(std::string name) {
    constexpr std::size_t longest = 4096;
    module = name;
    if (name.size() > longest) return;
    if (remove_all(name, "_orig_mod.")) dialect = "torch.compile";
    if (remove_all(name, "_fsdp_wrapped_module.") || remove_all(name, "_checkpoint_wrapped_module.")) dialect = "FSDP";
    if (starts_with(name, "module.")) name.erase(0, std::string_view("module.").size());
    if (starts_with(name, module_prefix)) {
      name.erase(0, std::string_view(module_prefix).size());
    } else if (starts_with(name, "mixlora.")) {
      name.replace(0, std::string_view("mixlora.").size(), "model.");
      dialect = "MixLoRA";
    } else if (starts_with(name, "lora_unet_") || starts_with(name, "lora_te_") || starts_with(name, "lora_te1_") ||
               starts_with(name, "lora_te2_")) {
      dialect = "kohya";
      needs_settings = false;
    } else if (starts_with(name, "unet.") || starts_with(name, "text_encoder") ||
               (starts_with(name, "transformer.") && !starts_with(name, "transformer.h.") &&
                !starts_with(name, "transformer.layers."))) {
      dialect = "diffusers";
      needs_settings = false;
    } else if (dialect.empty()) {
      dialect = "names without a prefix";
    }
    module = name;
    split(name);
    if (part == Part::other) name_in_model();
  }

 private:
  static bool remove_all(std::string& text, std::string_view what) {
    bool found = false;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what)) {
      text.erase(at, what.size());
      found = true;
    }
    return found;
  }
  /// Cuts `end` off the name. @return  whether it was there, with a dot and something before it.
  static bool cut(std::string& name, std::string_view end) {
    const bool found =
        name.size() > end.size() + 1 && ends_with(name, end) && name[name.size() - end.size() - 1] == '.';
    if (found) name.resize(name.size() - end.size() - 1);
    return found;
  }
  bool is(Part which, std::string name, Index number = -1) {
    module = std::move(name);
    part = which;
    head = number;
    return true;
  }

  bool split(std::string name) {
    for (const auto& [end, which] : {std::pair("lora_a", Part::A), std::pair("lora_b", Part::B)}) {
      if (!cut(name, end)) continue;
      dialect = "MLX";
      if (ends_with(name, "embed_tokens") || ends_with(name, "wte")) return false;  // [vocabulary, r] and [r, features]
      transposed = true;
      return is(which, name);
    }
    if (cut(name, "alpha")) return is(Part::alpha, name);
    if (cut(name, "lora_magnitude_vector")) return is(Part::magnitude, name);
    if (!cut(name, "weight")) return split_magnitude(name);
    for (const auto& [end, which] :
         {std::pair("lora_down", Part::A), std::pair("lora_up", Part::B), std::pair("lora.down", Part::A),
          std::pair("lora.up", Part::B), std::pair("lora_linear_layer.down", Part::A),
          std::pair("lora_linear_layer.up", Part::B), std::pair("lora_route", Part::route),
          std::pair("lora_magnitude_vector", Part::magnitude)}) {
      if (cut(name, end)) return is(which, name);
    }
    for (const auto& [end, which] : {std::pair("_lora.down", Part::A), std::pair("_lora.up", Part::B)}) {
      const std::size_t processor = name.rfind(".processor.");
      if (processor == std::string::npos || !ends_with(name, end)) continue;
      name.resize(name.size() - std::string_view(end).size());
      return is(which, name.erase(processor, std::string_view(".processor").size()));
    }
    return numbered(name) || named(name);
  }
  /// <module>.lora_magnitude_vector.<adapter>
  bool split_magnitude(const std::string& name) {
    const std::size_t dot = name.rfind('.');
    std::string begin = name.substr(0, dot);
    if (dot == std::string::npos || !cut(begin, "lora_magnitude_vector")) return false;
    adapter = name.substr(dot + 1);
    return is(Part::magnitude, begin);
  }
  /// <module>.lora_A, .lora_B, .lora_B12
  bool numbered(const std::string& name) {
    const std::size_t dot = name.rfind('.');
    if (dot == std::string::npos || dot == 0) return false;
    const std::string_view end = std::string_view(name).substr(dot + 1);
    constexpr std::string_view stem = "lora_A";
    if (end.size() < stem.size() || end.substr(0, stem.size() - 1) != "lora_") return false;
    const char letter = end[stem.size() - 1];
    if (letter != 'A' && letter != 'B') return false;
    const std::string number(end.substr(stem.size()));
    if (number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) return false;
    if (number.size() > 1 && number[0] == '0') return false;  // 07 and 7 would be the same head
    // A parameter of a fused module (target_parameters) is no linear.
    if (ends_with(name.substr(0, dot), "base_layer")) return false;
    return is(letter == 'A' ? Part::A : Part::B, name.substr(0, dot), number.empty() ? -1 : std::stol(number));
  }
  /// The same with an adapter's name behind it.
  bool named(const std::string& name) {
    const std::size_t dot = name.rfind('.');
    if (dot == std::string::npos) return false;
    const std::string begin = name.substr(0, dot);
    std::string rest = begin;
    if (!(cut(rest, "lora_route") && is(Part::route, rest)) &&
        !(cut(rest, "lora_magnitude_vector") && is(Part::magnitude, rest)) && !numbered(begin)) {
      return false;
    }
    adapter = name.substr(dot + 1);
    return true;
  }
  /// The name of a whole tensor in the model: without what PEFT wraps around its module.
  void name_in_model() {
    remove_all(module, "modules_to_save.default.");
    remove_all(module, "base_layer.");
  }
};

inline std::string tensor_name(const std::string& module, const std::string& part, Index head = -1) {
  return module_prefix + module + '.' + part + (head < 0 ? "" : std::to_string(head)) + ".weight";
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
