// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A cache line, and the widest register (AVX-512).
inline constexpr std::size_t memory_alignment = 64;

/// Numbers in a cache line.
template <class Scalar>
inline constexpr Index cache_line = static_cast<Index>(memory_alignment / sizeof(Scalar));

/// What std::vector needs to begin at a cache line. A register loaded across two lines costs twice, and every load of a
/// stack that is read in place would be one.
template <class T>
struct AlignedAllocator {
  using value_type = T;  ///< the standard's name for T

  AlignedAllocator() = default;
  template <class U>
  /// As the standard asks: an allocator has no state.
  AlignedAllocator(const AlignedAllocator<U>& /*other*/) {}  // NOLINT(google-explicit-constructor)

  /// Room for `count` numbers, from a cache line on. @throws std::bad_alloc where there is none.
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(memory_alignment)));
  }
  /// Gives back what allocate() gave.
  void deallocate(T* p, std::size_t /*count*/) { ::operator delete(p, std::align_val_t(memory_alignment)); }

  template <class U>
  /// Always: memory from one is given back by any other.
  friend bool operator==(const AlignedAllocator& /*a*/, const AlignedAllocator<U>& /*b*/) {
    return true;
  }
  template <class U>
  /// Never.
  friend bool operator!=(const AlignedAllocator& /*a*/, const AlignedAllocator<U>& /*b*/) {
    return false;
  }
};

/// A vector that begins at a cache line.
template <class Scalar>
using AlignedVector = std::vector<Scalar, AlignedAllocator<Scalar>>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
