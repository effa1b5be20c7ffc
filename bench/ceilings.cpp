// SPDX-License-Identifier: MIT
//
// The machine's ceilings, as benchmarks in the same rotation as everything that is compared with them.
#include "groups.hpp"
#include "harness.hpp"
#include "machine.hpp"

#include <benchmark/benchmark.h>

namespace bench {
namespace {

/// Its own figure is the result: the time of the run is only how long the measurement took.
void ceiling(const std::string& name, const char* unit, int threads, const std::function<double(int)>& measure) {
  const std::string full = "select/ceilings/" + name + "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(full.c_str(),
                               [=](benchmark::State& state) {
                                 set_threads(threads);
                                 double sum = 0;
                                 for ([[maybe_unused]] auto _ : state) sum += measure(threads);
                                 state.counters[unit] =
                                     benchmark::Counter(sum / static_cast<double>(state.iterations()));
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond)
      ->MinTime(0.02);
}

}  // namespace

void register_ceilings() {
  for (const int threads : thread_counts()) {
    ceiling("fma", "GFLOP/s", threads, fma_peak);
    // Half of the last cache, so that it holds the buffer whatever else it has to hold.
    ceiling("cache_read", "GB/s", threads, [](int n) { return read_bandwidth(last_level_cache() / 2, n); });
    ceiling("cache_update", "GB/s", threads, [](int n) { return update_bandwidth(last_level_cache() / 2, n); });
    ceiling("memory_read", "GB/s", threads, [](int n) { return read_bandwidth(beyond_caches(), n); });
    ceiling("memory_update", "GB/s", threads, [](int n) { return update_bandwidth(beyond_caches(), n); });
  }
}

}  // namespace bench
