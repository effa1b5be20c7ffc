// SPDX-License-Identifier: MIT
//
// What every benchmark shares: its name, its counters, that it runs with a given number of threads, and the ceilings of
// this machine beside it.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "energy.hpp"

namespace bench {

/// What a call has to do at least: the ceilings are computed from it.
struct Work {
  double flop = 0;
  double bytes_read = 0;     ///< of operands that are only read, each once per pass
  double bytes_updated = 0;  ///< of operands that are written or added to: read and written, so they count twice
  double working_set = 0;    ///< bytes of all operands, each once: which level of memory they come from

  /// One after the other, on the same operands.
  Work then(const Work& next) const;
  double intensity() const { return flop / (bytes_read + 2 * bytes_updated); }
};

/// One thing that is timed.
struct Candidate {
  Work work;
  std::function<void()> call;
  std::function<double()> error = {};  ///< against the same in double; empty where that would take too long
  double parameters = -1;              ///< negative: not a thing that has any
  double saved_bytes = -1;             ///< between forward and backward
};

/// Registers `name/threads:n`. `make` is called for every run, so that only what runs holds memory; the error is
/// computed once, outside of what is timed. A name that is registered already is left alone: sweep/ comes without what
/// select/ has (problem.hpp).
///
/// Counters
///   GFLOP/s               useful flop, Work::flop, per time
///   percent_of_peak       of the multiply-add peak of so many threads, measured for 2 ms right before the timed loop
///   percent_of_roofline   of the speed at which the slower of two things takes no time: the flop at that peak, or the
///                         bytes, bytes_read at the bandwidth of reading and 2 · bytes_updated at the bandwidth of
///                         updating a buffer of the working set's size (of beyond_caches() where the working set is
///                         larger than the last cache), both measured right before the timed loop
///   intensity             flop per byte, as the roofline takes it
///   peak                  that multiply-add peak, GFLOP/s
///   allocations           during one warm call
///   parameters, saved_bytes, error, and joules per call where the machine tells
void add(const std::string& name, int threads, const std::function<Candidate()>& make);

/// All of the program: returns how many benchmarks were run. Arguments are Google Benchmark's.
int run_benchmarks(int argc, char** argv);

/// Each registers its benchmarks.
void register_ceilings();
void register_kernels();
void register_layers();
void register_numbers();
void register_peers();

// machine.cpp: measured on the spot. The machine has quiet and busy states, and a ceiling from another minute says
// little about the time next to it.

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

// allocations.cpp

/// Calls of malloc and its relatives so far, by anybody in this process: operator new, Eigen and other libraries all
/// end there. Negative where they cannot be counted (not glibc, or AddressSanitizer).
long allocations();

/// The same allocator settings for all candidates: by default glibc returns large temporaries to the system and takes
/// the page faults again on every call, which makes libraries that allocate some ten megabytes per call five times
/// slower. To be called before anything is allocated.
void keep_freed_memory();

}  // namespace bench
