// SPDX-License-Identifier: MIT
//
// What a person sees and what stays on disk.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "../finetune_mlp/training.hpp"

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

/// What was found where.
void print_texts(std::ostream& out, const Corpus& corpus);

/// The number of heads from the data, printed with what it follows from: k-means on byte n-grams of what is to be
/// predicted, and the elbow.
Index heads_from_data(const std::vector<Part>& parts, std::uint64_t seed, std::ostream& out);

/// Held-out bits per byte: a row a method, a column a part. Then, of the methods that route, the mean weight of every
/// head per part and layer, and the normalised entropy of the gate.
void print_results(std::ostream& out, const Mixture& mixture, const std::vector<Result>& results);

/// method, step, training and validation bits per byte. Depends on the seed only, not on time or threads.
std::string curves_csv(const std::vector<Result>& results);

/// method, layer, part, then the mean weight of every head: a row for every layer and part of the methods that route.
std::string routing_csv(const Mixture& mixture, const std::vector<Result>& results);

/// What was run on what, and the results.
std::string results_json(const Corpus& corpus, MixtureKind kind, const Settings& settings, double seconds,
                         const Mixture& mixture, const std::vector<Result>& results);

/// A page for people: results, curves, routing, and what ran.
std::string report_html(const Corpus& corpus, const Settings& settings, double seconds, const Mixture& mixture,
                        const std::vector<Result>& curves, const std::vector<Result>& results);

/// All that the results follow from: settings, and hashes of the texts.
std::string identity(const Corpus& corpus, MixtureKind kind, const Settings& settings);

/// What a checkpoint needs of a result, as text and back. @throws std::exception  where it is no such text.
std::string state_text(const Result& result);
void read_state(const std::string& text, Result& result);

/// The folder results go to: created where missing. An empty name: nowhere.
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
