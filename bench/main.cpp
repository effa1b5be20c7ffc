// SPDX-License-Identifier: MIT
//
//   benchmarks --benchmark_filter=^sweep/layers --benchmark_repetitions=7 --benchmark_enable_random_interleaving=true
//
// Runs the selection, ^select/, unless told otherwise; see shapes.hpp for the sets of names.
#include <benchmark/benchmark.h>
#include <hydralora/hydralora.hpp>

#include <fstream>
#include <iostream>
#include <string>

#include "allocations.hpp"
#include "groups.hpp"
#include "harness.hpp"

namespace {

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
  say("flags", BENCH_FLAGS);
  say("instruction_set", hydralora::simd::DefaultArch::name());
  say("library:hydralora", version(HYDRALORA_VERSION_MAJOR, HYDRALORA_VERSION_MINOR, HYDRALORA_VERSION_PATCH));
  say("library:Eigen", version(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION));
  say("library:xsimd", version(XSIMD_VERSION_MAJOR, XSIMD_VERSION_MINOR, XSIMD_VERSION_PATCH));
  say("library:Google Benchmark", BENCH_BENCHMARK_VERSION);
  for (const bench::PeerKind& peer : bench::peers()) {
    say((peer.missing.empty() ? "peer:" : "absent:") + peer.name, peer.missing.empty() ? peer.version : peer.missing);
    if (!peer.missing.empty()) std::cerr << peer.name << ": not measured (" << peer.missing << ")\n";
  }
  const bench::EnergyMeter& meter = bench::energy_meter();
  say("energy", meter.available() ? "joules of the processor packages" : "not available (" + meter.why_not() + ")");
  if (!meter.available()) std::cerr << "energy: not available (" << meter.why_not() << ")\n";
}

}  // namespace

int main(int argc, char** argv) {
  bench::keep_freed_memory();
  benchmark::SetBenchmarkFilter("^select/");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_this_program();
  bench::register_ceilings();
  bench::register_kernels();
  bench::register_layers();
  bench::register_peers();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
