// SPDX-License-Identifier: MIT
// The weights of a checkpoint: model.safetensors, or the shards that model.safetensors.index.json names.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/safetensors.hpp"
#include "hydralora/io/safetensors_shards.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// The tensors of a checkpoint, whatever files they are in. Files are read, not mapped: nothing of a file stays in
/// memory beside the numbers made of it. All functions throw FileError.
class Checkpoint {
 public:
  /// Opens the files and checks their headers.
  explicit Checkpoint(const std::filesystem::path& folder) : folder_(folder), weights_(weights_of(folder)) {}

  const std::filesystem::path& folder() const { return folder_; }
  bool has(const std::string& name) const { return weights_.has(name); }
  const SafetensorsFile& file_of(const std::string& name) const { return weights_.file_of(name); }
  /// Reads a tensor of shape [rows, columns], or [rows], into a matrix of that size, in float or double.
  template <class Matrix>
  void read(const std::string& name, Matrix&& matrix) const {
    file_of(name).read(name, matrix);
    read_.insert(name);
  }
  /// The file of every tensor, in the order of their names.
  const std::map<std::string, std::shared_ptr<SafetensorsFile>>& files() const { return weights_.tensors(); }
  /// The tensors that nothing has read, without the rotary frequencies that old checkpoints hold.
  std::vector<std::string> spare() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : files()) {
      if (read_.count(name) == 0 && std::filesystem::path(name).extension() != ".inv_freq") all.push_back(name);
    }
    return all;
  }

 private:
  static std::filesystem::path weights_of(const std::filesystem::path& folder) {
    for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
      if (std::filesystem::exists(folder / name)) return folder / name;
    }
    if (std::filesystem::exists(folder / "pytorch_model.bin") ||
        std::filesystem::exists(folder / "pytorch_model.bin.index.json")) {
      throw FileError(folder / "pytorch_model.bin",
                      "is a pickle, which may run any code. Convert it in Python: AutoModelForCausalLM."
                      "from_pretrained(\"" +
                          folder.string() + "\").save_pretrained(\"converted\")");
    }
    throw FileError(folder, "has neither model.safetensors nor model.safetensors.index.json");
  }

  std::filesystem::path folder_;
  ShardedSafetensors weights_;
  mutable std::set<std::string> read_;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
