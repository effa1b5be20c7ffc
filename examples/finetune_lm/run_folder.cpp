// SPDX-License-Identifier: MIT
#include "run_folder.hpp"

#include <cstdlib>
#include <stdexcept>

#include "hydralora/io/file.hpp"

namespace finetune_lm {

namespace fs = std::filesystem;

void RunFolder::check(bool resume) const {
  if (!writes_) return;
  if (path_.empty()) throw std::invalid_argument("--out is missing: the folder of the run");
  const std::string name = path_.string();
  if (fs::exists(path_) && !fs::is_directory(path_)) throw std::invalid_argument("--out " + name + " is not a folder");
  if (resume && checkpoints().empty()) throw std::invalid_argument("--resume: no checkpoint in " + name);
  if (!resume && fs::exists(path_) && !fs::is_empty(path_)) {
    throw std::invalid_argument("--out " + name + " is not empty" +
                                (checkpoints().empty() ? "" : ": --resume goes on with it"));
  }
}

void RunFolder::open(const nlohmann::ordered_json& settings) {
  if (!writes_) return;
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) throw hydralora::FileError(path_, "cannot create the folder: " + error.message());
  const std::string text = settings.dump(2) + '\n';
  hydralora::write_file_atomically(path_ / "settings.json", text.data(), text.size());
  metrics_.open(path_ / "metrics.jsonl", std::ios::app);
  if (!metrics_) throw hydralora::FileError(path_ / "metrics.jsonl", "cannot write");
}

void RunFolder::write_metrics(const nlohmann::ordered_json& line) {
  if (!writes_) return;
  metrics_ << line.dump() << std::endl;
  if (!metrics_) throw hydralora::FileError(path_ / "metrics.jsonl", "cannot write");
}

void RunFolder::go_on_after(std::int64_t step) const {
  if (!writes_) return;
  std::ifstream file(path_ / "metrics.jsonl");
  std::string kept;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::ordered_json::parse(line, nullptr, false);
    if (json.is_object() && json.value("step", step + 1) <= step) kept += line + '\n';
  }
  hydralora::write_file_atomically(path_ / "metrics.jsonl", kept.data(), kept.size());
  for (const auto& entry : fs::directory_iterator(path_)) {
    const bool temporary = entry.path().filename().string().find(".tmp-") != std::string::npos;
    if (temporary && entry.is_regular_file()) fs::remove(entry.path());
  }
}

std::map<std::int64_t, fs::path> RunFolder::checkpoints(bool complete) const {
  std::map<std::int64_t, fs::path> all;
  const std::string prefix = "checkpoint-";
  if (!fs::exists(path_)) return all;
  for (const auto& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(prefix, 0) != 0 || (complete && !fs::exists(entry.path() / "training.safetensors"))) continue;
    const std::int64_t step = std::strtoll(name.c_str() + prefix.size(), nullptr, 10);
    if (name == prefix + std::to_string(step)) all[step] = entry.path();
  }
  return all;
}

void RunFolder::remove_checkpoints(std::int64_t but) const {
  for (const auto& [step, folder] : checkpoints(false)) {
    if (step != but && writes_) fs::remove_all(folder);
  }
}

}  // namespace finetune_lm
