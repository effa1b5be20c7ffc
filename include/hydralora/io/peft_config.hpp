// SPDX-License-Identifier: MIT
// The settings of an adapter directory: reads those that this library supports and refuses the others.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/json.hpp"
#include "hydralora/io/peft_names.hpp"
#include "hydralora/io/peft_pattern.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Appends a reason to an error message, up to a readable length.
inline void add_reason(std::string& text, const std::string& reason) {
  constexpr std::size_t enough = 2000;
  if (text.size() < enough) text += (text.empty() ? "" : "; ") + reason.substr(0, enough);
}

/// The settings of an adapter: adapter_config.json of PEFT and the trainers that write as it does, or of MLX.
/// What only names other tensors (modules_to_save, bias, …) is no error here: the tensors tell.
class PeftConfig {
 public:
  /// @param text  the content of adapter_config.json.
  PeftConfig(const std::filesystem::path& path, const std::string& text) : path_(path) {
    JsonChecks checks(path);
    json_ = parse_json_object(path, text, checks);
    order_ = std::move(checks.order);
    read("");
  }
  /// @param where  begins the message of an error.
  PeftConfig(const std::filesystem::path& path, nlohmann::json settings,
             std::map<std::string, std::vector<std::string>> order, const std::string& where)
      : path_(path), json_(std::move(settings)), order_(std::move(order)) {
    read(where);
  }
  /// Of a file of weights without settings: the scaling of a module is its tensor `alpha` / rank, or 1.
  PeftConfig() : from_tensors(true) {}

  Index rank = 0, heads = 0;  ///< heads: lora_nums, or 0 where it is missing
  double alpha = 0, dropout = 0;
  bool rank_stabilized = false, dora = false, from_tensors = false;
  std::string trainer = "PEFT";
  std::string gate;  ///< this library's own setting: causal, prompt or given; empty for the gate of HydraLoRA's trainer
  std::vector<std::string> groups;  ///< names of the groups, for gate given: head number % heads is that of a group
  std::vector<std::string> modules_to_save, target_parameters;
  std::vector<Index> trainable_tokens;  ///< trainable_token_indices, of one embedding

  Index rank_of(const std::string& module) { return find("rank_pattern", rank_pattern_, module, rank); }
  double alpha_of(const std::string& module) { return find("alpha_pattern", alpha_pattern_, module, alpha); }

 private:
  void read(const std::string& where) {
    if (json_.contains("lora_parameters")) {
      read_mlx();
    } else {
      read_peft();
    }
    json_ = nullptr;
    order_.clear();
    if (!reasons_.empty()) throw FileError(path_, where + reasons_);
  }
  void refuse(const std::string& reason) { add_reason(reasons_, reason); }

