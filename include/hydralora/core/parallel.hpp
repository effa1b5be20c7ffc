// SPDX-License-Identifier: MIT
// Threads: OpenMP where it is on, else the calling thread. The results are the same bits.
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

/// While it lives, this library and Eigen use no other thread than the one that constructed it: for a host that has its
/// own threads (see layers/sliced.hpp) or wants none. It sets OpenMP's number of threads to 1 for this thread, also for
/// the host's own parallel regions. Without OpenMP it does nothing.
class SerialScope {
 public:
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;
#if HYDRALORA_HAS_OPENMP
  SerialScope() : threads_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SerialScope() { omp_set_num_threads(threads_); }

 private:
  int threads_;
#else
  SerialScope() {}   // NOLINT(modernize-use-equals-default): not trivial, as with OpenMP
  ~SerialScope() {}  // NOLINT(modernize-use-equals-default)
#endif
};

/// Loops of fewer flop stay on the calling thread: in the 5 to 10 µs that starting the others takes, a core does 10^6.
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

/// The largest number of threads on which parallel_for(count, work, f), called now, runs f.
inline Index parallel_threads(Index count, Index work) {
#if HYDRALORA_HAS_OPENMP
  if (work >= parallel_work_minimum && omp_in_parallel() == 0) {
    return std::max<Index>(1, std::min<Index>(count, omp_get_max_threads()));
  }
#endif
  static_cast<void>(count), static_cast<void>(work);
  return 1;
}

/// Calls f(i) once for every i in [0, count). On several threads where OpenMP is on, more than one is available, the
/// caller is not in a parallel region, and `work` (an estimate of all flop) is worth it. An f of two arguments also
/// gets the number of its thread, 0 … parallel_threads(count, work) − 1.
///
/// For reproducible bits f(i) writes only what belongs to i, and its results depend on i only. Workers run in the
/// caller's floating-point mode. The exception of the lowest i that threw reaches the caller; later i may or may not
/// have been called. Allocates nothing.
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

/// Calls f(begin, count) for chunks of [0, size), all of size `chunk` but the last, with parallel_for().
template <class Function>
void parallel_chunks(Index size, Index chunk, Index work, Function&& f) {
  parallel_for((size + chunk - 1) / chunk, work, [&](Index i) { f(i * chunk, (std::min)(chunk, size - i * chunk)); });
}

/// Calls f(begin, count) for slices of [0, size) of at most `slice` each, in parallel. For products that Eigen
/// computes: outside a parallel region it splits them by the number of threads, and the bits depend on that. There are
/// at least two slices, so that they always run inside a region, and their bounds depend on the size only.
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
