// SPDX-License-Identifier: MIT
// Adapter directories of Python trainers: adapter_config.json and adapter_model.safetensors.
//
//   PEFT LoRA              <module>.lora_A.weight [r, in]       <module>.lora_B.weight [out, r]
//   PEFT DoRA              the same, and <module>.lora_magnitude_vector [out]
//   HydraLoRA              … lora_A … lora_B0 … lora_B{N-1}     <module>.lora_route.weight [N, in]
//   LoRAMoE, SplitLoRA     … lora_A0 … lora_B0 …                <module>.lora_route.weight [N, in], or none (their sum)
//
// io/peft_names.hpp has the dialects. One message names everything that is not supported.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/peft_config.hpp"
#include "hydralora/io/peft_modules.hpp"
#include "hydralora/io/peft_names.hpp"
#include "hydralora/io/safetensors.hpp"
#include "hydralora/layers/dora.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/split_lora.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
/// How an adapter directory is read.
struct PeftOptions {
  /// Whether tensors are accepted that are no part of an adapter: saved modules, biases, embeddings. They are then in
  /// others(). By default a directory with such tensors is refused, because its adapters alone are not what was
  /// trained.
  bool allow_others = false;
  /// From a tensor's name in the file to one of the names in io/peft_names.hpp, where a trainer has its own.
  std::function<std::string(const std::string&)> rename;
  FileAccess access = FileAccess::buffered;
};

/// An adapter directory, open for reading. The constructor checks the settings and all names, types and shapes:
///
///   const PeftDirectory adapter("my_adapter");
///   for (const AdapterModule& m : adapter.modules()) std::cout << m.name << '\n';
///   auto layer = adapter.load<HydraLoRA<float>>("model.layers.0.mlp.up_proj");
class PeftDirectory {
 public:
  /// @param path  a folder, or a file of weights: of kohya and diffusers, which need no settings, or of a folder.
  /// @throws FileError  a missing or broken file, or settings or tensors that are not supported; all are named.
  explicit PeftDirectory(const std::filesystem::path& path, const PeftOptions& options = {})
      : weights_(weights_path(path), options.access) {
    find_modules(options);
  }
  PeftDirectory(const std::filesystem::path& path, FileAccess access) : PeftDirectory(path, {false, {}, access}) {}

