// SPDX-License-Identifier: MIT
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace support {

inline constexpr int thread_counts[] = {1, 2, 4, 8};

/// A number of OpenMP threads for the length of a scope; nothing to do without OpenMP.
class Threads {
 public:
#if defined(_OPENMP)
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
#else
  explicit Threads(int) {}
  ~Threads() {}
#endif
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_ = 1;
};

}  // namespace support
