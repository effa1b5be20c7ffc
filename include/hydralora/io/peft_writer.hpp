// SPDX-License-Identifier: MIT
// Writes layers to an adapter directory that PEFT, HydraLoRA's trainer and this library read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/peft_directory.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Collects the layers of a model and saves them as one adapter directory:
///
///   PeftWriter adapter;
///   adapter.add("model.layers.0.mlp.up_proj", layer);
///   adapter.save("my_adapter");
///
/// The scaling is always written as lora_alpha / r with use_rslora false, because some tools ignore use_rslora.
class PeftWriter {
 public:
  std::string base_model;  ///< base_model_name_or_path
  std::string task_type = "CAUSAL_LM";
  std::string gate;                 ///< causal, prompt or given: as in PeftDirectory::gate(), set before add()
  std::vector<std::string> groups;  ///< as in PeftDirectory::groups()

  /// Copies the parameters, rounded to `type` (default: the layer's own).
  /// @throws std::invalid_argument  a name that is empty, used before or has characters of regular expressions; a gate
  ///                       that the format cannot express; heads or dropout that differ from the earlier layers'.
  template <class Layer>
  void add(const std::string& module, const Layer& layer, std::optional<DType> type = {}) {
    using Config = typename Layer::Config;
    const Config& config = layer.config();
    expects(!module.empty() && module.find_first_of("/\\^$|()[]{}*+?") == std::string::npos,
            "PeftWriter: ", in_quotes(module), " is not a module's name");
    const Gate& own = layer.shape().gate;
    GateConfig plain;
    plain.keep_log_partition = own.config.keep_log_partition;
    Routing routing = Routing::learned;
    detail::apply_gate(gate, routing, plain);
    expects(own == Gate(own.heads, routing, plain), "PeftWriter: ", in_quotes(module),
            ": a directory can only hold a dense softmax gate on x, token by token");
    // alpha / rank * rank may differ from alpha by rounding.
    const auto rank = static_cast<double>(config.rank);
    const Settings settings{config.rank, config.rank_stabilized ? scaling_of(config) * rank : config.alpha};
    const Index heads = detail::kind_of<Layer>() == AdapterKind::lora ? 0 : layer.shape().heads;
    expects(modules_.empty() || (heads == heads_ && config.dropout == dropout_), "PeftWriter: ", in_quotes(module),
            " has ", heads, " heads and dropout ", config.dropout, ", the modules before it ", heads_, " and ",
            dropout_, ": a directory has one setting for all");
    constexpr Index most_heads = 10000;  // the limit of PeftDirectory
    expects(heads < most_heads, "PeftWriter: ", in_quotes(module), " has ", heads,
            " heads, a directory holds fewer than ", most_heads);
    expects(std::isfinite(settings.alpha), "PeftWriter: ", in_quotes(module), " has a scaling that is not finite");
    expects(modules_.count(module) == 0, "PeftWriter: ", in_quotes(module), " was added before");
    detail::for_each_tensor(layer, [&](const char* part, Index head, const auto& matrix) {
      weights_.add(detail::tensor_name(module, part, head), matrix, type);
    });
    modules_[module] = settings;
    heads_ = heads;
    dropout_ = config.dropout;
  }

  /// Creates the folder if it is missing and replaces both files, each atomically, the weights first. Throws FileError
  /// if it cannot; std::invalid_argument, with nothing written, if nothing was added or a name is not UTF-8.
  void save(const std::filesystem::path& folder) const {
    expects(!modules_.empty(), "PeftWriter: there is nothing to save");
    const std::string weights = weights_.content(), config = config_text();
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) throw FileError(folder, "cannot create the folder: " + error.message());
    write_file_atomically(folder / detail::weights_name, weights.data(), weights.size());
    write_file_atomically(folder / detail::config_name, config.data(), config.size());
  }

 private:
  struct Settings {
    Index rank = 0;
    double alpha = 0;
  };

  std::string config_text() const {
    const Settings& first = modules_.begin()->second;
    nlohmann::ordered_json json = {{"peft_type", "LORA"},
                                   {"task_type", task_type},
                                   {"base_model_name_or_path", base_model},
                                   {"r", first.rank},
                                   {"lora_alpha", number(first.alpha)},
                                   {"lora_dropout", dropout_},
                                   {"use_rslora", false},
                                   {"use_dora", false},
                                   {"bias", "none"},
                                   {"fan_in_fan_out", false},
                                   {"inference_mode", true},
                                   {"init_lora_weights", true},
                                   {"modules_to_save", nullptr},
                                   {"rank_pattern", nlohmann::ordered_json::object()},
                                   {"alpha_pattern", nlohmann::ordered_json::object()},
                                   {"target_modules", nlohmann::ordered_json::array()}};
    if (heads_ > 0) json["lora_nums"] = heads_;
    if (!gate.empty()) json["hydralora"] = {{"gate", gate}};
    if (!gate.empty() && !groups.empty()) json["hydralora"]["groups"] = groups;
    // A key applies to every module whose name ends with it, and readers use the first match: long names first.
    std::vector<std::pair<std::string, Settings>> modules(modules_.begin(), modules_.end());
    std::stable_sort(modules.begin(), modules.end(),
                     [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
    const auto differ = [&](auto member) {
      return std::any_of(modules.begin(), modules.end(),
                         [&](const auto& one) { return one.second.*member != first.*member; });
    };
    for (const auto& [name, settings] : modules) {
      if (differ(&Settings::rank)) json["rank_pattern"][name] = settings.rank;
      if (differ(&Settings::alpha)) json["alpha_pattern"][name] = number(settings.alpha);
    }
    for (const auto& [name, settings] : modules_) json["target_modules"].push_back(name);
    try {
      return json.dump(2) + '\n';
    } catch (const nlohmann::json::exception& error) {
      fail("PeftWriter: a name is not UTF-8: ", error.what());
    }
  }

  /// Whole numbers are written as integers: some readers require it.
  static nlohmann::ordered_json number(double value) {
    constexpr double most = 1e15;
    if (value == std::floor(value) && std::abs(value) < most) return static_cast<std::int64_t>(value);
    return value;
  }
  SafetensorsWriter weights_;
  std::map<std::string, Settings> modules_;
  Index heads_ = 0;
  double dropout_ = 0;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
