// SPDX-License-Identifier: MIT
//
// The ceilings of this machine, measured on the spot: it has quiet and busy states, and a ceiling from another minute
// says little about the time next to it.
#pragma once

#include <cstddef>
#include <vector>

namespace bench {

using Bytes = std::ptrdiff_t;

/// One and two, or one where there is no second.
std::vector<int> thread_counts();

/// For everything that runs from here on: our loops, Eigen's, and those of libraries that follow OpenMP.
void set_threads(int threads);

/// Fused multiply-adds in registers, 10^9 flop/s of so many threads together; takes about 2 ms. Where the instruction
/// set has none (SSE2) a multiplication and an addition.
double fma_peak(int threads);

/// Bytes that count as one level of memory: what a sum over (read) or an addition to (update: read and written) a
/// buffer of that size moves, in 10^9 bytes/s, both directions counted. Some milliseconds.
double read_bandwidth(Bytes bytes, int threads);
double update_bandwidth(Bytes bytes, int threads);

/// Bytes of the largest cache, and of a buffer that is surely in memory behind it.
Bytes last_level_cache();
Bytes beyond_caches();

}  // namespace bench
