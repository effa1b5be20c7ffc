// SPDX-License-Identifier: MIT
//
// What a person sees and what stays on disk.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "training.hpp"

namespace finetune {

/// A progress line on a terminal, nothing where output is piped.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { clear(); }
  void operator()(const std::string& name, Index step, Index steps, Index tokens_per_step, double bits,
                  double tokens_per_second);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
};

/// Held-out bits per byte: a row a method, a column a part.
void print_results(std::ostream& out, const Mixture& mixture, const std::vector<Result>& results);

/// Mean weight of every head per part and layer, and the normalised entropy of the gate.
void print_routing(std::ostream& out, const Mixture& mixture, const Result& result);

/// The folder results go to: created where missing, and tried by writing a file.
/// @throws InputError  where nothing can be written there.
class OutputFolder {
 public:
  explicit OutputFolder(std::filesystem::path folder);

  /// curves.csv: method, step, training and validation bits per byte. Depends on the seed only, not on time or threads.
  void write_curves(const std::vector<Result>& results) const;
  /// results.json: `about` (what was run on what) with the results added.
  void write_results(nlohmann::ordered_json about, const Mixture& mixture, const std::vector<Result>& results) const;

  const std::filesystem::path& path() const { return folder_; }

 private:
  void write_whole(const std::string& name, const std::string& content) const;

  std::filesystem::path folder_;
};

}  // namespace finetune
