// SPDX-License-Identifier: MIT
#include <algorithm>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>

#include "commands.hpp"
#include "evaluation.hpp"
#include "hydralora/interop/gguf_adapter.hpp"
#include "hydralora/interop/gguf_checkpoint.hpp"
#include "hydralora/interop/peft_model.hpp"
#include "hydralora/layers/merge.hpp"
#include "recorder.hpp"

namespace finetune_lm {
namespace {

using hydralora::AdapterKind;
using hydralora::AdapterModule;
using hydralora::ConstTokens;
using hydralora::FileError;
using hydralora::PeftDirectory;

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Adds an adapter to weights.
class Merger {
 public:
  explicit Merger(const ExportOptions& o) : adapter_(open_adapter(o.model)) {
    const auto& modules = adapter_.modules();
    const auto routed = std::find_if(modules.begin(), modules.end(), is_routed);
    if (routed == modules.end()) return;
    if (!o.approximate) {
      adapter_.refuse(routed->name, std::string(" is a ") + name_of(routed->kind) +
                                        " with a gate, which mixes its heads token by token: no one weight does that. "
                                        "--approximate --data F merges the mean over the data, and prints the error");
    }
    if (!adapter_.gate().empty())
      adapter_.refuse(routed->name, " has the gate " + adapter_.gate() + ": only a gate per token is approximated");
    if (o.data.empty()) throw std::invalid_argument("export: --approximate needs --data");
    record(o);
  }

  const PeftDirectory& adapter() const { return adapter_; }
  bool has(const std::string& module) const {
    const auto& modules = adapter_.modules();
    return std::any_of(modules.begin(), modules.end(), [&](const auto& m) { return m.name == module; });
  }
  /// W += ΔW. @param weight  (out × in).
  void merge(const std::string& module, RowMajor& weight) {
    const AdapterModule& m = adapter_.module(module);
    merged_.insert(module);
    if (!is_routed(m)) return merge_module(adapter_, m, weight);
    if (weight.rows() != m.out_features || weight.cols() != m.in_features) {
      adapter_.refuse(module, " has another shape than the model's");
    }
    const std::vector<float>& x = inputs_.at(module);
    const ConstTokens<float> inputs(x.data(), m.in_features, static_cast<Index>(x.size()) / m.in_features);
    const auto add = [&](const auto& layer) {
      errors_.push_back(hydralora::merge_approximately(layer, weight, inputs).relative_error);
    };
    if (m.kind == AdapterKind::hydra_lora) add(adapter_.load<hydralora::HydraLoRA<float>>(module));
    if (m.kind == AdapterKind::split_lora) add(adapter_.load<hydralora::SplitLoRA<float>>(module));
  }
  /// Refuses modules that the model has not.
  void check() const {
    for (const AdapterModule& m : adapter_.modules()) {
      if (merged_.count(m.name) == 0) adapter_.refuse(m.name, " is not a linear of the model, or lm_head is tied");
    }
  }
  void print() {
    std::cout << merged_.size() << " linears merged\n";
    if (errors_.empty()) return;
    std::sort(errors_.begin(), errors_.end());
    std::cout << "error of the approximation, of a linear's output over " << tokens_ << " tokens: median "
              << std::setprecision(2) << 100 * errors_[errors_.size() / 2] << " %, largest " << 100 * errors_.back()
              << " %\n";
  }

 private:
  void record(const ExportOptions& o) {
    Text text(o.model);
    const auto model = load_model(o.model);
    const auto adapters = load_adapters(*model, o.model);
    const lm::ExampleFile file = read_examples(o.data, text, model->config.positions, {});
    model->for_each_linear([&](lm::Linear<float>& linear) {
      if (!linear.adapter) return;
      std::vector<float>& inputs = inputs_[linear.name];
      record_inputs(linear, [&inputs](ConstTokens<float> x, const hydralora::AdapterCache<float>&) {
        for (Index t = 0; t < x.tokens(); ++t) inputs.insert(inputs.end(), x.token(t), x.token(t) + x.features());
      });
    });
    constexpr Index enough = 512;
    for (const lm::Example& e : file.examples) {
      if (tokens_ >= enough) break;
      lm::Batch batch;
      batch.add(e.ids, e.labels, e.group);
      model->loss(batch);
      tokens_ += static_cast<Index>(e.ids.size());
    }
  }