  /// This library's own setting: causal, prompt or given; empty for the gate of HydraLoRA's trainer. A layer that is
  /// loaded has GateGranularity::causal, GateGranularity::segment (with Segments::prompts), or Routing::given.
  const std::string& gate() const { return gate_; }
  /// The names of the groups of gate given: the head of group i is i % heads. Empty where the writer had no names.
  const std::vector<std::string>& groups() const { return groups_; }
  const std::vector<AdapterModule>& modules() const { return modules_; }  ///< sorted by name
  /// With PeftOptions::allow_others: the tensors that are no part of a module, sorted by name. weights() reads them.
  const std::vector<OtherTensor>& others() const { return others_; }
  /// Who wrote the names or the settings: PEFT, Unsloth, Swift, MLX, MixLoRA, kohya, diffusers, torch.compile, ….
  const std::string& dialect() const { return dialect_; }
  /// trainable_token_indices, for the rows of a tensor with this reason in others().
  const std::vector<Index>& trainable_tokens() const { return trainable_tokens_; }
  const SafetensorsFile& weights() const { return weights_; }
  /// alpha / rank, or alpha / √rank, that the settings give a module of this name and rank which modules() has not.
  /// @throws FileError  if they give it another rank.
  double scaling_for(const std::string& module, Index rank) const { return scaling_for_(module, rank); }
  /// @throws FileError  if there is no module of this name.
  const AdapterModule& module(const std::string& name) const { return modules_[index_of(name)]; }
  /// @throws FileError  always: "module '…'" and the reason.
  [[noreturn]] void refuse(const std::string& name, const std::string& reason) const {
    throw FileError(weights_.path(), "module " + in_quotes(name) + reason);
  }
  /// A new layer (LoRA, SplitLoRA or HydraLoRA) with a module's settings and parameters. The seed is dropout's.
  /// @throws FileError  no such module, another kind, a DoRA, unreadable, or, with finite_only, a number that is not
  ///                    finite.
  template <class Layer>
  Layer load(const std::string& name, std::uint64_t seed = 0, bool finite_only = true) const {
    expects_no_dora(name);
    return without_bad_alloc(name, [&] {
      Layer layer(config<Layer>(name), seed);
      read(layer, name, finite_only);
      return layer;
    });
  }
  /// Loads a module into an existing layer. On an error the layer is unchanged.
  /// Memory   a second set of parameters while reading: at most 2 × the file for float, 4 × from 16 bits to double.
  /// @throws FileError  as load(), or if sizes or scaling differ.
  template <class Layer>
  void load_into(Layer& layer, const std::string& name, bool finite_only = true) const {
    expects_no_dora(name);
    without_bad_alloc(name, [&] { layer.parameters() = read_like(layer, name, finite_only).parameters(); });
  }
  /// The same for a DoRA, which is made of its base and config<LoRA<Scalar>>(name).
  template <class Scalar>
  void load_into(DoRALinear<Scalar>& layer, const std::string& name, bool finite_only = true) const {
    if (!module(name).dora) refuse(name, " has no lora_magnitude_vector: it is no DoRA");
    without_bad_alloc(name, [&] {
      const LoRA<Scalar> loaded = read_like(layer.adapter, name, finite_only);
      const typename DoRALinear<Scalar>::Vector magnitude = this->template magnitude<Scalar>(name, finite_only);
      layer.adapter.parameters() = loaded.parameters();
      layer.magnitude = magnitude;
    });
  }
  /// The magnitude of a DoRA, (out_features).
  template <class Scalar>
  Eigen::Matrix<Scalar, Eigen::Dynamic, 1> magnitude(const std::string& name, bool finite_only = true) const {
    const std::string& tensor = tensors_[index_of(name)].magnitude->first;
    const std::vector<Index>& shape = weights_.entry(tensor).shape;
    Eigen::Matrix<Scalar, Eigen::Dynamic, 1> all(module(name).out_features);
    if (shape.size() > 1 && shape[0] == 1) {  // [1, out] of old versions, [1, out, 1, 1] of convolutions
      weights_.read(tensor, all.transpose(), finite_only);
    } else {
      weights_.read(tensor, all, finite_only);
    }
    return all;
  }
  /// A module's settings, of LoRA<…>, SplitLoRA<…> or HydraLoRA<…>.
  /// @throws FileError  no such module, or another kind.
  template <class Layer>
  typename Layer::Config config(const std::string& name) const {
    const AdapterModule& m = module(name);
    constexpr AdapterKind kind = detail::kind_of<Layer>();
    if (m.kind != kind) refuse(m.name, std::string(" is a ") + name_of(m.kind) + ", not a " + name_of(kind));
    typename Layer::Config config;
    config.in_features = m.in_features;
    config.out_features = m.out_features;
    config.rank = m.rank;
    config.alpha = m.alpha;
    config.rank_stabilized = m.rank_stabilized;
    config.dropout = m.dropout;
    if constexpr (kind != AdapterKind::lora) {
      config.heads = m.heads;
      config.routing = m.routed ? Routing::learned : Routing::uniform;
      detail::apply_gate(gate_, config.routing, config.gate);
    }
    if (!std::isfinite(static_cast<typename Layer::Scalar>(scaling_of(config)))) {
      refuse(m.name, " has a scaling that is too large for the layer's scalar type");
    }
    return config;
  }

 private:
  static constexpr const char* pickle_is =
      "is a pickle, which may run any code. Convert it in Python: import torch; from safetensors.torch import "
      "save_file; save_file(torch.load('adapter_model.bin'), 'adapter_model.safetensors')";

