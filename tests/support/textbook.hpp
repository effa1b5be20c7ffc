// SPDX-License-Identifier: MIT
//
// The layers as the papers write them, one token and one head at a time, for any scalar type: what the library is
// tested against. It shares nothing with the library but the parameters and the positions of dropout's random numbers.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

#include "support/shapes.hpp"

namespace support {

template <class Scalar>
struct Textbook {
  std::vector<Matrix<Scalar>> A;  // one per head; HydraLoRA repeats its only A, SharedBLoRA its only B
  std::vector<Matrix<Scalar>> B;
  Matrix<Scalar> gate;     // heads × in, or empty
  Matrix<Scalar> weights;  // heads × tokens where the caller gives them
  double scaling = 1;

  /// ω of one token.
  std::vector<Scalar> route(const Matrix<Scalar>& x, Index t) const {
    std::vector<Scalar> omega(B.size(), Scalar(1));
    for (std::size_t i = 0; i < B.size(); ++i) {
      const auto head = static_cast<Index>(i);
      if (weights.size() > 0) omega[i] = weights(head, t);
      if (gate.size() > 0) {
        omega[i] = Scalar(0);
        for (Index j = 0; j < x.rows(); ++j) omega[i] += gate(head, j) * x(j, t);
      }
    }
    if (gate.size() > 0) {
      Scalar sum(0);
      for (auto& w : omega) sum += w = std::exp(w);
      for (auto& w : omega) w /= sum;
    }
    return omega;
  }

  /// ΔW(x) = s Σ_i ω_i(x) B_i A_i (m ∘ x); `mask` holds dropout's factors, or is empty.
  Matrix<Scalar> operator()(const Matrix<Scalar>& x, const Matrix<double>& mask = {}) const {
    Matrix<Scalar> y = Matrix<Scalar>::Zero(B[0].rows(), x.cols());
    for (Index t = 0; t < x.cols(); ++t) {
      const auto omega = route(x, t);
      for (std::size_t i = 0; i < B.size(); ++i) {
        for (Index k = 0; k < A[i].rows(); ++k) {
          Scalar h(0);
          for (Index j = 0; j < x.rows(); ++j) h += A[i](k, j) * x(j, t) * (mask.size() > 0 ? mask(j, t) : 1.0);
          for (Index o = 0; o < y.rows(); ++o) y(o, t) += scaling * omega[i] * B[i](o, k) * h;
        }
      }
    }
    return y;
  }
};

/// The textbook twin of a layer, in any scalar type.
template <class To, class Layer>
Textbook<To> textbook(const Layer& layer, const Matrix<typename Layer::Scalar>& weights = {}) {
  using Middle = typename Layer::Middle;
  Textbook<To> book{{}, {}, {}, weights.template cast<To>(), hydralora::scaling_of(layer.config())};
  for (Index i = 0; i < layer.shape().heads; ++i) {
    if constexpr (Middle::shares_A) book.A.push_back(layer.A().template cast<To>());
    if constexpr (!Middle::shares_A) book.A.push_back(layer.A(i).template cast<To>());
    if constexpr (Middle::shares_B) book.B.push_back(layer.B().template cast<To>());
    if constexpr (!Middle::shares_B) book.B.push_back(layer.B(i).template cast<To>());
  }
  if constexpr (!(Middle::shares_A && Middle::shares_B)) book.gate = layer.gate().template cast<To>();
  return book;
}

/// Dropout's factors as documented: one 32-bit draw per (seed, step, global token, feature), eight features to a block.
inline Matrix<double> dropout_factors(Index features, Index tokens, double p, std::uint64_t seed, std::uint64_t step,
                                      std::uint64_t first_token) {
  Matrix<double> factors(features, tokens);
  for (Index t = 0; t < tokens; ++t) {
    for (Index j = 0; j < features; ++j) {
      const auto words = hydralora::philox4x64(
          {static_cast<std::uint64_t>(j / 8), first_token + static_cast<std::uint64_t>(t), step, 0}, {seed, 2});
      const std::uint64_t word = words[static_cast<std::size_t>(j % 8 / 2)];
      const std::uint64_t draw = j % 2 == 0 ? word & 0xffffffffU : word >> 32U;
      factors(j, t) = static_cast<double>(draw) < std::floor(p * 4294967296.0) ? 0.0 : 1.0 / (1.0 - p);
    }
  }
  return factors;
}

}  // namespace support
