// SPDX-License-Identifier: MIT
//
// What a run of the benchmarks said, in the compact form that is committed (docs/benchmarks.json).
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace report {

using Json = nlohmann::ordered_json;

/// Google Benchmark's JSON and the compile times, without what is of no use to a reader or names the host; numbers to
/// four digits, counters that never change once.
Json compact(const Json& raw, const Json& compile_times);

/// A median between its quartiles.
struct Spread {
  double low, median, high;
};
Spread spread_of(std::vector<double> values);
/// Of all ratios a / b: repetitions are interleaved at random, so none of a belongs to one of b.
Spread ratio(const std::vector<double>& a, const std::vector<double>& b);
/// "1.23 (1.20–1.31)", and "1.23" where the three agree.
std::string text(const Spread& spread);
/// Three significant digits, as few as say the same.
std::string text(double number);

/// One benchmark. Its name is <group>/<candidate>/<pass>/<sizes>/threads:<n>.
struct Run {
  std::string group, candidate, pass, sizes;
  int threads = 1;
  std::vector<double> microseconds;
  std::map<std::string, std::vector<double>> counters;

  /// T, r or N out of the sizes; the first number of d.
  double size(const std::string& letter) const;
  std::optional<Spread> counter(const std::string& name) const;
  /// "T=512 d=4096 r=8 N=8"
  std::string readable_sizes() const;
};

class Results {
 public:
  explicit Results(const Json& compact);

  const Json& context() const { return context_; }
  const Json& compile_times() const { return compile_times_; }
  const std::vector<Run>& runs() const { return runs_; }
  const Run* find(const std::string& group, const std::string& candidate, const std::string& pass,
                  const std::string& sizes, int threads) const;
  /// In order of appearance, ours left out.
  std::vector<std::string> candidates(const std::string& group, const std::string& ours) const;
  /// The time of a candidate over the time of another on the same work; nothing where either is missing.
  std::optional<Spread> slower(const Run& ours, const std::string& candidate) const;

 private:
  Json context_, compile_times_;
  std::vector<Run> runs_;
};

}  // namespace report
