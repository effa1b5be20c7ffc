// SPDX-License-Identifier: MIT
//
// The shim over xsimd: the few names the kernels use, spelled the same in every version from 8.1 on. Without xsimd
// `has_simd` is false for every type, and the doors in kernels/ take the plain loops.
#pragma once

#include <algorithm>
#include <complex>
#include <cstddef>
#include <type_traits>

#include "hydralora/core/config.hpp"

#if HYDRALORA_HAS_XSIMD
#include <xsimd/xsimd.hpp>
#endif

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

#if HYDRALORA_HAS_XSIMD
/// The instruction set this file is compiled for. Kernels take it as a template parameter, so that it is in their
/// symbol.
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

/// Whether the doors in kernels/ run vectorised for this scalar type in this file.
template <class Scalar>
inline constexpr bool has_simd = has_simd_v<Scalar, DefaultArch>;

HYDRALORA_FALSE_UNINITIALIZED_BEGIN
/// e^x of every lane, xsimd's own.
template <class Arch, class Scalar>
Batch<Scalar, Arch> exponential(const Batch<Scalar, Arch>& x) {
  return exp(x);
}
HYDRALORA_FALSE_UNINITIALIZED_END

/// Numbers in one register.
template <class Scalar, class Arch>
inline constexpr Index lanes = static_cast<Index>(Batch<Scalar, Arch>::size);

/// The first `count` lanes from memory, the others zero. Never reads beyond the numbers asked for.
template <class Arch, class Scalar>
Batch<Scalar, Arch> load_first(const Scalar* from, Index count) {
  constexpr Index width = lanes<Scalar, Arch>;
  if (count >= width) return Batch<Scalar, Arch>::load_unaligned(from);
  Scalar buffer[static_cast<std::size_t>(width)] = {};
  std::copy(from, from + count, buffer);
  return Batch<Scalar, Arch>::load_unaligned(buffer);
}

/// Writes the first `count` lanes and nothing else.
template <class Arch, class Scalar>
void store_first(const Batch<Scalar, Arch>& value, Scalar* to, Index count) {
  constexpr Index width = lanes<Scalar, Arch>;
  if (count >= width) {
    value.store_unaligned(to);
    return;
  }
  Scalar buffer[static_cast<std::size_t>(width)];
  value.store_unaligned(buffer);
  std::copy(buffer, buffer + count, to);
}

/// The lanes added one after another, first to last.
template <class Arch, class Scalar>
Scalar ordered_sum(const Batch<Scalar, Arch>& value) {
  constexpr Index width = lanes<Scalar, Arch>;
  Scalar buffer[static_cast<std::size_t>(width)];
  value.store_unaligned(buffer);
  Scalar sum = buffer[0];
  for (Index lane = 1; lane < width; ++lane) sum += buffer[lane];
  return sum;
}

}  // namespace simd

/// The real type under a scalar: double for std::complex<double>.
template <class Scalar>
struct real_type {
  using type = Scalar;
};
template <class Real>
struct real_type<std::complex<Real>> {
  using type = Real;
};
template <class Scalar>
using real_t = typename real_type<Scalar>::type;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
