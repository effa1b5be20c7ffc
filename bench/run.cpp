// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>
#include <hydralora/core/simd.hpp>
#include <hydralora/version.hpp>

#include <fstream>
#include <iostream>
#include <string>

#include "harness.hpp"
#include "peers.hpp"

namespace bench {
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

int run_benchmarks(int argc, char** argv) {
  keep_freed_memory();
  benchmark::SetBenchmarkFilter("^select/");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 0;
  describe_this_program();
  register_ceilings();
  register_kernels();
  register_layers();
  register_peers();
  const std::size_t count = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return static_cast<int>(count);
}

}  // namespace bench
