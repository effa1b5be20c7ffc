// SPDX-License-Identifier: MIT
#include "harness.hpp"

#include <benchmark/benchmark.h>
#include <hydralora/core/simd.hpp>
#include <hydralora/version.hpp>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <optional>
#include <set>

#include "peers.hpp"

namespace bench {
namespace {

const EnergyMeter& energy_meter() {
  static const EnergyMeter meter;
  return meter;
}

/// Seconds that no implementation can beat by much; see percent_of_roofline.
double roofline_seconds(const Work& work, double peak, int threads) {
  const auto bytes = static_cast<Bytes>(work.working_set);
  const Bytes level = bytes > last_level_cache() ? beyond_caches() : bytes;
  const double memory = 1e-9 * (work.bytes_read / read_bandwidth(level, threads) +
                                2 * work.bytes_updated / update_bandwidth(level, threads));
  return std::max(memory, 1e-9 * work.flop / peak);
}

void run(benchmark::State& state, int threads, const Candidate& candidate, std::optional<double>& error) {
  candidate.call();
  candidate.call();  // the second merges the scratch memory that the first needed
  const long before = allocations();
  candidate.call();
  const long allocated = allocations() - before;
  if (!error && candidate.error) error = candidate.error();

  const Work& work = candidate.work;
  const double bound_peak = fma_peak(threads);
  const double bound = roofline_seconds(work, bound_peak, threads);
  candidate.call();  // after the ceilings' buffers have been through the caches
  const EnergyMeter::Reading energy = energy_meter().read();
  const auto begin = std::chrono::steady_clock::now();
  for ([[maybe_unused]] auto _ : state) {
    candidate.call();
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  const auto joules = energy_meter().joules(energy, energy_meter().read());

  const auto calls = static_cast<double>(state.iterations());
  const double seconds = elapsed.count() / calls;
  const auto count = [&state](const char* name, double value) { state.counters[name] = benchmark::Counter(value); };
  count("peak", bound_peak);
  count("percent_of_roofline", 100 * bound / seconds);
  if (work.flop > 0) {
    count("GFLOP/s", 1e-9 * work.flop / seconds);
    count("percent_of_peak", 1e-7 * work.flop / seconds / bound_peak);
    count("intensity", work.intensity());
  }
  if (before >= 0) count("allocations", static_cast<double>(allocated));
  if (candidate.parameters >= 0) count("parameters", candidate.parameters);
  if (candidate.saved_bytes >= 0) count("saved_bytes", candidate.saved_bytes);
  if (error) count("error", *error);
  if (joules) count("joules", *joules / calls);
}

benchmark::internal::Benchmark* register_one(const std::string& name,
                                             const std::function<void(benchmark::State&)>& body) {
  return benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMicrosecond)->MinTime(0.02);
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string version(int major, int minor, int patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

void describe_this_program() {
  const auto say = benchmark::AddCustomContext;
  say("cpu", cpu_name());
  say("compiler", BENCH_COMPILER);  // these two come from bench/CMakeLists.txt
  say("flags", BENCH_FLAGS " " BENCH_OPENMP);
  say("instruction_set", hydralora::simd::DefaultArch::name());
  say("library:hydralora", version(HYDRALORA_VERSION_MAJOR, HYDRALORA_VERSION_MINOR, HYDRALORA_VERSION_PATCH));
  say("library:Eigen", version(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION));
  say("library:xsimd", version(XSIMD_VERSION_MAJOR, XSIMD_VERSION_MINOR, XSIMD_VERSION_PATCH));
  say("library:Google Benchmark", BENCH_BENCHMARK_VERSION);
  for (const PeerKind& peer : peers()) {
    say((peer.missing.empty() ? "peer:" : "absent:") + peer.name, peer.missing.empty() ? peer.version : peer.missing);
    if (!peer.missing.empty()) std::cerr << peer.name << ": not measured (" << peer.missing << ")\n";
  }
  const EnergyMeter& meter = energy_meter();
  say("energy", meter.available() ? "joules of the processor packages" : "not available (" + meter.why_not() + ")");
  if (!meter.available()) std::cerr << "energy: not available (" << meter.why_not() << ")\n";
}

}  // namespace

Work Work::then(const Work& next) const {
  return {flop + next.flop, bytes_read + next.bytes_read, bytes_updated + next.bytes_updated,
          std::max(working_set, next.working_set)};
}

void add(const std::string& name, int threads, const std::function<Candidate()>& make) {
  static std::set<std::string> known;  // without the set's name in front
  const std::string full = name + "/threads:" + std::to_string(threads);
  if (!known.insert(full.substr(full.find('/') + 1)).second) return;
  const auto body = [threads, make, error = std::optional<double>()](benchmark::State& state) mutable {
    set_threads(threads);  // before anything is made: some peers look for their fastest way then
    run(state, threads, make(), error);
  };
  register_one(full, body);
}

/// In the same rotation as everything that is compared with them. Their own figure is the result: the time of the run
/// is only how long the measurement took.
void register_ceilings() {
  const auto ceiling = [](const char* name, const char* unit, int threads, const std::function<double()>& measure) {
    const std::string full = std::string("select/ceilings/") + name + "/threads:" + std::to_string(threads);
    register_one(full, [=](benchmark::State& state) {
      set_threads(threads);
      double sum = 0;
      for ([[maybe_unused]] auto _ : state) sum += measure();
      state.counters[unit] = benchmark::Counter(sum / static_cast<double>(state.iterations()));
    });
  };
  for (const int n : thread_counts()) {
    ceiling("fma", "GFLOP/s", n, [n] { return fma_peak(n); });
    // Half of the last cache, so that it holds the buffer whatever else it has to hold.
    ceiling("cache_read", "GB/s", n, [n] { return read_bandwidth(last_level_cache() / 2, n); });
    ceiling("cache_update", "GB/s", n, [n] { return update_bandwidth(last_level_cache() / 2, n); });
    ceiling("memory_read", "GB/s", n, [n] { return read_bandwidth(beyond_caches(), n); });
    ceiling("memory_update", "GB/s", n, [n] { return update_bandwidth(beyond_caches(), n); });
  }
}

int run_benchmarks(int argc, char** argv) {
  keep_freed_memory();
  benchmark::SetBenchmarkFilter("^select/");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 0;
  describe_this_program();
  register_ceilings();
  register_kernels();
  register_layers();
  register_numbers();
  register_peers();
  const std::size_t count = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return static_cast<int>(count);
}

}  // namespace bench
