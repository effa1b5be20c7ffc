// SPDX-License-Identifier: MIT
// Numbers of 16 bits, Eigen::bfloat16 and Eigen::half. They lie in memory only: registers and sums hold floats. Loads
// widen, which is exact. Stores round to the nearest number, ties to even; a NaN stays a NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hydralora/core/simd.hpp"

#if HYDRALORA_HAS_AVX2
#include <immintrin.h>
#endif
#if HYDRALORA_HAS_NEON64
#include <arm_neon.h>
#endif

namespace hydralora {
inline namespace HYDRALORA_BUILD {

template <class Scalar>
inline constexpr bool is_narrow = std::is_same_v<Scalar, Eigen::bfloat16> || std::is_same_v<Scalar, Eigen::half>;

/// The type of sums of such numbers, and of all that is computed between: float for 16 bits, else the type itself.
template <class Scalar>
using sum_t = std::conditional_t<is_narrow<Scalar>, float, Scalar>;

/// One number as a sum_t. Exact.
template <class Scalar>
sum_t<Scalar> widen(Scalar number) {
  if constexpr (std::is_same_v<Scalar, Eigen::bfloat16>) {
    return Eigen::numext::bit_cast<float>(std::uint32_t{Eigen::numext::bit_cast<std::uint16_t>(number)} << 16U);
  } else {
    return static_cast<sum_t<Scalar>>(number);
  }
}

/// The nearest number of the type, ties to even.
template <class To>
To narrow(sum_t<To> number) {
  if constexpr (std::is_same_v<To, Eigen::bfloat16>) {
    const auto bits = Eigen::numext::bit_cast<std::uint32_t>(number);
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
    const std::uint32_t quiet = (bits >> 16U) | 0x40U;  // NaN: its highest bit, because the others may be cut off
    return Eigen::numext::bit_cast<To>(static_cast<std::uint16_t>(number == number ? rounded : quiet));
  } else {
    return static_cast<To>(number);
  }
}

namespace simd {

/// Whether the kernels run vectorised for numbers of this type in memory.
template <class Scalar>
inline constexpr bool has_simd_sums = has_simd<sum_t<Scalar>>;

namespace detail {

#if HYDRALORA_HAS_AVX512F
/// g++ 12 warns of its own intrinsics without a mask (GCC bug 105593). With all lanes chosen they are the same.
inline constexpr __mmask16 all_lanes = 0xffff;
#endif
#if HYDRALORA_HAS_SSE2
inline __m128i load_half_register(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }
#endif

/// One register of floats from numbers of 16 bits.
template <class Arch, class From>
Batch<float, Arch> load_narrow(const From* from) {
  constexpr Index width = lanes<float, Arch>;
  constexpr bool bfloat16 = std::is_same_v<From, Eigen::bfloat16>;
#if HYDRALORA_HAS_AVX512F
  if constexpr (width == 16) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    if constexpr (bfloat16) {
      const __m512i low = _mm512_maskz_cvtepu16_epi32(all_lanes, bits);
      return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_lanes, low, 16));
    } else {
      return _mm512_maskz_cvtph_ps(all_lanes, bits);
    }
  }
#endif
#if HYDRALORA_HAS_AVX2
  if constexpr (width == 8 && (bfloat16 || HYDRALORA_HAS_F16C)) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    if constexpr (bfloat16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#if HYDRALORA_HAS_F16C
    if constexpr (!bfloat16) return _mm256_cvtph_ps(bits);
#endif
  }
#endif
#if HYDRALORA_HAS_SSE2
  if constexpr (width == 4 && bfloat16) {
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), load_half_register(from)));
  }
#endif
#if HYDRALORA_HAS_NEON64
  if constexpr (width == 4) {
    const uint16x4_t bits = vld1_u16(reinterpret_cast<const std::uint16_t*>(from));
    if constexpr (bfloat16) return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
    if constexpr (!bfloat16) return vcvt_f32_f16(vreinterpret_f16_u16(bits));
  }
#endif
  float numbers[static_cast<std::size_t>(width)];
  for (Index i = 0; i < width; ++i) numbers[i] = widen(from[i]);
  return Batch<float, Arch>::load_unaligned(numbers);
}

/// narrow() of a register's numbers.
template <class Arch, class To>
void store_narrow(const Batch<float, Arch>& value, To* to) {
  constexpr Index width = lanes<float, Arch>;
  constexpr bool bfloat16 = std::is_same_v<To, Eigen::bfloat16>;
#if HYDRALORA_HAS_AVX512F
  if constexpr (width == 16) {
    const __m512 x = value;
    __m256i bits;
    if constexpr (bfloat16) {
      const __m512i all = _mm512_castps_si512(x), high = _mm512_maskz_srli_epi32(all_lanes, all, 16);
      const __m512i up = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
      const __m512i rounded = _mm512_maskz_srli_epi32(all_lanes, _mm512_add_epi32(all, up), 16);
      const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
      const __m512i chosen = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
      bits = _mm512_maskz_cvtepi32_epi16(all_lanes, chosen);
    } else {
      bits = _mm512_maskz_cvtps_ph(all_lanes, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
  }
#endif
#if HYDRALORA_HAS_AVX2
  if constexpr (width == 8 && (bfloat16 || HYDRALORA_HAS_F16C)) {
    const __m256 x = value;
    __m128i bits;
    if constexpr (bfloat16) {
      const __m256i all = _mm256_castps_si256(x), high = _mm256_srli_epi32(all, 16);
      const __m256i up = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
      const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(all, up), 16);
      const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
      const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
      const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, is_nan);
      bits = _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
    } else {
#if HYDRALORA_HAS_F16C
      bits = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
    }
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bits);
  }
