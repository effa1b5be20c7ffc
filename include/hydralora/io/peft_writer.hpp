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
#include <set>
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
/// All layers of a directory are DoRA, or none. The scaling is always written as lora_alpha / r with use_rslora false,
/// because some tools ignore use_rslora.
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
    add<Layer>(module, layer, type, nullptr);
  }
  template <class Scalar>
  void add(const std::string& module, const DoRALinear<Scalar>& layer, std::optional<DType> type = {}) {
    add(module, layer.adapter, type, &layer.magnitude);
  }
  /// Adds a tensor of the model itself, trained beside the adapters: "lm_head.weight", "model.norm.weight", a bias.
  /// Names that a module has inside a PEFT model (modules_to_save.default, base_layer) are accepted. It goes where PEFT
  /// expects it: modules_to_save names its module; the bias of a module that has an adapter, which must be added
  /// before, sets bias to lora_only.
  /// @throws std::invalid_argument  a name that was added before, or is no tensor of a module.
  template <class Derived>
  void add_tensor(const std::string& name, const Eigen::MatrixBase<Derived>& matrix, std::optional<DType> type = {}) {
    const detail::TensorName parsed(detail::module_prefix + name);
    const std::string target = parsed.module, module = target.substr(0, target.rfind('.'));
    const bool is_part = target.find("lora_") != std::string::npos || target.find("token_adapter") != std::string::npos;
    expects(parsed.part == detail::TensorName::Part::other && !is_part && !module.empty() && module != target,
            "PeftWriter: ", in_quotes(name), " is not a tensor of a module of the model");
    const bool adapted_bias = modules_.count(module) > 0 && detail::ends_with(target, ".bias");
    expects(adapted_bias || modules_.count(module) == 0, "PeftWriter: ", in_quotes(name),
            ": the module has an adapter, which a saved weight would replace");
    weights_.add(detail::module_prefix + (adapted_bias ? module + ".base_layer.bias" : target), matrix, type,
                 Derived::ColsAtCompileTime == 1);
    has_biases_ = has_biases_ || adapted_bias;
    if (!adapted_bias) saved_.insert(module);
  }

  /// Creates the folder if it is missing and replaces both files, each atomically, the weights first. Between the two
  /// the file of weights holds the new settings and the ones beside it, so that PeftDirectory sees the old adapter or
  /// the new one whenever the process is killed. PEFT would read new weights with old settings until the second file is
  /// replaced.
  /// @throws FileError              if it cannot.
  /// @throws std::invalid_argument  with nothing written, if nothing was added or a name is not UTF-8.
  void save(const std::filesystem::path& folder) const {
    expects(!modules_.empty(), "PeftWriter: there is nothing to save");
    const std::string config = config_text();
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) throw FileError(folder, "cannot create the folder: " + error.message());
    const std::filesystem::path beside = folder / detail::config_name;
    const std::string old = std::filesystem::is_regular_file(beside, error) ? read_text(beside) : config;
    std::map<std::string, std::string> metadata;
    if (old != config && nlohmann::json::accept(old))
      metadata = {{detail::settings_key, config}, {detail::old_settings_key, old}};
    const std::string weights = weights_.content(metadata);
    write_file_atomically(folder / detail::weights_name, weights.data(), weights.size());
    write_file_atomically(beside, config.data(), config.size());
  }

 private:
  struct Settings {
    Index rank = 0;
    double alpha = 0;
  };

  template <class Layer>
  void add(const std::string& module, const Layer& layer, std::optional<DType> type,
           const Eigen::Matrix<typename Layer::Scalar, Eigen::Dynamic, 1>* magnitude) {
    const bool dora = magnitude != nullptr;
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
    expects(modules_.empty() || dora == dora_, "PeftWriter: ", in_quotes(module), " is ", dora ? "a" : "no",
            " DoRA, unlike the modules before it: a directory has one setting for all");
    constexpr Index most_heads = 10000;  // the limit of PeftDirectory
    expects(heads < most_heads, "PeftWriter: ", in_quotes(module), " has ", heads,
            " heads, a directory holds fewer than ", most_heads);
    expects(std::isfinite(settings.alpha), "PeftWriter: ", in_quotes(module), " has a scaling that is not finite");
    expects(modules_.count(module) + saved_.count(module) == 0, "PeftWriter: ", in_quotes(module), " was added before");
    SafetensorsWriter tensors;  // all or none
    detail::for_each_tensor(layer, [&](const char* part, Index head, const auto& matrix) {
      tensors.add(detail::tensor_name(module, part, head), matrix, type);
    });
    if (magnitude != nullptr)
      tensors.add(detail::module_prefix + module + ".lora_magnitude_vector", *magnitude, type, true);
    weights_.merge(std::move(tensors));
    modules_[module] = settings;
    heads_ = heads;
    dropout_ = config.dropout;
    dora_ = dora;
  }

  std::string config_text() const {
    const Settings& first = modules_.begin()->second;
    nlohmann::ordered_json json = {{"peft_type", "LORA"},
                                   {"task_type", task_type},
                                   {"base_model_name_or_path", base_model},
                                   {"r", first.rank},
                                   {"lora_alpha", number(first.alpha)},
                                   {"lora_dropout", dropout_},
                                   {"use_rslora", false},
                                   {"use_dora", dora_},
                                   {"bias", has_biases_ ? "lora_only" : "none"},
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
    if (!saved_.empty()) json["modules_to_save"] = saved_;
    // A key applies to every module whose name ends with it, its dots to any character, and readers use the first
    // match: long names first, of equal ones those with fewer dots.
    std::vector<std::pair<std::string, Settings>> modules(modules_.begin(), modules_.end());
    const auto dots = [](const std::string& name) { return std::count(name.begin(), name.end(), '.'); };
    std::stable_sort(modules.begin(), modules.end(), [&](const auto& a, const auto& b) {
      return a.first.size() != b.first.size() ? a.first.size() > b.first.size() : dots(a.first) < dots(b.first);
    });
    const auto differ = [&](auto member) {
      return std::any_of(modules.begin(), modules.end(),
                         [&](const auto& one) { return one.second.*member != first.*member; });
    };
    const bool ranks_differ = differ(&Settings::rank), alphas_differ = differ(&Settings::alpha);
    // json[name] searches all keys: with many modules that would be quadratic.
    using Object = nlohmann::ordered_json::object_t;
    auto& ranks = json["rank_pattern"].get_ref<Object&>();
    auto& alphas = json["alpha_pattern"].get_ref<Object&>();
    for (const auto& [name, settings] : modules) {
      if (ranks_differ) ranks.emplace_back(name, settings.rank);
      if (alphas_differ) alphas.emplace_back(name, number(settings.alpha));
    }
    auto& targets = json["target_modules"];
    for (const auto& [name, settings] : modules_) targets.push_back(name);
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
  bool dora_ = false, has_biases_ = false;
  std::set<std::string> saved_;  // modules_to_save
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
