// SPDX-License-Identifier: MIT
// The folder of a run: metrics.jsonl and checkpoint-STEP.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace finetune_lm {

class RunFolder {
 public:
  /// @param writes  whether this process writes: one of all ranks does.
  RunFolder(std::filesystem::path path, bool writes) : path_(std::move(path)), writes_(writes) {}

  const std::filesystem::path& path() const { return path_; }
  bool writes() const { return writes_; }
  /// @throws std::invalid_argument  the folder has no checkpoint to go on with, or has files without `resume`.
  void check(bool resume) const;
  /// Creates the folder, and opens metrics.jsonl to write behind what is there.
  void open();
  void write_metrics(const nlohmann::ordered_json& line);
  /// Drops the lines behind a step: the steps after a checkpoint are taken again.
  void keep_metrics_until(std::int64_t step) const;

  std::filesystem::path checkpoint(std::int64_t step) const { return path_ / ("checkpoint-" + std::to_string(step)); }
  /// The complete ones, by their steps. What is written last is training.safetensors.
  std::map<std::int64_t, std::filesystem::path> checkpoints() const;
  /// Removes the checkpoints before a step.
  void remove_checkpoints(std::int64_t before) const;

 private:
  std::filesystem::path path_;
  bool writes_;
  std::ofstream metrics_;
};

}  // namespace finetune_lm
