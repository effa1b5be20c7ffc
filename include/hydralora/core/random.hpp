// SPDX-License-Identifier: MIT
// Random numbers by counter: a number is a pure function of (seed, stream, position). It can be computed again, in any
// order and on any thread. The bits are the same on every platform, so neither std::*_distribution nor libm is used.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Upper 64 bits of a · b from 32-bit halves, for platforms without a 128-bit integer.
constexpr std::uint64_t multiply_high_halves(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t a_low = a & 0xffffffffU, a_high = a >> 32U, b_low = b & 0xffffffffU, b_high = b >> 32U;
  const std::uint64_t middle = a_high * b_low + ((a_low * b_low) >> 32U);  // ≤ (2^32-1)^2 + 2^32-1 < 2^64
  const std::uint64_t cross = a_low * b_high + (middle & 0xffffffffU);
  return a_high * b_high + (middle >> 32U) + (cross >> 32U);
}

template <class Wide = wide_uint>
constexpr std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_void_v<Wide>) {
    return multiply_high_halves(a, b);
  } else {
    return static_cast<std::uint64_t>((static_cast<Wide>(a) * b) >> 64);
  }
}

// For the normal distribution. Only operations that IEEE 754 rounds correctly, and no product inside a sum but in
// std::fma, so that no compiler rounds differently by fusing the two.

/// log(x) for a normal x > 0, to 2 ulp. x = m·2^e with m in [√½, √2); log m = 2 artanh((m-1)/(m+1)) as a series.
inline double portable_log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // exact, m in [½, 1)
  if (m < 0.70710678118654752) {
    m += m;
    --exponent;
  }
  const double s = (m - 1.0) / (m + 1.0), square = s * s;  // |s| ≤ 0.172, so s^24/25 is below double rounding
  double series = 1.0 / 25.0;
  for (int k = 23; k >= 1; k -= 2) series = std::fma(series, square, 1.0 / k);
  return std::fma(static_cast<double>(exponent), 0.69314718055994531, 2.0 * s * series);
}

/// cos(2πu) for u in [0, 1): a Taylor series on a quarter turn. The series runs to x^24/24! < 1e-19 at π/2.
inline double portable_cos_turns(double u) {
  double quarter = 4.0 * u;  // exact
  const int quadrant = static_cast<int>(quarter);
  quarter -= quadrant;                                          // exact, in [0, 1)
  if (quadrant == 1 || quadrant == 3) quarter = 1.0 - quarter;  // exact; mirror into the rising or falling quarter
  const double angle = quarter * 1.5707963267948966;
  const double minus_square = -(angle * angle);
  double series = 1.0;
  for (int k = 24; k >= 2; k -= 2) series = std::fma(series, minus_square / (k * (k - 1)), 1.0);
  return quadrant == 1 || quadrant == 2 ? -series : series;
}

}  // namespace detail

/// Philox4x64-10: four 64-bit words from a 256-bit counter and a 128-bit key, by 20 multiplications.
/// Source   Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3. The tests
///          compare with its known answers.
inline std::array<std::uint64_t, 4> philox4x64(std::array<std::uint64_t, 4> counter, std::array<std::uint64_t, 2> key) {
  constexpr std::uint64_t multiplier_0 = 0xD2E7470EE14C6C93U, multiplier_1 = 0xCA5A826395121157U;  // paper, table 2
  constexpr std::uint64_t weyl_0 = 0x9E3779B97F4A7C15U, weyl_1 = 0xBB67AE8584CAA73BU;  // golden ratio, √3 - 1
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t high_0 = detail::multiply_high(multiplier_0, counter[0]), low_0 = multiplier_0 * counter[0];
    const std::uint64_t high_1 = detail::multiply_high(multiplier_1, counter[2]), low_1 = multiplier_1 * counter[2];
    counter = {high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0};
    key[0] += weyl_0;
    key[1] += weyl_1;
  }
  return counter;
}

/// Random numbers of a (seed, stream), indexed by up to three coordinates (i, j, k). Different seeds, streams or
/// coordinates give independent numbers. All members are const and thread-safe.
class CounterRandom {
 public:
  explicit CounterRandom(std::uint64_t seed, std::uint64_t stream = 0) : key_{seed, stream} {}
  /// 64 random bits at (i, j, k). Four neighbouring i share one Philox block.
  std::uint64_t bits(std::uint64_t i, std::uint64_t j = 0, std::uint64_t k = 0) const {
    return block(i / 4, j, k)[i % 4];
  }
  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform(std::uint64_t i, std::uint64_t j = 0, std::uint64_t k = 0) const { return to_unit(bits(i, j, k)); }
  /// Uniform in [low, high]; high can only occur by rounding.
  double uniform_between(double low, double high, std::uint64_t i, std::uint64_t j = 0, std::uint64_t k = 0) const {
    return std::fma(high - low, uniform(i, j, k), low);
  }
  /// Uniform integer in [0, n), n > 0. Bias below n / 2^64.
  std::uint64_t below(std::uint64_t n, std::uint64_t i, std::uint64_t j = 0, std::uint64_t k = 0) const {
    return detail::multiply_high(bits(i, j, k), n);
  }
  /// Normal with mean 0 and variance 1, by Box and Muller from two uniforms of another block.
  double normal(std::uint64_t i, std::uint64_t j = 0, std::uint64_t k = 0) const {
    const auto words = philox4x64({i, j, k, 1}, key_);
    const double positive = to_unit(words[0]) + 0x1p-54;  // in (0, 1]: the logarithm stays finite
    return std::sqrt(-2.0 * detail::portable_log(positive)) * detail::portable_cos_turns(to_unit(words[1]));
  }
  bool bernoulli(double p, std::uint64_t i, std::uint64_t j = 0, std::uint64_t k = 0) const {
    return uniform(i, j, k) < p;
  }
  /// The words bits(4i … 4i+3, j, k).
  std::array<std::uint64_t, 4> block(std::uint64_t i, std::uint64_t j, std::uint64_t k) const {
    return philox4x64({i, j, k, 0}, key_);
  }

  friend bool operator==(const CounterRandom& a, const CounterRandom& b) { return a.key_ == b.key_; }

 private:
  static double to_unit(std::uint64_t bits) { return static_cast<double>(bits >> 11U) * 0x1p-53; }

  std::array<std::uint64_t, 2> key_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