#endif
#if HYDRALORA_HAS_SSE2
  if constexpr (width == 4 && bfloat16) {
    const __m128 x = value;
    const __m128i all = _mm_castps_si128(x), high = _mm_srli_epi32(all, 16);
    const __m128i up = _mm_add_epi32(_mm_and_si128(high, _mm_set1_epi32(1)), _mm_set1_epi32(0x7fff));
    const __m128i rounded = _mm_add_epi32(all, up), quiet = _mm_or_si128(all, _mm_set1_epi32(0x400000));
    const __m128i is_nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
    const __m128i chosen = _mm_or_si128(_mm_andnot_si128(is_nan, rounded), _mm_and_si128(is_nan, quiet));
    const __m128i bits = _mm_srai_epi32(chosen, 16);  // with its sign, which packs_epi32 saturates to
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi32(bits, bits));
  }
#endif
#if HYDRALORA_HAS_NEON64
  if constexpr (width == 4) {
    const float32x4_t x = value;
    uint16x4_t bits;
    if constexpr (bfloat16) {
      const uint32x4_t all = vreinterpretq_u32_f32(x);
      const uint32x4_t up = vaddq_u32(vandq_u32(vshrq_n_u32(all, 16), vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
      const uint32x4_t quiet = vorrq_u32(all, vdupq_n_u32(0x400000));
      bits = vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), vaddq_u32(all, up), quiet), 16);
    } else {
      bits = vreinterpret_u16_f16(vcvt_f16_f32(x));
    }
    return vst1_u16(reinterpret_cast<std::uint16_t*>(to), bits);
  }
#endif
  float numbers[static_cast<std::size_t>(width)];
  value.store_unaligned(numbers);
  for (Index i = 0; i < width; ++i) to[i] = narrow<To>(numbers[i]);
}

}  // namespace detail

/// A register of numbers from memory.
template <class Arch, class From>
Batch<sum_t<From>, Arch> load(const From* from) {
  if constexpr (is_narrow<From>) {
    return detail::load_narrow<Arch>(from);
  } else {
    return Batch<From, Arch>::load_unaligned(from);
  }
}
/// A register of numbers to memory.
template <class Arch, class To>
void store(const Batch<sum_t<To>, Arch>& value, To* to) {
  if constexpr (is_narrow<To>) {
    detail::store_narrow<Arch>(value, to);
  } else {
    value.store_unaligned(to);
  }
}

/// The first `count` lanes from memory, the others zero. Reads nothing else.
template <class Arch, class From>
Batch<sum_t<From>, Arch> load_first(const From* from, Index count) {
  constexpr Index width = lanes<sum_t<From>, Arch>;
  if (count >= width) return load<Arch>(from);
  From buffer[static_cast<std::size_t>(width)] = {};
  detail::copy_few<width / 2>(from, buffer, count);
  return load<Arch>(buffer);
}

/// Writes the first `count` lanes only.
template <class Arch, class To>
void store_first(const Batch<sum_t<To>, Arch>& value, To* to, Index count) {
  constexpr Index width = lanes<sum_t<To>, Arch>;
  if (count >= width) return store<Arch>(value, to);
  To buffer[static_cast<std::size_t>(width)];
  store<Arch>(value, buffer);
  detail::copy_few<width / 2>(buffer, to, count);
}

/// to[0 … count) = from[0 … count).
template <class Arch, class From, class To>
void copy(const From* from, To* to, Index count) {
  constexpr Index width = lanes<sum_t<From>, Arch>;
  Index i = 0;
  for (; i + width <= count; i += width) store<Arch>(load<Arch>(from + i), to + i);
  for (; i < count; ++i) to[i] = narrow<To>(widen(from[i]));
}

/// Side of the square that transpose_square() transposes: four or two numbers with SSE2, else one.
template <class From>
inline constexpr Index transpose_side = HYDRALORA_HAS_SSE2 == 0              ? 1
                                        : std::is_same_v<From, double>       ? 2
                                        : std::is_same_v<From, Eigen::half>  ? (HYDRALORA_HAS_F16C ? 4 : 1)
                                        : std::is_same_v<sum_t<From>, float> ? 4
                                                                             : 1;

/// to(j, i) = from(i, j); strides are between rows.
template <class From>
void transpose_square(const From* from, [[maybe_unused]] Index from_stride, sum_t<From>* to,
                      [[maybe_unused]] Index to_stride) {
  if constexpr (transpose_side<From> == 1) *to = widen(*from);
#if HYDRALORA_HAS_SSE2
  if constexpr (transpose_side<From> == 2) {
    const __m128d row0 = _mm_loadu_pd(from), row1 = _mm_loadu_pd(from + from_stride);
    _mm_storeu_pd(to, _mm_unpacklo_pd(row0, row1));
    _mm_storeu_pd(to + to_stride, _mm_unpackhi_pd(row0, row1));
  }
  if constexpr (transpose_side<From> == 4) {
    const auto row = [&](Index i) {
      const From* const numbers = from + i * from_stride;
      if constexpr (std::is_same_v<From, float>) return _mm_loadu_ps(numbers);
      if constexpr (std::is_same_v<From, Eigen::bfloat16>) {
        return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), detail::load_half_register(numbers)));
      }
#if HYDRALORA_HAS_F16C
      if constexpr (std::is_same_v<From, Eigen::half>) return _mm_cvtph_ps(detail::load_half_register(numbers));
#endif
    };
    __m128 row0 = row(0), row1 = row(1), row2 = row(2), row3 = row(3);
    _MM_TRANSPOSE4_PS(row0, row1, row2, row3);
    _mm_storeu_ps(to, row0);
    _mm_storeu_ps(to + to_stride, row1);
    _mm_storeu_ps(to + 2 * to_stride, row2);
    _mm_storeu_ps(to + 3 * to_stride, row3);
  }
#endif
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
