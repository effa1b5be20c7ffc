// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The bytes of a cache line and of the widest register (AVX-512).
inline constexpr std::size_t memory_alignment = 64;

template <class Scalar>
inline constexpr Index cache_line = static_cast<Index>(memory_alignment / sizeof(Scalar));

/// Lets a std::vector begin at a cache line: loading a register across two lines costs twice as much.
template <class T>
struct AlignedAllocator {
  using value_type = T;

  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>& /*other*/) {}  // NOLINT(google-explicit-constructor)

  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(memory_alignment)));
  }
  void deallocate(T* p, std::size_t /*count*/) { ::operator delete(p, std::align_val_t(memory_alignment)); }

  template <class U>
  friend bool operator==(const AlignedAllocator& /*a*/, const AlignedAllocator<U>& /*b*/) {
    return true;
  }
  template <class U>
  friend bool operator!=(const AlignedAllocator& /*a*/, const AlignedAllocator<U>& /*b*/) {
    return false;
  }
};

template <class Scalar>
using AlignedVector = std::vector<Scalar, AlignedAllocator<Scalar>>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
