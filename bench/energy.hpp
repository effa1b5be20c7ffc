// SPDX-License-Identifier: MIT
//
// Joules from the kernel's powercap counters (RAPL), where they can be read. Never an estimate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace bench {

class EnergyMeter {
 public:
  /// Takes the processor packages (intel-rapl:0, intel-rapl:1 …, named "package-…"): their sub-domains, such as
  /// intel-rapl:0:0, are parts of them, and "psys" contains them.
  explicit EnergyMeter(const std::filesystem::path& folder = "/sys/class/powercap") {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      const std::filesystem::path domain = entry.path(), counter = domain / "energy_uj";
      const auto name = first<std::string>(domain / "name");
      if (domain.filename().string().rfind("intel-rapl:", 0) != 0 || !name || name->rfind("package", 0) != 0) continue;
      const auto range = first<std::uint64_t>(domain / "max_energy_range_uj");
      if (!range || !first<std::uint64_t>(counter))
        why_not_ = counter.string() + " cannot be read";  // root's by default
      packages_.push_back({counter, range.value_or(0)});
    }
    if (packages_.empty()) why_not_ = "no package in " + folder.string();
  }

  bool available() const { return why_not_.empty(); }
  const std::string& why_not() const { return why_not_; }

  /// The counters now, in microjoules; empty where one cannot be read.
  using Reading = std::vector<std::uint64_t>;
  Reading read() const {
    Reading reading;
    for (const auto& [counter, range] : packages_) {
      const auto value = first<std::uint64_t>(counter);
      if (!value) return {};
      reading.push_back(*value);
    }
    return reading;
  }

  /// Between two readings less than one turn of the counters apart (some minutes at least).
  std::optional<double> joules(const Reading& before, const Reading& after) const {
    if (!available() || before.size() != packages_.size() || after.size() != packages_.size()) return std::nullopt;
    double sum = 0;
    for (std::size_t i = 0; i < packages_.size(); ++i) {
      // The counter runs from 0 to its range, which it still shows, and starts again.
      const std::uint64_t turn = after[i] < before[i] ? packages_[i].second + 1 : 0;
      sum += 1e-6 * static_cast<double>(after[i] + turn - before[i]);
    }
    return sum;
  }

 private:
  /// The first word or number of a file.
  template <class Value>
  static std::optional<Value> first(const std::filesystem::path& file) {
    Value value;
    std::ifstream stream(file);
    return stream >> value ? std::optional<Value>(value) : std::nullopt;
  }

  std::vector<std::pair<std::filesystem::path, std::uint64_t>> packages_;  // counter and range
  std::string why_not_;
};

}  // namespace bench
