// SPDX-License-Identifier: MIT
//
// Threads. OpenMP where the host program switches it on, else the calling thread; the results are the same bits.
#pragma once

#include <algorithm>
#include <cfenv>
#include <exception>
#include <type_traits>

#include "hydralora/core/config.hpp"

#if HYDRALORA_HAS_OPENMP
#include <omp.h>
#endif

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// While it lives, everything this library and Eigen do on the constructing thread stays on that thread: for a host that
/// has threads of its own, each calling for its own tokens (see layers/sliced.hpp), or wants none.
///
/// Says "one thread" to OpenMP, for this thread only; a parallel region of the host's own inside the scope has one thread
/// too. Without OpenMP it does nothing, as there is nothing to do.
class SerialScope {
 public:
#if HYDRALORA_HAS_OPENMP
  SerialScope() : threads_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SerialScope() { omp_set_num_threads(threads_); }
#else
  SerialScope() {}   // NOLINT(modernize-use-equals-default): the same type, not trivial, whatever is linked
  ~SerialScope() {}  // NOLINT(modernize-use-equals-default)
#endif
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

#if HYDRALORA_HAS_OPENMP
 private:
  int threads_;
#endif
};

/// Below this many flop a loop stays on the calling thread: waking the others and waiting for the last costs five to
/// ten microseconds, in which one core does up to 10^6 flop.
inline constexpr Index parallel_work_minimum = 1000000;

namespace detail {

template <class Function>
void call_with_thread(Function& f, Index i, Index thread) {
  if constexpr (std::is_invocable_v<Function&, Index, Index>) {
    f(i, thread);
  } else {
    f(i);
  }
}

}  // namespace detail

/// The threads on which parallel_for(count, work, f), called now, runs f at most.
inline Index parallel_threads(Index count, Index work) {
#if HYDRALORA_HAS_OPENMP
  if (work >= parallel_work_minimum && omp_in_parallel() == 0) {
    return std::max<Index>(1, std::min<Index>(count, omp_get_max_threads()));
  }
#endif
  static_cast<void>(count), static_cast<void>(work);
  return 1;
}

/// Calls f(i) once for every i in [0, count), on several threads where OpenMP is on, more than one is available, the
/// caller is not in a parallel region already, and `work` (flop in total, an estimate) is worth it. An f of two arguments
/// is also told on which thread it runs, 0 … parallel_threads(count, work) − 1: for memory taken for each beforehand.
///
/// For reproducible bits f(i) must own what it writes, and what it computes may depend on i only, never on the thread.
/// Workers run in the caller's floating-point mode (rounding, flush-to-zero). The exception of the lowest i that
/// threw reaches the caller; whether the i after it were tried depends on the threads. Allocates nothing.
template <class Function>
void parallel_for(Index count, Index work, Function&& f) {
#if HYDRALORA_HAS_OPENMP
  const int threads = static_cast<int>(parallel_threads(count, work));
  if (threads > 1) {
    std::fenv_t callers_mode;
    std::fegetenv(&callers_mode);
#if HYDRALORA_HAS_EXCEPTIONS
    std::exception_ptr failure;
    Index failed_at = count;
#endif
#pragma omp parallel num_threads(threads)
    {
      std::fenv_t own_mode;
      std::fegetenv(&own_mode);
      std::fesetenv(&callers_mode);
#pragma omp for schedule(static)
      for (Index i = 0; i < count; ++i) {
#if HYDRALORA_HAS_EXCEPTIONS
        try {
          detail::call_with_thread(f, i, omp_get_thread_num());
        } catch (...) {
#pragma omp critical(hydralora_parallel_for)
          if (i < failed_at) {
            failed_at = i;
            failure = std::current_exception();
          }
        }
#else
        detail::call_with_thread(f, i, omp_get_thread_num());
#endif
      }
      std::fesetenv(&own_mode);
    }
#if HYDRALORA_HAS_EXCEPTIONS
    if (failure) std::rethrow_exception(failure);
#endif
    return;
  }
#endif
  static_cast<void>(work);
  for (Index i = 0; i < count; ++i) detail::call_with_thread(f, i, 0);
}

/// Calls f(begin, count) for the chunks of [0, size), all of `chunk` but the last, in parallel where `work` is worth it.
template <class Function>
void parallel_chunks(Index size, Index chunk, Index work, Function&& f) {
  parallel_for((size + chunk - 1) / chunk, work, [&](Index i) { f(i * chunk, std::min(chunk, size - i * chunk)); });
}

/// Calls f(begin, count) for slices of [0, size) of at most `slice` each, in parallel. For products handed to Eigen: where
/// the slices are cut depends on the size alone, and there are two at least, so that they run inside a parallel region
/// whenever there are threads. There Eigen leaves threads alone; elsewhere it cuts a product by their number, and the bits
/// change with it.
template <class Function>
void parallel_slices(Index size, Index slice, Function&& f) {
  const Index slices = std::max<Index>(size > 1 ? 2 : 1, (size + slice - 1) / slice);
  parallel_for(slices, parallel_work_minimum, [&](Index i) {
    const Index begin = size * i / slices, end = size * (i + 1) / slices;
    if (end > begin) f(begin, end - begin);
  });
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
