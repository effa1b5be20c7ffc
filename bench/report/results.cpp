// SPDX-License-Identifier: MIT
#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <sstream>

namespace report {
namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

/// Without the set in front and without what Google Benchmark appends.
std::string plain_name(const std::string& run_name) {
  std::string name;
  const std::vector<std::string> parts = split(run_name, '/');
  for (std::size_t i = 1; i < parts.size(); ++i) {
    if (parts[i] == "real_time" || starts_with(parts[i], "min_time:") || starts_with(parts[i], "repeats:")) continue;
    name += (name.empty() ? "" : "/") + parts[i];
  }
  return name;
}

double four_digits(double number) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.4g", number);
  return std::strtod(buffer, nullptr);
}

double to_microseconds(double time, const std::string& unit) {
  return unit == "ns" ? time * 1e-3 : unit == "ms" ? time * 1e3 : unit == "s" ? time * 1e6 : time;
}

double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Json compact(const Json& raw, const Json& compile_times) {
  static const std::set<std::string> useless{"date",     "host_name",          "executable",
                                             "load_avg", "library_build_type", "mhz_per_cpu"};
  // What every entry has besides its counters.
  static const std::set<std::string> bookkeeping{"family_index", "per_family_instance_index",
                                                 "repetitions",  "repetition_index",
                                                 "threads",      "iterations",
                                                 "real_time",    "cpu_time"};
  Json context, runs = Json::array();
  for (const auto& [key, value] : raw.at("context").items()) {
    if (useless.count(key) == 0) context[key] = value;
  }
  std::map<std::string, std::size_t> place;
  for (const Json& entry : raw.at("benchmarks")) {
    if (entry.at("run_type") != "iteration" || entry.value("error_occurred", false)) continue;
    const std::string name = plain_name(entry.at("run_name"));
    if (place.count(name) == 0) {
      place[name] = runs.size();
      runs.push_back({{"name", name}, {"microseconds", Json::array()}, {"counters", Json::object()}});
    }
    Json& run = runs[place[name]];
    run["microseconds"].push_back(four_digits(to_microseconds(entry.at("real_time"), entry.at("time_unit"))));
    for (const auto& [key, value] : entry.items()) {
      if (value.is_number() && bookkeeping.count(key) == 0) run["counters"][key].push_back(four_digits(value));
    }
  }
  for (Json& run : runs) {
    for (auto& [key, values] : run["counters"].items()) {
      const bool constant =
          std::all_of(values.begin(), values.end(), [&, &v = values](const Json& x) { return x == v[0]; });
      if (constant) values = Json(values[0]);
    }
  }
  // In alphabetical order, because the random order of a run means nothing.
  std::sort(runs.begin(), runs.end(), [](const Json& a, const Json& b) { return a["name"] < b["name"]; });
  return {{"context", context}, {"compile_times", compile_times}, {"runs", runs}};
}

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75)};
}

Spread ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (const double x : a) {
    for (const double y : b) ratios.push_back(x / y);
  }
  return spread_of(std::move(ratios));
}

std::string text(double number) {
  char buffer[32];
  const double magnitude = std::abs(number);
  if (magnitude >= 100 && magnitude < 1e7) {
    std::snprintf(buffer, sizeof buffer, "%.0f", number);
  } else {
    std::snprintf(buffer, sizeof buffer, "%.3g", number);
  }
  return buffer;
}

std::string text(const Spread& spread) {
  const std::string low = text(spread.low), median = text(spread.median), high = text(spread.high);
  return low == high ? median : median + " (" + low + "–" + high + ")";
}

double Run::size(const std::string& letter) const {
  for (const std::string& part : split(sizes, '/')) {
    if (starts_with(part, (letter + ":").c_str())) return std::strtod(part.c_str() + letter.size() + 1, nullptr);
  }
  return 0;
}

std::optional<Spread> Run::counter(const std::string& name) const {
  const auto found = counters.find(name);
  if (found == counters.end()) return std::nullopt;
  return spread_of(found->second);
}

std::string Run::readable_sizes() const {
  std::string result = sizes;
  std::replace(result.begin(), result.end(), '/', ' ');
  std::replace(result.begin(), result.end(), ':', '=');
  const std::size_t no_heads = result.find(" N=0");
  return no_heads == std::string::npos ? result : result.substr(0, no_heads);
}

Results::Results(const Json& compact) : context_(compact.at("context")), compile_times_(compact.at("compile_times")) {
  for (const Json& entry : compact.at("runs")) {
    Run run;
    const std::vector<std::string> parts = split(entry.at("name"), '/');
    run.group = parts.at(0);
    run.candidate = parts.at(1);
    for (std::size_t i = 2; i < parts.size(); ++i) {
      if (starts_with(parts[i], "threads:")) {
        run.threads = std::stoi(parts[i].substr(8));
      } else if (parts[i].find(':') == std::string::npos) {
        run.pass = parts[i];
      } else {
        run.sizes += (run.sizes.empty() ? "" : "/") + parts[i];
      }
    }
    run.microseconds = entry.at("microseconds").get<std::vector<double>>();
    for (const auto& [key, value] : entry.at("counters").items()) {
      run.counters[key] =
          value.is_array() ? value.get<std::vector<double>>() : std::vector<double>{value.get<double>()};
    }
    runs_.push_back(std::move(run));
  }
  // A reader expects T=2 before T=16.
  std::stable_sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) {
    const auto key = [](const Run& r) {
      return std::make_tuple(r.group, r.pass, r.size("d"), r.size("r"), r.size("N"), r.size("T"), r.threads);
    };
    return key(a) < key(b);
  });
}

const Run* Results::find(const std::string& group, const std::string& candidate, const std::string& pass,
                         const std::string& sizes, int threads) const {
  for (const Run& run : runs_) {
    if (run.group == group && run.candidate == candidate && run.pass == pass && run.sizes == sizes &&
        run.threads == threads) {
      return &run;
    }
  }
  return nullptr;
}

std::vector<std::string> Results::candidates(const std::string& group, const std::string& ours) const {
  std::vector<std::string> names;
  for (const Run& run : runs_) {
    if (run.group != group || run.candidate == ours) continue;
    if (std::find(names.begin(), names.end(), run.candidate) == names.end()) names.push_back(run.candidate);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<Spread> Results::slower(const Run& ours, const std::string& candidate) const {
  const Run* other = find(ours.group, candidate, ours.pass, ours.sizes, ours.threads);
  if (other == nullptr) return std::nullopt;
  return ratio(other->microseconds, ours.microseconds);
}

}  // namespace report
