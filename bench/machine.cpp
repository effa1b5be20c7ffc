// SPDX-License-Identifier: MIT
#include "harness.hpp"

#include <Eigen/Core>
#include <hydralora/core/parallel.hpp>
#include <hydralora/core/simd.hpp>

#ifdef _OPENMP
#include <omp.h>
#endif
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>
#include <vector>

namespace bench {
namespace {

using Index = hydralora::Index;
using Batch = hydralora::simd::Batch<float, hydralora::simd::DefaultArch>;
constexpr Index lanes = hydralora::simd::lanes<float, hydralora::simd::DefaultArch>;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// f(thread) on every thread at once; the work handed to parallel_for is what makes it use them.
template <class Function>
void on_threads(int threads, Function&& f) {
  hydralora::parallel_for(threads, hydralora::parallel_work_minimum, f);
}

/// f(0) … f(count − 1), written out at every optimisation level, so that what they work on stays in registers.
template <class Function, std::size_t... i>
void unrolled(std::index_sequence<i...>, Function&& f) {
  (f(i), ...);
}

template <std::size_t count>
float total(const std::array<Batch, count>& sums) {
  Batch all = sums[0];
  for (std::size_t i = 1; i < count; ++i) all += sums[i];
  return hydralora::simd::ordered_sum<hydralora::simd::DefaultArch>(all);
}

/// Twelve chains: two multiply-add units with a latency of four or five cycles need eight to ten, and twelve and their
/// two factors fit the 16 registers of AVX2. Every chain starts elsewhere and tends to 1, so that none can be merged
/// with another or dropped, and none becomes infinite or denormal. Out of line, so that its loop is easy to find.
constexpr std::size_t chains = 12;
[[gnu::noinline]] float multiply_add(Index steps, float start) {
  std::array<Batch, chains> sums;
  for (std::size_t i = 0; i < chains; ++i) sums[i] = Batch(start + static_cast<float>(i));
  const Batch factor(0.999F), addend(0.001F);
  for (Index step = 0; step < steps; ++step) {
    unrolled(std::make_index_sequence<chains>(), [&](std::size_t i) { sums[i] = xsimd::fma(sums[i], factor, addend); });
  }
  return total(sums);
}

/// The fourth of eight times: one lost to the scheduler does not count, a slow minute does.
template <class Function>
double median_seconds(Function&& f) {
  std::array<double, 8> seconds{};
  f();  // wakes the threads and the clock
  for (double& s : seconds) {
    const double begin = seconds_now();
    f();
    s = seconds_now() - begin;
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[3];
}

/// What the loops below have computed, so that they have to.
volatile float sink;

[[gnu::noinline]] float read(const float* from, Index count) {
  constexpr Index step = 8 * lanes;  // eight loads in flight beside the hardware's prefetching
  std::array<Batch, 8> sums;
  sums.fill(Batch(0.0F));
  for (Index i = 0; i + step <= count; i += step) {
    unrolled(std::make_index_sequence<8>(),
             [&](std::size_t k) { sums[k] += Batch::load_unaligned(from + i + static_cast<Index>(k) * lanes); });
  }
  return total(sums);
}

[[gnu::noinline]] void update(float* data, Index count) {
  const Batch addend(1.0F);
  for (Index i = 0; i + lanes <= count; i += lanes)
    (Batch::load_unaligned(data + i) + addend).store_unaligned(data + i);
}

/// 10^9 bytes/s of a pass over a buffer, which moves every byte so many times: two passes to fill the caches (a last
/// level that holds what the others evict needs both), then the mean of some, about a millisecond where it is small.
double bandwidth(Bytes bytes, int threads, int times, void (*pass)(float*, Index)) {
  const Index count = std::max<Index>(bytes / static_cast<Index>(sizeof(float)), 1024);
  constexpr Index line = 16;
  const Index lines = count / line;
  static std::vector<float> memory;
  if (memory.size() < static_cast<std::size_t>(count)) memory.assign(static_cast<std::size_t>(count), 0.0F);
  const auto whole = [&](Index passes) {
    on_threads(threads, [&](Index thread) {  // its part, in whole cache lines
      const Index begin = lines * thread / threads, end = lines * (thread + 1) / threads;
      for (Index p = 0; p < passes; ++p) pass(memory.data() + begin * line, (end - begin) * line);
    });
  };
  whole(2);
  constexpr Index millisecond_of_floats = Index{1} << 22;
  const Index passes = std::max<Index>(2, millisecond_of_floats / count);
  const double begin = seconds_now();
  whole(passes);
  const double seconds = (seconds_now() - begin) / static_cast<double>(passes);
  return 1e-9 * times * static_cast<double>(count) * sizeof(float) / seconds;
}

}  // namespace

std::vector<int> thread_counts() {
#ifdef _OPENMP
  if (omp_get_num_procs() > 1) return {1, 2};
#endif
  return {1};
}

void set_threads(int threads) {
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
  Eigen::setNbThreads(threads);
}

double fma_peak(int threads) {
  constexpr Index steps = 150000;  // about a quarter of a millisecond
  std::array<float, 64> results{};
  const double seconds = median_seconds([&] {
    on_threads(threads, [&](Index thread) {
      results[static_cast<std::size_t>(thread) % results.size()] = multiply_add(steps, static_cast<float>(thread) + 2);
    });
  });
  for (const float result : results) sink = result;
  return 2e-9 * static_cast<double>(threads * lanes * steps) * static_cast<double>(chains) / seconds;
}

double read_bandwidth(Bytes bytes, int threads) {
  return bandwidth(bytes, threads, 1, [](float* data, Index count) { sink = read(data, count); });
}

double update_bandwidth(Bytes bytes, int threads) { return bandwidth(bytes, threads, 2, update); }

Bytes last_level_cache() {
  Bytes largest = Index{1} << 20;
  for (const auto& cache : benchmark::CPUInfo::Get().caches) largest = std::max<Bytes>(largest, cache.size);
  return largest;
}

Bytes beyond_caches() { return std::max<Bytes>(4 * last_level_cache(), Index{1} << 26); }

}  // namespace bench
