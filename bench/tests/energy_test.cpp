// SPDX-License-Identifier: MIT
//
// The energy counters, as a folder of files made here: few machines let anybody read the real ones.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "energy.hpp"

#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

void write(const fs::path& file, const std::string& text) { std::ofstream(file) << text << '\n'; }

/// A domain of the powercap tree, as the kernel shows it.
void add_domain(const fs::path& root, const std::string& domain, const std::string& name, std::uint64_t energy) {
  fs::create_directories(root / domain);
  write(root / domain / "name", name);
  write(root / domain / "energy_uj", std::to_string(energy));
  write(root / domain / "max_energy_range_uj", "999999");
}

struct Folder {
  Folder() : path(fs::temp_directory_path() / "hydralora_energy_test") {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

}  // namespace

TEST_CASE("packages are added; their parts, the platform and other domains are not") {
  const Folder folder;
  add_domain(folder.path, "intel-rapl:0", "package-0", 1000);
  add_domain(folder.path, "intel-rapl:1", "package-1", 2000);
  add_domain(folder.path, "intel-rapl:0:0", "core", 500);
  add_domain(folder.path, "intel-rapl:2", "psys", 9000);
  add_domain(folder.path, "dtpm", "package-9", 7);
  const bench::EnergyMeter meter(folder.path);
  REQUIRE(meter.available());
  const auto before = meter.read();
  for (const char* domain : {"intel-rapl:0", "intel-rapl:0:0", "intel-rapl:2", "dtpm"}) {
    write(folder.path / domain / "energy_uj", "251000");
  }
  write(folder.path / "intel-rapl:1" / "energy_uj", "502000");
  CHECK(meter.joules(before, meter.read()).value() == doctest::Approx(0.75));
}

TEST_CASE("a counter that started again has gone through its whole range") {
  const Folder folder;
  add_domain(folder.path, "intel-rapl:0", "package-0", 900000);
  const bench::EnergyMeter meter(folder.path);
  const auto before = meter.read();
  write(folder.path / "intel-rapl:0" / "energy_uj", "100000");
  CHECK(meter.joules(before, meter.read()).value() == doctest::Approx(0.2));  // of a range of 1 J
}

TEST_CASE("what cannot be read is not available, and says why") {
  const Folder folder;
  CHECK_FALSE(bench::EnergyMeter(folder.path).available());
  CHECK_FALSE(bench::EnergyMeter(folder.path / "missing").available());
  CHECK(bench::EnergyMeter(folder.path).why_not().find("no package") == 0);

  add_domain(folder.path, "intel-rapl:0", "package-0", 1000);
  add_domain(folder.path, "intel-rapl:1", "package-1", 1000);
  const bench::EnergyMeter meter(folder.path);
  const auto before = meter.read();
  fs::remove(folder.path / "intel-rapl:1" / "energy_uj");  // as for a user who may not read it
  CHECK_FALSE(meter.joules(before, meter.read()).has_value());
  const bench::EnergyMeter without(folder.path);
  CHECK_FALSE(without.available());  // half of the packages would be an estimate
  CHECK(without.why_not().find("cannot be read") != std::string::npos);
}
