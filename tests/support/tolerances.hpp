// SPDX-License-Identifier: MIT
//
// Every tolerance of the tests, with its reason.
#pragma once

#include <cmath>
#include <hydralora/core/narrow.hpp>
#include <type_traits>

namespace tolerance {

/// Complex step in double has no cancellation: what is left is the rounding of two evaluation orders, some hundred
/// additions of 1.1e-16 each, relative to the largest entry of the tensor.
inline constexpr double complex_step = 1e-12;

/// Central differences in double with step 1e-6: truncation h² ~ 1e-12 times third derivatives of the softmax (logits
/// here are a few units) and rounding 1e-16 / 1e-6, relative to the largest entry.
inline constexpr double central_difference = 1e-7;

/// A sum of k products in floating point, any order: γ_k ≈ √k · u in practice, relative to Σ|a||b|; the factor leaves
/// room for the worst of many thousand random sums, the second argument for what a softmax amplifies.
template <class Scalar>
double product_sum(double terms, double amplification = 1) {
  const double unit = std::is_same_v<hydralora::sum_t<Scalar>, float> ? 6.0e-8 : 1.1e-16;
  return 20 * unit * std::sqrt(terms + 1) * amplification;
}

/// One rounding to a number of 16 bits, relative to the number: half a unit in the last of its 8 (bfloat16) or 11 bits.
template <class Scalar>
inline constexpr double rounding = std::is_same_v<Scalar, Eigen::bfloat16> ? 0x1p-8
                                   : std::is_same_v<Scalar, Eigen::half>   ? 0x1p-11
                                                                           : 0;

/// Softmax weights sum to one up to the rounding of one addition per head.
template <class Scalar>
inline constexpr double weights_sum = std::is_same_v<Scalar, float> ? 1e-6 : 1e-14;

/// The vector exponential against libm's: two units in the last place, plus the division.
template <class Scalar>
inline constexpr double softmax = std::is_same_v<Scalar, float> ? 1e-6 : 2e-15;

/// Two ways to the same result in exact arithmetic (a law), relative to the largest entry.
template <class Scalar>
inline constexpr double law = std::is_same_v<Scalar, float> ? 1e-5 : 1e-13;

}  // namespace tolerance
