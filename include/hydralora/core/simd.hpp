// SPDX-License-Identifier: MIT
// The part of xsimd that the kernels use, the same for every version from 8.1 on. Without xsimd `has_simd` is false for
// every type, and the functions of kernels/ use the plain loops.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "hydralora/core/config.hpp"

#if HYDRALORA_HAS_XSIMD
#include <xsimd/xsimd.hpp>
#endif
#if HYDRALORA_HAS_SSE2
#include <emmintrin.h>
#endif

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

#if HYDRALORA_HAS_XSIMD
static_assert(XSIMD_VERSION_MAJOR > 8 || (XSIMD_VERSION_MAJOR == 8 && XSIMD_VERSION_MINOR >= 1),
              "hydralora needs xsimd 8.1 or newer");

/// The instruction set this file is compiled for. As a kernel's template parameter it is in the symbol.
using DefaultArch = xsimd::default_arch;

template <class Scalar, class Arch>
using Batch = xsimd::batch<Scalar, Arch>;

template <class Scalar, class Arch>
inline constexpr bool has_simd_v = [] {
  if constexpr (std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>) {
    return xsimd::has_simd_register<Scalar, Arch>::value;
  } else {
    return false;
  }
}();
#else
struct DefaultArch {};

template <class Scalar, class Arch>
struct Batch;

template <class Scalar, class Arch>
inline constexpr bool has_simd_v = false;
#endif

/// Whether the kernels run vectorised for this scalar type in this file.
template <class Scalar>
inline constexpr bool has_simd = has_simd_v<Scalar, DefaultArch>;

HYDRALORA_FALSE_UNINITIALIZED_BEGIN
template <class Arch, class Scalar>
HYDRALORA_FLATTEN Batch<Scalar, Arch> exponential(const Batch<Scalar, Arch>& x) {
  return exp(x);
}
HYDRALORA_FALSE_UNINITIALIZED_END

/// Numbers in one register.
template <class Scalar, class Arch>
inline constexpr Index lanes = static_cast<Index>(Batch<Scalar, Arch>::size);

namespace detail {
/// Copies `half` … 2 · half numbers as two pieces that may overlap, fewer by the next smaller `half`. A piece is a
/// single move; a call of the C library costs more than all of them.
template <Index half, class Scalar>
void copy_few(const Scalar* from, Scalar* to, Index count) {
  if constexpr (half > 0) {
    if (count < half) return copy_few<half / 2>(from, to, count);
    Scalar first[static_cast<std::size_t>(half)], last[static_cast<std::size_t>(half)];
    std::memcpy(first, from, sizeof first);
    std::memcpy(last, from + count - half, sizeof last);
    std::memcpy(to, first, sizeof first);
    std::memcpy(to + count - half, last, sizeof last);
  }
}
}  // namespace detail

/// A mask of the first `count` lanes.
template <class Arch, class Scalar>
auto first_lanes(Index count) {
  constexpr Index width = lanes<Scalar, Arch>;
  Scalar lane[static_cast<std::size_t>(width)];
  for (Index i = 0; i < width; ++i) lane[i] = static_cast<Scalar>(i);
  return Batch<Scalar, Arch>::load_unaligned(lane) < Batch<Scalar, Arch>(static_cast<Scalar>(count));
}

/// Asks for the cache line at this address, into the L2 cache, to be read soon. Any address is allowed.
inline void prefetch([[maybe_unused]] const void* address) { HYDRALORA_PREFETCH(address, 0, 2); }
/// The same into the L1 cache, to be written soon.
inline void prefetch_for_write([[maybe_unused]] const void* address) { HYDRALORA_PREFETCH(address, 1, 3); }

/// The sum of the first `count` lanes (at most all), one after another.
template <class Arch, class Scalar>
Scalar ordered_sum(const Batch<Scalar, Arch>& value, Index count = lanes<Scalar, Arch>) {
  constexpr Index width = lanes<Scalar, Arch>;
  Scalar buffer[static_cast<std::size_t>(width)];
  value.store_unaligned(buffer);
  Scalar sum = buffer[0];
  for (Index lane = 1; lane < (count < width ? count : width); ++lane) sum += buffer[lane];
  return sum;
}

}  // namespace simd

template <class Scalar>
using real_t = typename Eigen::NumTraits<Scalar>::Real;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