  template <class Value>
  Value find(const char* setting, PeftPattern<Value>& pattern, const std::string& module, Value otherwise) {
    try {
      return pattern.find(module, otherwise);
    } catch (const std::invalid_argument& error) {
      throw FileError(path_, std::string(setting) + ' ' + error.what());
    }
  }
  void read_peft() {
    const std::string type = text("peft_type", "LORA");
    if (type != "LORA" && type != "MIXLORA") refuse("'peft_type' is " + in_quotes(type) + ", expected 'LORA'");
    rank = integer("r", at("r"));
    alpha = number("lora_alpha", at("lora_alpha"));
    read_dropout("lora_dropout", json_);
    rank_stabilized = flag("use_rslora");
    dora = flag("use_dora");
    if (json_.contains("lora_nums")) heads = integer("lora_nums", json_["lora_nums"]);
    read_pattern("rank_pattern", rank_pattern_, &PeftConfig::integer);
    read_pattern("alpha_pattern", alpha_pattern_, &PeftConfig::number);
    modules_to_save = names("modules_to_save");
    target_parameters = names("target_parameters");
    const nlohmann::json& indices = at("trainable_token_indices");
    // of one embedding, by its name, or of the model's
    const nlohmann::json& tokens = indices.is_object() && indices.size() == 1 ? *indices.begin() : indices;
    if (tokens.is_array()) {
      for (const nlohmann::json& token : tokens) trainable_tokens.push_back(whole("trainable_token_indices", token, 0));
    }
    if (type == "MIXLORA") trainer = "MixLoRA";
    if (json_.contains("lora_dtype") || json_.contains("lorap_lr_ratio")) trainer = "Swift";
    if (json_.contains("auto_mapping") && json_["auto_mapping"].is_object() &&
        json_["auto_mapping"].contains("unsloth_fixed")) {
      trainer = "Unsloth";
    }
    read_gate();
    check_start();
    check_unsupported(type == "MIXLORA");
  }
  /// mlx_lm: y = W x + scale · B A x. Many versions write an alpha that they do not use.
  void read_mlx() {
    trainer = "MLX";
    const std::string type = text("fine_tune_type", "lora");
    if (type != "lora") {
      refuse("'fine_tune_type' is " + in_quotes(type) + ", expected 'lora': merge others with mlx_lm.fuse");
    }
    const nlohmann::json& own = json_["lora_parameters"];
    if (!own.is_object()) return refuse("'lora_parameters' is " + found("lora_parameters") + ", expected an object");
    rank = integer("rank", at("rank", own));
    const double scale = number("scale", at("scale", own));
    alpha = scale * static_cast<double>(rank);
    const bool unused_alpha =
        json_.contains("fine_tune_type") || json_.contains("num_layers") || !own.contains("alpha");
    if (!unused_alpha && number("alpha", own["alpha"]) != static_cast<double>(rank)) {
      refuse(
          "'alpha' in lora_parameters is " + shown(own["alpha"]) + " and the rank " + std::to_string(rank) +
          ": old versions of MLX multiply scale by alpha / rank, later ones do not. Correct scale, and remove alpha");
    }
    const std::string within = "lora_parameters";
    read_dropout("dropout", own, &within);
  }
  void read_dropout(const std::string& key, const nlohmann::json& object, const std::string* within = nullptr) {
    if (!object.contains(key)) return;
    dropout = number(key, object[key], within);
    if (dropout >= 0 && dropout < 1) return;
    refuse(quoted(key, within) + " is " + shown(object[key]) + ", expected in [0, 1)");
  }
  template <class Value>
  void read_pattern(const std::string& setting, PeftPattern<Value>& pattern,
                    Value (PeftConfig::*read_value)(const std::string&, const nlohmann::json&, const std::string*)) {
    const auto values = json_.find(setting);
    if (values == json_.end() || values->is_null()) return;
    if (!values->is_object()) return refuse(in_quotes(setting) + " is " + found(setting) + ", expected an object");
    for (const std::string& key : order_[setting]) {
      try {
        pattern.add(key, (this->*read_value)(key, (*values)[key], &setting));
      } catch (const std::invalid_argument& error) {
        refuse(in_quotes(key) + " in " + setting + ' ' + error.what());
      }
    }
  }
  void read_gate() {
    if (!json_.contains("hydralora")) return;
    if (!json_["hydralora"].is_object()) return refuse("'hydralora' is " + found("hydralora") + ", expected an object");
    for (const auto& [key, value] : json_["hydralora"].items()) {
      const bool is_gate = key == "gate" && (value == "causal" || value == "prompt" || value == "given");
      const bool is_groups = key == "groups" && value.is_array() &&
                             std::all_of(value.begin(), value.end(), [](const auto& one) { return one.is_string(); });
      if (!is_gate && !is_groups) {
        refuse("hydralora has " + in_quotes(key) + ' ' + shown(value) +
               ", supported: gate causal, prompt, given; groups, a list of names");
      }
      if (is_gate) gate = value.get<std::string>();
      if (is_groups) groups = value.get<std::vector<std::string>>();
    }
  }
  /// Refuses starts that change the base: A and B are then not what was learned.
  void check_start() {
    const nlohmann::json& start = at("init_lora_weights");
    std::string name = start.is_string() ? start.get<std::string>() : "";
    for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    const std::set<std::string> same_base = {"gaussian", "eva", "orthogonal", "mica", "true", "false"};
    const bool has_lora_ga = !is_nothing(at("lora_ga_config"));
    if (!has_lora_ga && (start.is_null() || start.is_boolean() || same_base.count(name) > 0)) return;
    const bool is_known = starts_with(name, "pissa") || starts_with(name, "olora") || starts_with(name, "loftq") ||
                          starts_with(name, "corda") || starts_with(name, "lora_ga");
    const std::string what = has_lora_ga && !is_known ? "'lora_ga_config' is set: this start changed"
                                                      : "'init_lora_weights' is " + shown(start) +
                                                            (is_known ? ", which changed" : ", which may have changed");
    refuse(what +
           " the base. Save a plain LoRA in Python: "
           "save_pretrained(..., path_initial_model_for_weight_conversion=...)");
  }
  /// Refuses settings that change the forward pass in a way that no tensor shows.
  void check_unsupported(bool mixlora) {
    std::set<std::string> known = {
        "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_nums", "rank_pattern",
        "alpha_pattern", "init_lora_weights", "lora_ga_config", "hydralora",
        // their tensors are seen
        "bias", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters",
        // these do not affect a forward pass
        "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "target_modules",
        "exclude_modules", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_core", "loftq_config",
        "eva_config", "corda_config", "runtime_config", "peft_version", "qalora_group_size", "merge_weights",
        "blc_alpha", "blc_weight", "ensure_weight_tying", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"};
    if (mixlora) {
      known.insert({"routing_strategy", "num_experts", "top_k", "act_fn", "router_aux_loss_coef", "router_init_range",
                    "router_loss", "jitter_noise"});
    }
    for (const auto& [key, value] : json_.items()) {
      if (known.count(key) > 0 || is_nothing(value)) continue;
      refuse("the setting " + in_quotes(key) + " is " + found(key) + ", which is not supported");
    }
  }

  const nlohmann::json& at(const std::string& key) const { return at(key, json_); }
  /// The value of a key, or null.
  static const nlohmann::json& at(const std::string& key, const nlohmann::json& object) {
    static const nlohmann::json null;
    const auto found = object.find(key);
    return found == object.end() ? null : *found;
  }
  static bool is_nothing(const nlohmann::json& value) {
    return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty()) ||
           value == "";
  }
  /// A setting's value for a message.
  std::string found(const std::string& key) { return shown(json_[key]); }
  static std::string shown(const nlohmann::json& value) {
    constexpr std::size_t most = 60;
    if (value.is_null()) return "missing";
    const std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    return text.size() <= most ? text : text.substr(0, most) + "...";
  }
  std::string text(const char* key, const char* otherwise) {
    const nlohmann::json& value = at(key);
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_null()) refuse(in_quotes(key) + " is " + shown(value) + ", expected a string");
    return otherwise;
  }
  std::vector<std::string> names(const char* key) {
    std::vector<std::string> all;
    for (const nlohmann::json& name : at(key)) {
      if (name.is_string()) all.push_back(name.get<std::string>());
    }
    return all;
  }
  bool flag(const char* key) {
    const nlohmann::json& value = at(key);
    if (!value.is_null() && !value.is_boolean()) {
      refuse(in_quotes(key) + " is " + shown(value) + ", expected true or false");
    }
    return value == true;
  }
  /// @param pattern  the setting that has the key, where it is not the outermost object.
  Index integer(const std::string& key, const nlohmann::json& value, const std::string* pattern = nullptr) {
    return whole(key, value, 1, pattern);
  }
  Index whole(const std::string& key, const nlohmann::json& value, std::uint64_t least,
              const std::string* pattern = nullptr) {
    constexpr std::uint64_t most = std::uint64_t{1} << 31U;
    if (value.is_number_unsigned() && value.get<std::uint64_t>() >= least && value.get<std::uint64_t>() < most) {
      return static_cast<Index>(value.get<std::uint64_t>());
    }
    refuse(quoted(key, pattern) + " is " + shown(value) + ", expected a whole number from " + std::to_string(least) +
           " to 2147483647");
    return 1;
  }
  double number(const std::string& key, const nlohmann::json& value, const std::string* pattern = nullptr) {
    if (value.is_number() && std::isfinite(value.get<double>())) return value.get<double>();
    refuse(quoted(key, pattern) + " is " + shown(value) + ", expected a finite number");
    return 0;
  }
  static std::string quoted(const std::string& key, const std::string* pattern) {
    return in_quotes(key) + (pattern == nullptr ? "" : " in " + *pattern);
  }

  std::filesystem::path path_;
  nlohmann::json json_;
  std::map<std::string, std::vector<std::string>> order_;
  PeftPattern<Index> rank_pattern_;
  PeftPattern<double> alpha_pattern_;
  std::string reasons_;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