  PeftDirectory adapter_;
  std::map<std::string, std::vector<float>> inputs_;
  std::set<std::string> merged_;
  std::vector<double> errors_;
  Index tokens_ = 0;
};

void merge_checkpoint(const ExportOptions& o, Merger& merger) {
  const lm::Checkpoint checkpoint(o.model.folder);
  const lm::ModelConfig config = config_of(o.model);
  hydralora::SafetensorsWriter file;
  file.metadata["format"] = "pt";
  for (const auto& [name, from] : checkpoint.files()) {
    const hydralora::TensorEntry& entry = from->entry(name);
    const std::string module = name.substr(0, name.rfind('.'));
    if (!merger.has(module) || name != module + ".weight" || (config.tied && module == "lm_head")) {
      file.add_bytes(name, entry.type, entry.shape, from->bytes(name));
      continue;
    }
    if (entry.shape.size() != 2) merger.adapter().refuse(module, " has another shape than the model's");
    RowMajor weight(entry.shape[0], entry.shape[1]);
    from->read(name, weight);
    merger.merge(module, weight);
    file.add(name, weight, entry.type);
  }
  merger.check();
  lm::copy_model_files(o.model.folder, o.out);
  file.save(std::filesystem::path(o.out) / "model.safetensors");
}

/// A Hugging Face checkpoint in F16 of a GGUF.
void merge_gguf_to_checkpoint(const ExportOptions& o, Merger& merger) {
  const hydralora::GgufModel model(o.model.folder);
  hydralora::SafetensorsWriter file;
  file.metadata["format"] = "pt";
  lm::for_each_tensor(model.config(), [&](const std::string& name, Index, Index columns) {
    const hydralora::GgufWeight blocks = model.blocks(name);
    Eigen::MatrixXf columns_of_rows(blocks.cols(), blocks.rows());
    blocks.read_rows(0, 0, hydralora::Tokens<float>(columns_of_rows));
    RowMajor weight = columns_of_rows.transpose().cast<double>();
    const std::string module = name.substr(0, name.rfind('.'));
    if (columns > 0 && merger.has(module)) merger.merge(module, weight);
    file.add(name, weight, hydralora::DType::F16, columns == 0);
  });
  merger.check();
  write_model_files(model, o.out);
  file.save(std::filesystem::path(o.out) / "model.safetensors");
}

void merge_gguf(const ExportOptions& o, Merger& merger) {
  using hydralora::GgufType;
  const hydralora::GgufModel model(o.model.folder);
  const std::string type_name = o.type.empty() ? "F16" : o.type;
  const hydralora::GgufFile& from = model.file();
  const std::pair<GgufType, unsigned> types[] = {// with general.file_type
                                                 {GgufType::F32, 0},
                                                 {GgufType::F16, 1},
                                                 {GgufType::Q4_0, 2},
                                                 {GgufType::Q8_0, 7},
                                                 {GgufType::BF16, 32}};
  const auto& [type, file_type] = *std::find_if(std::begin(types), std::end(types),
                                                [&](const auto& one) { return info_of(one.first).name == type_name; });
  const auto linears = hydralora::detail::gguf_linears(model.config());
  hydralora::GgufWriter file;
  file.metadata = from.metadata();
  file.metadata["general.file_type"] = file_type;
  file.metadata["general.quantization_version"] = 2U;
  file.metadata.erase("general.alignment");
  for (const auto& [name, entry] : from.tensors()) {
    if (entry.shape.size() != 2) {
      file.add_bytes(name, entry.type, entry.shape, from.bytes(name));
      continue;
    }
    RowMajor weight(entry.rows(), entry.columns());
    from.for_each_row(name, [&](Index i, const std::vector<float>& row) {
      weight.row(i) = Eigen::Map<const Eigen::RowVectorXf>(row.data(), entry.columns()).cast<double>();
    });
    const auto linear = linears.find(name.substr(0, name.rfind('.')));
    if (linear != linears.end() && merger.has(linear->second.module)) {
      const std::vector<Index> order = hydralora::detail::gguf_row_order(model.config(), linear->second.module);
      RowMajor ordered = weight;
      for (std::size_t i = 0; i < order.size(); ++i) ordered.row(static_cast<Index>(i)) = weight.row(order[i]);
      merger.merge(linear->second.module, ordered);
      weight = ordered;
      for (std::size_t i = 0; i < order.size(); ++i) weight.row(order[i]) = ordered.row(static_cast<Index>(i));
    }
    const bool has_blocks = entry.columns() % info_of(type).block == 0;
    file.add(name, weight, has_blocks ? type : GgufType::F16);
  }
  merger.check();
  file.save(o.out);
}

}  // namespace

void export_model(ExportOptions o) {
  if (o.model.adapter.empty()) throw std::invalid_argument("export: --adapter is missing");
  if (o.to == "merged" && o.model.folder.empty()) throw std::invalid_argument("export --to merged: --model is missing");
  if (std::filesystem::exists(o.out)) throw FileError(o.out, "exists already");
  if (o.to == "merged") {
    Merger merger(o);
    if (!o.model.is_gguf()) {
      merge_checkpoint(o, merger);
    } else if (o.type.empty() && std::filesystem::path(o.out).extension() != ".gguf") {
      merge_gguf_to_checkpoint(o, merger);
    } else {
      merge_gguf(o, merger);
    }
    merger.print();
  } else if (o.to == "gguf-adapter") {
    write_gguf_adapter(open_adapter(o.model), config_of(o.model), o.out);
  } else {
    const PeftDirectory adapter = open_adapter(o.model);
    hydralora::PeftWriter writer;
    writer.base_model = o.model.folder;
    for (const AdapterModule& module : adapter.modules()) writer.add(module.name, as_plain_lora(adapter, module));
    writer.save(o.out);
  }
  std::cout << o.out << " is written\n";
}

}  // namespace finetune_lm
