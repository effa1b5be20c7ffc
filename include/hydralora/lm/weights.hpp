// SPDX-License-Identifier: MIT
// The weights of a checkpoint: model.safetensors, or the shards that model.safetensors.index.json names.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/peft_config.hpp"
#include "hydralora/io/safetensors.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// The tensors of a checkpoint, whatever files they are in. Files are read, not mapped: nothing of a file stays in
/// memory beside the numbers made of it. All functions throw FileError.
class Checkpoint {
 public:
  /// Opens the files and checks their headers.
  explicit Checkpoint(const std::filesystem::path& folder) : folder_(folder) {
    const std::filesystem::path single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) {
      add_file(single);
    } else if (std::filesystem::exists(index)) {
      add_shards(index);
    } else if (std::filesystem::exists(folder / "pytorch_model.bin") ||
               std::filesystem::exists(folder / "pytorch_model.bin.index.json")) {
      throw FileError(folder / "pytorch_model.bin",
                      "is a pickle, which may run any code. Convert it in Python: AutoModelForCausalLM."
                      "from_pretrained(\"" +
                          folder.string() + "\").save_pretrained(\"converted\")");
    } else {
      throw FileError(folder, "has neither model.safetensors nor model.safetensors.index.json");
    }
  }

  const std::filesystem::path& folder() const { return folder_; }
  bool has(const std::string& name) const { return files_.count(name) > 0; }
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = files_.find(name);
    if (found == files_.end()) throw FileError(folder_, "has no tensor " + in_quotes(name));
    return *found->second;
  }
  /// Reads a tensor of shape [rows, columns], or [rows], into a matrix of that size, in float or double.
  template <class Matrix>
  void read(const std::string& name, Matrix&& matrix) const {
    file_of(name).read(name, matrix);
    read_.insert(name);
  }
  /// The file of every tensor, in the order of their names.
  const std::map<std::string, std::shared_ptr<SafetensorsFile>>& files() const { return files_; }
  /// The tensors that nothing has read, without the rotary frequencies that old checkpoints hold.
  std::vector<std::string> spare() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : files_) {
      if (read_.count(name) == 0 && std::filesystem::path(name).extension() != ".inv_freq") all.push_back(name);
    }
    return all;
  }

 private:
  void add_file(const std::filesystem::path& path) {
    const auto file = std::make_shared<SafetensorsFile>(path);
    for (const auto& [name, entry] : file->tensors()) {
      const auto [place, is_new] = files_.try_emplace(name, file);
      if (!is_new) throw FileError(path, "tensor " + in_quotes(name) + " is also in " + place->second->path().string());
    }
  }
  void add_shards(const std::filesystem::path& index) {
    const nlohmann::json json = hydralora::detail::read_json_object(index, most_index_bytes);
    if (!json.contains("weight_map") || !json["weight_map"].is_object()) {
      throw FileError(index, "\"weight_map\" is not an object that gives each tensor's file");
    }
    std::set<std::string> shards;
    for (const auto& [name, file] : json["weight_map"].items()) {
      // A shard lies beside the index: a name with a folder could point anywhere.
      if (!file.is_string() || std::filesystem::path(file.get<std::string>()).filename() != file.get<std::string>()) {
        throw FileError(index, in_quotes(name) + " is in " + file.dump() + ", expected the name of a file");
      }
      shards.insert(file.get<std::string>());
    }
    for (const std::string& shard : shards) add_file(folder_ / shard);
    for (const auto& [name, file] : json["weight_map"].items()) {
      if (!has(name)) throw FileError(folder_ / file.get<std::string>(), "has no tensor " + in_quotes(name));
    }
  }

  static constexpr std::uint64_t most_index_bytes = std::uint64_t{16} << 20U;
  std::filesystem::path folder_;
  std::map<std::string, std::shared_ptr<SafetensorsFile>> files_;
  mutable std::set<std::string> read_;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
