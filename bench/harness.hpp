// SPDX-License-Identifier: MIT
//
// What every benchmark shares: its name, its counters, and that it runs with a given number of threads.
#pragma once

#include "energy.hpp"
#include "problem.hpp"

#include <functional>
#include <string>

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
  std::function<double()> error = {};  ///< see twin.hpp; empty where there is no twin, or where it would take too long
  double parameters = -1;              ///< negative: not a thing that has any
  double bytes_kept = -1;              ///< between forward and backward
};

/// Registers `name/threads:n`. `make` is called for every run, so that only what runs holds memory, and
/// may keep what is expensive to make; the error is computed once, outside of what is timed. A name that is registered already is left alone: the sets select/, sweep/
/// and full/ overlap, and each is registered without what the ones before have (see set_of in shapes.hpp).
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
///   parameters, bytes_kept, error, and joules per call where the machine tells
void add(const std::string& name, int threads, const std::function<Candidate()>& make);

/// The machine's energy counters.
const EnergyMeter& energy_meter();

}  // namespace bench
