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
  void show(const std::string& text);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
};

/// Held-out bits per byte: a row a method, a column a part.
void print_results(std::ostream& out, const Mixture& mixture, const std::vector<Result>& results);

/// Mean weight of every head per part and layer, and the normalised entropy of the gate.
void print_routing(std::ostream& out, const Mixture& mixture, const Result& result);

/// method, step, training and validation bits per byte. Depends on the seed only, not on time or threads.
std::string curves_csv(const std::vector<Result>& results);

/// method, layer, part, then the mean weight of every head: a row for every layer and part of the methods that route.
std::string routing_csv(const Mixture& mixture, const std::vector<Result>& results);

/// `about` (what was run on what) with the results added.
std::string results_json(nlohmann::ordered_json about, const Mixture& mixture, const std::vector<Result>& results);

/// The folder results go to: created where missing.
class OutputFolder {
 public:
  /// @throws InputError  where the folder cannot be made or written to.
  explicit OutputFolder(std::filesystem::path folder);

  /// The whole file or none: written beside and renamed. Returns its path. @throws InputError where that fails.
  std::string write(const std::string& name, const std::string& content) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace finetune
