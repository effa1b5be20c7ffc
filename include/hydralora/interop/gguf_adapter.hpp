// SPDX-License-Identifier: MIT
// LoRA adapters of llama.cpp (general.type = adapter) and adapter directories of PEFT, one made from the other.
//
// A file has blk.3.ffn_up.weight.lora_a [r, in] and .lora_b [out, r] for each linear, and one alpha for all: the
// scaling is alpha / r. Rank and alpha patterns and rsLoRA are folded into lora_b. In the architecture llama the rows
// of lora_b of q and k are permuted as the model's are.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/interop/gguf_model.hpp"
#include "hydralora/io/gguf_writer.hpp"
#include "hydralora/io/peft.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A module as one LoRA: an ungated SplitLoRA of n heads has rank n · r.
/// @throws FileError  if its gate depends on the token: nothing else than this library runs it.
inline LoRA<float> as_plain_lora(const PeftDirectory& directory, const AdapterModule& module) {
  if (module.kind == AdapterKind::lora) return directory.load<LoRA<float>>(module.name);
  if (module.kind == AdapterKind::split_lora && !module.routed) {
    return as_lora(directory.load<SplitLoRA<float>>(module.name));
  }
  directory.refuse(module.name, std::string(" is a ") + name_of(module.kind) +
                                    " with a gate: its heads are mixed token by token, which one low-rank matrix "
                                    "cannot do. Train with --method lora or split, or run it with this library");
}

/// Writes a directory's adapters as a GGUF, in float32.
/// @param config  of the model: its sizes and architecture.
/// @throws FileError  on a gate, or a module that the model has not.
inline void write_gguf_adapter(const PeftDirectory& from, const lm::ModelConfig& config,
                               const std::filesystem::path& to) {
  GgufWriter file;
  double alpha = 0;  // of the first module, and of the file
  for (const AdapterModule& module : from.modules()) {
    const std::string name = detail::gguf_module(module.name);
    if (name.empty()) from.refuse(module.name, " has no name in llama.cpp");
    const LoRA<float> layer = as_plain_lora(from, module);
    const double own = scaling_of(layer.config()) * static_cast<double>(layer.config().rank);
    if (alpha == 0) alpha = own;
    const std::vector<Index> order = detail::gguf_row_order(config, module.name);
    if (!order.empty() && static_cast<Index>(order.size()) != layer.B().rows()) {
      from.refuse(module.name, " has another shape than the model's");
    }
    Eigen::MatrixXd B = layer.B().template cast<double>();
    for (std::size_t i = 0; i < order.size(); ++i) {
      B.row(order[i]) = layer.B().row(static_cast<Index>(i)).template cast<double>();
    }
    if (own != alpha) B *= own / alpha;
    file.add(name + ".weight.lora_a", layer.A(), GgufType::F32);
    file.add(name + ".weight.lora_b", B, GgufType::F32);
  }
  file.metadata = {{"general.architecture", detail::gguf_architecture(config)},
                   {"general.type", "adapter"},
                   {"adapter.type", "lora"},
                   {"adapter.lora.alpha", alpha}};
  file.save(to);
}

/// Writes llama.cpp's adapter as a directory that PEFT reads.
/// @throws FileError  on what is no LoRA adapter, is for another architecture, or does not fit the model.
inline void write_peft_directory(const GgufFile& from, const lm::ModelConfig& config,
                                 const std::filesystem::path& folder) {
  const auto refuse = [&](const char* key, const std::string& expected) {
    const nlohmann::json found = from.metadata().value(key, nlohmann::json());
    throw FileError(from.path(), in_quotes(key) + " is " + found.dump().substr(0, 100) + ", expected " + expected);
  };
  const auto check = [&](const char* key, const std::string& expected) {
    if (from.metadata().value(key, nlohmann::json()) != expected) refuse(key, expected);
  };
  check("general.type", "adapter");
  check("adapter.type", "lora");
  check("general.architecture", detail::gguf_architecture(config));
  const nlohmann::json alpha = from.metadata().value("adapter.lora.alpha", nlohmann::json());
  if (!alpha.is_number()) refuse("adapter.lora.alpha", "a number");
  if (from.metadata().contains("adapter.alora.invocation_tokens")) refuse("adapter.alora.invocation_tokens", "none");

  const std::map<std::string, detail::GgufLinear> linears = detail::gguf_linears(config);
  PeftWriter writer;
  std::size_t used = 0;
  for (const auto& [name, module] : linears) {
    const std::string a = name + ".weight.lora_a", b = name + ".weight.lora_b";
    if (!from.has(a) && !from.has(b)) continue;
    const Index rank = from.entry(a).rows();
    from.entry(a, {rank, module.in});
    from.entry(b, {module.out, rank});
    used += 2;
    // llama.cpp: with alpha 0 the scaling is 1.
    const double own_alpha = alpha == 0 ? static_cast<double>(rank) : alpha.get<double>();
    LoRA<float> layer(LoRAConfig{module.in, module.out, rank, own_alpha});
    from.for_each_row(a, [&](Index i, const std::vector<float>& row) {
      layer.A().row(i) = Eigen::Map<const Eigen::RowVectorXf>(row.data(), module.in);
    });
    const std::vector<Index> order = detail::gguf_row_order(config, module.module);
    Eigen::MatrixXf B(module.out, rank);
    from.for_each_row(b, [&](Index i, const std::vector<float>& row) {
      B.row(i) = Eigen::Map<const Eigen::RowVectorXf>(row.data(), rank);
    });
    for (Index i = 0; i < module.out; ++i) {
      layer.B().row(i) = B.row(order.empty() ? i : order[static_cast<std::size_t>(i)]);
    }
    if (!layer.A().allFinite() || !layer.B().allFinite()) {
      detail::fail_tensor(from.path(), a, " or its lora_b holds a number that is not finite");
    }
    writer.add(module.module, layer);
  }
  if (used != from.tensors().size() || used == 0) {
    for (const auto& [name, entry] : from.tensors()) {
      const std::string linear = name.substr(0, name.find(".weight.lora_"));
      if (linears.count(linear) == 0) detail::fail_tensor(from.path(), name, " fits no linear of the model");
    }
    throw FileError(from.path(), used == 0 ? "holds no adapter" : "has tensors that are neither lora_a nor lora_b");
  }
  writer.save(folder);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
