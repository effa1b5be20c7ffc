// SPDX-License-Identifier: MIT
// Several safetensors files as one: the shards that model.safetensors.index.json names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "hydralora/core/config.hpp"
#include "hydralora/io/json.hpp"
#include "hydralora/io/safetensors.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The tensors of one safetensors file, or of all files of an index, whatever file they are in:
///
///   const ShardedSafetensors base("folder/model.safetensors.index.json");
///   base.read("model.embed_tokens.weight", matrix);
///
/// All functions throw FileError. A tensor that is in two files is an error.
class ShardedSafetensors {
 public:
  /// Opens the files and checks their headers.
  /// @param path  a safetensors file, or an index: a name that ends in .json. Its files lie in the same folder.
  explicit ShardedSafetensors(const std::filesystem::path& path, FileAccess access = FileAccess::buffered)
      : path_(path) {
    if (path.extension() == ".json") {
      add_shards(access);
    } else {
      add_file(path, access);
    }
  }

  const std::filesystem::path& path() const { return path_; }
  /// The file of every tensor, in the order of their names.
  const std::map<std::string, std::shared_ptr<SafetensorsFile>>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw FileError(path_, "has no tensor " + in_quotes(name));
    return *found->second;
  }
  /// As SafetensorsFile::read().
  template <class Matrix>
  void read(const std::string& name, Matrix&& matrix, bool finite_only = true) const {
    file_of(name).read(name, matrix, finite_only);
  }

 private:
  void add_file(const std::filesystem::path& path, FileAccess access) {
    const auto file = std::make_shared<SafetensorsFile>(path, access);
    for (const auto& [name, entry] : file->tensors()) {
      const auto [place, is_new] = tensors_.try_emplace(name, file);
      if (!is_new) throw FileError(path, "tensor " + in_quotes(name) + " is also in " + place->second->path().string());
    }
  }
  void add_shards(FileAccess access) {
    const nlohmann::json json = detail::read_json_object(path_, most_index_bytes);
    if (!json.contains("weight_map") || !json["weight_map"].is_object()) {
      throw FileError(path_, "\"weight_map\" is not an object that gives each tensor's file");
    }
    std::set<std::string> shards;
    for (const auto& [name, file] : json["weight_map"].items()) {
      // A shard lies beside the index: a name with a folder could point anywhere.
      if (!file.is_string() || std::filesystem::path(file.get<std::string>()).filename() != file.get<std::string>()) {
        throw FileError(path_, in_quotes(name) + " is in " + file.dump() + ", expected the name of a file");
      }
      shards.insert(file.get<std::string>());
    }
    const std::filesystem::path folder = path_.parent_path();
    for (const std::string& shard : shards) add_file(folder / shard, access);
    for (const auto& [name, file] : json["weight_map"].items()) {
      if (!has(name)) throw FileError(folder / file.get<std::string>(), "has no tensor " + in_quotes(name));
    }
  }

  static constexpr std::uint64_t most_index_bytes = std::uint64_t{16} << 20U;
  std::filesystem::path path_;
  std::map<std::string, std::shared_ptr<SafetensorsFile>> tensors_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
