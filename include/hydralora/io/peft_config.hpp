// SPDX-License-Identifier: MIT
// adapter_config.json: reads the settings that this library supports and refuses the others.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/json.hpp"
#include "hydralora/io/peft_names.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Appends a reason to an error message, up to a readable length.
inline void add_reason(std::string& text, const std::string& reason) {
  constexpr std::size_t enough = 2000;
  if (text.size() < enough) text += (text.empty() ? "" : "; ") + reason;
}

/// The supported settings of adapter_config.json.
class PeftConfig {
 public:
  explicit PeftConfig(const std::filesystem::path& path) : json_(read_json_object(path)) {
    if (text("peft_type", "LORA") != "LORA") refuse("peft_type is " + in_quotes(text("peft_type", "")) + ", not LORA");
    rank = integer("r");
    alpha = number("lora_alpha");
    dropout = json_.contains("lora_dropout") ? number("lora_dropout") : 0;
    if (!(dropout >= 0 && dropout < 1)) refuse("lora_dropout is " + std::to_string(dropout) + ", expected in [0, 1)");
    rank_stabilized = get("use_rslora", nlohmann::json::value_t::boolean, " is neither true nor false", false);
    heads = json_.contains("lora_nums") ? integer("lora_nums") : 1;
    for (const auto& [key, value] : object("rank_pattern")) rank_pattern[pattern(key)] = integer(key, value);
    for (const auto& [key, value] : object("alpha_pattern")) alpha_pattern[pattern(key)] = number(key, value);
    read_gate();
    check_unsupported();
    if (!reasons_.empty()) throw FileError(path, reasons_);
  }

  Index rank = 0, heads = 1;
  double alpha = 0, dropout = 0;
  bool rank_stabilized = false;
  std::string gate;  ///< this library's own setting: causal, prompt or given; empty for the gate of HydraLoRA's trainer
  std::vector<std::string> groups;  ///< names of the groups, for gate given: head number % heads is that of a group
  std::map<std::string, Index> rank_pattern;
  std::map<std::string, double> alpha_pattern;

  /// The value of the longest key that equals the module's name or its end behind a dot; without one, `otherwise`.
  template <class Value>
  static Value for_module(const std::map<std::string, Value>& pattern, const std::string& module, Value otherwise) {
    std::size_t longest = 0;
    for (const auto& [key, value] : pattern) {
      if (key.size() <= longest || !means_module(key, module)) continue;
      longest = key.size();
      otherwise = value;
    }
    return otherwise;
  }

 private:
  void refuse(const std::string& reason) { add_reason(reasons_, reason); }

  void read_gate() {
    for (const auto& [key, value] : object("hydralora")) {
      const bool is_gate = key == "gate" && (value == "causal" || value == "prompt" || value == "given");
      const bool is_groups = key == "groups" && value.is_array() &&
                             std::all_of(value.begin(), value.end(), [](const auto& one) { return one.is_string(); });
      if (!is_gate && !is_groups) {
        refuse("hydralora has " + in_quotes(key) + ' ' + value.dump() +
               ", supported: gate causal, prompt, given; groups, a list of names");
      }
      if (is_gate) gate = value.get<std::string>();
      if (is_groups) groups = value.get<std::vector<std::string>>();
    }
  }
  /// Refuses settings that change the forward pass or the base.
  void check_unsupported() {
    std::set<std::string> known = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "lora_nums",
                                   "rank_pattern", "alpha_pattern", "bias", "init_lora_weights", "hydralora",
                                   // these do not affect a forward pass
                                   "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode",
                                   "target_modules", "exclude_modules", "fan_in_fan_out", "layers_to_transform",
                                   "layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config",
                                   "runtime_config", "peft_version", "qalora_group_size", "merge_weights",
                                   "enable_lora", "blc_alpha", "blc_weight", "ensure_weight_tying", "arrow_config"};
    for (const char* key : {"use_dora", "lora_bias", "use_qalora", "alora_invocation_tokens", "modules_to_save",
                            "layer_replication", "trainable_token_indices", "target_parameters", "megatron_config"}) {
      known.insert(key);
      if (json_.contains(key) && !is_nothing(json_[key])) refuse(std::string(key) + " is not supported");
    }
    if (text("bias", "none") != "none") refuse("bias " + in_quotes(text("bias", "none")) + " is not supported");
    const auto start = json_.find("init_lora_weights");  // a string, true or false
    for (const char* changed : {"pissa", "olora", "loftq", "corda"}) {
      if (start != json_.end() && start->is_string() && start->get<std::string>().rfind(changed, 0) == 0) {
        refuse("init_lora_weights " + in_quotes(start->get<std::string>()) +
               " changed the base: convert it to a plain LoRA first");
      }
    }
    for (const auto& [key, value] : json_.items()) {
      if (known.count(key) == 0 && !is_nothing(value)) refuse("has the unknown setting " + in_quotes(key));
    }
  }

  static bool is_nothing(const nlohmann::json& value) {
    return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty()) ||
           value == "";
  }
  /// The value of a setting, `otherwise` if it is missing, null or of another type.
  template <class Value>
  Value get(const std::string& key, nlohmann::json::value_t type, const char* wrong_type, Value otherwise) {
    const auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) return otherwise;
    if (found->type() == type) return found->template get<Value>();
    refuse(key + wrong_type);
    return otherwise;
  }
  std::string text(const char* key, const char* otherwise) {
    return get<std::string>(key, nlohmann::json::value_t::string, " is not a string", otherwise);
  }
  nlohmann::json::object_t object(const char* key) {
    return get<nlohmann::json::object_t>(key, nlohmann::json::value_t::object, " is not an object", {});
  }
  Index integer(const std::string& key) { return integer(key, json_.value(key, nlohmann::json())); }
  Index integer(const std::string& key, const nlohmann::json& value) {
    constexpr std::uint64_t most = std::uint64_t{1} << 31U;
    if (value.is_number_unsigned() && value.get<std::uint64_t>() >= 1 && value.get<std::uint64_t>() < most) {
      return static_cast<Index>(value.get<std::uint64_t>());
    }
    refuse(in_quotes(key) + " is not a whole number from 1 to 2147483647");
    return 1;
  }
  double number(const std::string& key) { return number(key, json_.value(key, nlohmann::json())); }
  double number(const std::string& key, const nlohmann::json& value) {
    if (value.is_number() && std::isfinite(value.get<double>())) return value.get<double>();
    refuse(in_quotes(key) + " is not a finite number");
    return 0;
  }
  /// PEFT's keys are regular expressions. Only names and ends of names are supported.
  std::string pattern(const std::string& key) {
    if (key.empty() || key.find_first_of("\\^$|()[]{}*+?") != std::string::npos) {
      refuse("the pattern " + in_quotes(key) + " is not a plain name");
    }
    return key;
  }

  nlohmann::json json_;
  std::string reasons_;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