  static std::filesystem::path weights_path(const std::filesystem::path& path) {
    std::error_code error;
    if (std::filesystem::is_regular_file(path, error)) return path;
    for (const char* name : {detail::weights_name, "adapters.safetensors", "pytorch_lora_weights.safetensors"}) {
      if (std::filesystem::exists(path / name, error)) return path / name;
    }
    const std::filesystem::path pickle = path / "adapter_model.bin";
    if (std::filesystem::exists(pickle, error)) throw FileError(pickle, pickle_is);
    return path / detail::weights_name;  // opening it tells
  }
  /// The text of adapter_config.json, or none. A save that was interrupted between its two files left the new settings
  /// in the file of weights.
  std::optional<std::string> settings(const std::filesystem::path& path) const {
    const auto embedded = weights_.metadata().find(detail::settings_key);
    const auto replaced = weights_.metadata().find(detail::old_settings_key);
    const bool both = embedded != weights_.metadata().end() && replaced != weights_.metadata().end();
    std::error_code error;
    if (!std::filesystem::exists(path, error)) return both ? std::optional(embedded->second) : std::nullopt;
    std::string text = read_text(path, detail::most_header_bytes);
    return both && text == replaced->second ? embedded->second : text;
  }
  void find_modules(const PeftOptions& options) {
    const std::filesystem::path settings_path = weights_.path().parent_path() / detail::config_name;
    const std::string file = weights_.path().filename().string();
    const bool has_settings = file == detail::weights_name || file == "adapters.safetensors";
    const std::optional<std::string> text = has_settings ? settings(settings_path) : std::nullopt;
    detail::PeftConfig config = text ? detail::PeftConfig(settings_path, *text) : detail::PeftConfig();
    detail::ModuleFinder finder(weights_, config);
    const auto parts = weights_.metadata().find("lora_adapter_metadata");
    if (!text && parts != weights_.metadata().end()) {
      finder.parts = detail::read_diffusers_settings(weights_.path(), parts->second);
    }
    for (const auto& tensor : weights_.tensors()) {
      finder.add(tensor, detail::TensorName(options.rename ? options.rename(tensor.first) : tensor.first));
    }
    dialect_ = finder.dialect.empty() ? config.trainer : finder.dialect;
    if (!text && finder.needs_settings && finder.parts.empty()) {
      throw FileError(settings_path,
                      (has_settings ? "No such file: it tells" : "is not read for a file of this name; it tells") +
                          std::string(" the scaling (lora_alpha) of the tensors in ") + file);
    }
    finder.finish();
    if (!options.allow_others) {
      for (const OtherTensor& other : finder.others) {
        const TensorEntry& entry = weights_.entry(other.name);
        finder.refuse("has the tensor " + in_quotes(other.name) + ' ' + entry.type_name() + ' ' +
                      shape_text(entry.shape) + " (" + other.reason + ")");
      }
      if (!finder.others.empty()) {
        finder.reasons += ": no adapter of this library. PeftOptions::allow_others loads the rest";
      }
    }
    if (finder.reasons.empty() && finder.modules.empty() && finder.others.empty()) {
      std::error_code error;
      const bool has_pickle = std::filesystem::exists(weights_.path().parent_path() / "adapter_model.bin", error);
      finder.reasons = "holds no adapter: the trainer saved " + std::to_string(weights_.tensors().size()) + " tensors" +
                       (has_pickle ? std::string(". adapter_model.bin beside it ") + pickle_is : "");
    }
    if (!finder.reasons.empty()) throw FileError(weights_.path(), finder.reasons);
    for (auto& [module, tensors] : finder.modules) {
      modules_.push_back(std::move(module));
      tensors_.push_back(std::move(tensors));
    }
    others_ = std::move(finder.others);
    gate_ = std::move(config.gate);
    groups_ = std::move(config.groups);
    trainable_tokens_ = config.trainable_tokens;
    scaling_for_ = [config = std::move(config), path = settings_path](const std::string& module, Index rank) mutable {
      if (config.rank_of(module) != rank) {
        throw FileError(path, "gives " + in_quotes(module) + " the rank " + std::to_string(config.rank_of(module)) +
                                  ", its tensors have " + std::to_string(rank));
      }
      const double alpha = config.alpha_of(module), r = static_cast<double>(rank);
      return alpha / (config.rank_stabilized ? std::sqrt(r) : r);
    };
  }
  std::size_t index_of(const std::string& name) const {
    const auto found = std::lower_bound(modules_.begin(), modules_.end(), name,
                                        [](const AdapterModule& m, const std::string& text) { return m.name < text; });
    if (found == modules_.end() || found->name != name) {
      throw FileError(weights_.path(), "has no module " + in_quotes(name));
    }
    return static_cast<std::size_t>(found - modules_.begin());
  }
  void expects_no_dora(const std::string& name) const {
    if (module(name).dora) refuse(name, " is a DoRA: load it into a DoRALinear");
  }
  /// A sparse file may claim terabytes.
  template <class Function>
  auto without_bad_alloc(const std::string& name, Function&& f) const {
    try {
      return f();
    } catch (const std::bad_alloc&) {
      refuse(name, " does not fit into memory");
    }
  }
  /// A layer of the settings of `layer`, which must be the module's.
  template <class Layer>
  Layer read_like(const Layer& layer, const std::string& name, bool finite_only) const {
    auto wanted = config<Layer>(name);
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
    Layer loaded(wanted);
    read(loaded, name, finite_only);
    return loaded;
  }
  template <class Layer>
  void read(Layer& layer, const std::string& name, bool finite_only) const {
    const detail::ModuleTensors& from = tensors_[index_of(name)];
    detail::for_each_tensor(layer, [&](const std::string& part, Index head, auto matrix) {
      const auto& tensor = *(part == "lora_route" ? from.route : (part == "lora_A" ? from.A : from.B).at(head));
      if (from.transposed) {
        weights_.read(tensor.first, matrix.transpose(), finite_only);
      } else {
        weights_.read(tensor.first, matrix, finite_only);
      }
    });
  }

  SafetensorsFile weights_;
  std::vector<AdapterModule> modules_;
  std::vector<detail::ModuleTensors> tensors_;  // of the modules; point into weights_
  std::vector<OtherTensor> others_;
  std::string gate_, dialect_;
  std::vector<std::string> groups_;
  std::vector<Index> trainable_tokens_;
  std::function<double(const std::string&, Index)> scaling_for_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
