// SPDX-License-Identifier: MIT
// The names of an adapter directory's files and tensors.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";
constexpr const char* module_prefix = "base_model.model.";

/// The parts of a tensor's name: base_model.model.<module>.lora_B12.weight.
struct TensorName {
  std::string module, part;  // part: lora_A, lora_B, lora_route
  Index head = -1;           // -1: no number

  /// @return  false for a name that no adapter's tensor has.
  bool parse(const std::string& name) {
    constexpr std::string_view prefix = module_prefix, ending = ".weight";
    if (name.size() < ending.size() || name.compare(name.size() - ending.size(), ending.size(), ending) != 0) {
      return false;
    }
    const std::string stem = name.substr(0, name.size() - ending.size());
    const std::size_t dot = stem.rfind('.');
    if (dot == std::string::npos || dot <= prefix.size() || stem.compare(0, prefix.size(), prefix) != 0) return false;
    module = stem.substr(prefix.size(), dot - prefix.size());
    part = stem.substr(dot + 1);
    head = -1;
    const std::size_t digits = part.find_first_of("0123456789");
    if (digits != std::string::npos) {
      const std::string number = part.substr(digits);
      if (number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) return false;
      if (number.size() > 1 && number[0] == '0') return false;  // 07 and 7 would be the same head
      head = std::stol(number);
      part.resize(digits);
    }
    return part == "lora_A" || part == "lora_B" || (part == "lora_route" && head < 0);
  }
};

/// Whether a key of a pattern or of target_modules means a module: the name, or its end behind a dot.
inline bool means_module(const std::string& key, const std::string& module) {
  if (module.size() < key.size()) return false;
  const std::size_t rest = module.size() - key.size();
  return module.compare(rest, key.size(), key) == 0 && (rest == 0 || module[rest - 1] == '.');
}

inline std::string tensor_name(const std::string& module, const std::string& part, Index head = -1) {
  return module_prefix + module + '.' + part + (head < 0 ? "" : std::to_string(head)) + ".weight";
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
