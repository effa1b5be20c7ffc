// SPDX-License-Identifier: MIT
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "harness.hpp"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)  // which has a malloc of its own
#include <malloc.h>

namespace {
std::atomic<long> count{0};  // constant-initialised: malloc is called before any constructor

void* counted(void* memory) {
  count.fetch_add(1, std::memory_order_relaxed);
  return memory;
}
}  // namespace

// glibc's own names behind the ones that a program may replace.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier)
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
// NOLINTEND(bugprone-reserved-identifier)

void* malloc(std::size_t bytes) { return counted(__libc_malloc(bytes)); }
void* calloc(std::size_t number, std::size_t bytes) { return counted(__libc_calloc(number, bytes)); }
void* realloc(void* old, std::size_t bytes) { return counted(__libc_realloc(old, bytes)); }
void* memalign(std::size_t alignment, std::size_t bytes) { return counted(__libc_memalign(alignment, bytes)); }
void* aligned_alloc(std::size_t alignment, std::size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** result, std::size_t alignment, std::size_t bytes) {
  *result = memalign(alignment, bytes);
  return *result == nullptr ? ENOMEM : 0;
}
}

namespace bench {

long allocations() { return count.load(); }

void keep_freed_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_TOP_PAD, 512 << 20);
}

}  // namespace bench

#else

namespace bench {
long allocations() { return -1; }
void keep_freed_memory() {}
}  // namespace bench

#endif
