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
  /// Creates the folder, writes settings.json, and opens metrics.jsonl to write behind what is there.
  void open(const nlohmann::ordered_json& settings);
  void write_metrics(const nlohmann::ordered_json& line);
  /// Drops the lines of metrics behind a step, as the steps after a checkpoint are taken again, and the temporary files
  /// of a killed run.
  void go_on_after(std::int64_t step) const;

  std::filesystem::path checkpoint(std::int64_t step) const { return path_ / ("checkpoint-" + std::to_string(step)); }
  /// The complete ones, by their steps. What is written last is training.safetensors.
  std::map<std::int64_t, std::filesystem::path> checkpoints(bool complete = true) const;
  /// Removes all but that of a step, with what a killed run has left of others.
  void remove_checkpoints(std::int64_t but = 0) const;

 private:
  std::filesystem::path path_;
  bool writes_;
  std::ofstream metrics_;
};

}  // namespace finetune_lm
