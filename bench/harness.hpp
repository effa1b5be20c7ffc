// SPDX-License-Identifier: MIT
//
// What every benchmark shares: its name, its counters, and that it runs with a given number of threads.
#pragma once

#include <functional>
#include <string>

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
/// computed once, outside of what is timed. A name that is registered already is left alone: the sets select/, sweep/
/// and full/ overlap, and each is registered without what the ones before have (problem.hpp).
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
void register_peers();

/// The machine's energy counters.
const EnergyMeter& energy_meter();

/// Calls of malloc and its relatives so far, by anybody in this process: operator new, Eigen and other libraries all
/// end there. Negative where they cannot be counted (not glibc, or AddressSanitizer).
long allocations();

/// The same allocator settings for all candidates: by default glibc returns large temporaries to the system and takes
/// the page faults again on every call, which makes libraries that allocate some ten megabytes per call five times
/// slower. To be called before anything is allocated.
void keep_freed_memory();

}  // namespace bench
