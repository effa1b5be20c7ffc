// SPDX-License-Identifier: MIT
// NF4: weights in 4 bits, as QLoRA has them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// W in 4 bits: blocks of 64 numbers in row-major order, divided by the block's largest absolute value and rounded to
/// the nearest of 16 codes, quantiles of a normal distribution. The error is at most 0.152 of the block's largest
/// value. 4.5 bits per number with the scales, which are floats. With double quantisation 4.13 bits: the scales, less
/// their mean, are 8-bit integers, and blocks of 256 of them have a step, one part in 254 of the largest deviation.
/// Source: QLoRA, Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E. Errors as in Int8Weight.
class NF4Weight {
 public:
  static constexpr Index block = 64;  ///< numbers that share a scale
  /// The values of the 16 codes, to be multiplied by the block's scale.
  static constexpr std::array<float, 16> codes = {
      -1.0F,        -0.69619280F, -0.52507305F, -0.39491749F, -0.28444138F, -0.18477343F, -0.09105004F, 0.0F,
      0.079580300F, 0.16093020F,  0.24611230F,  0.33791524F,  0.44070983F,  0.56261700F,  0.72295684F,  1.0F};

  /// @param quantizes_scales  double quantisation
  template <class Derived>
  explicit NF4Weight(const Eigen::MatrixBase<Derived>& weight, bool quantizes_scales = false)
      : rows_(weight.rows()),
        cols_(weight.cols()),
        packed_(static_cast<std::size_t>((weight.size() + 1) / 2)),
        scales_(static_cast<std::size_t>((weight.size() + block - 1) / block)) {
    const auto number = [&](Index n) { return static_cast<float>(weight(n / cols_, n % cols_)); };
    for (Index first = 0; first < weight.size(); first += block) {
      const Index end = (std::min)(first + block, weight.size());
      float largest = 0;
      for (Index n = first; n < end; ++n) {
        expects(std::isfinite(number(n)), "NF4Weight: number (", n / cols_, ", ", n % cols_,
                ") is not finite as a float");
        largest = (std::max)(largest, std::abs(number(n)));
      }
      scales_[static_cast<std::size_t>(first / block)] = largest;
      for (Index n = first; n < end; ++n) {
        const unsigned code = nearest(largest > 0 ? number(n) / largest : 0);
        packed_[static_cast<std::size_t>(n / 2)] |= static_cast<std::uint8_t>(n % 2 == 0 ? code << 4U : code);
      }
    }
    if (quantizes_scales) quantize_scales();
  }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index bytes() const {
    return static_cast<Index>(packed_.size() + scale_codes_.size() + (scales_.size() + steps_.size()) * sizeof(float));
  }
  /// One per block.
  std::vector<float> scales() const {
    std::vector<float> all;
    for (Index i = 0; i < (rows_ * cols_ + block - 1) / block; ++i) all.push_back(scale_at(i));
    return all;
  }
  template <class Scalar>
  void read_rows(Index row, Index col, Tokens<Scalar> tile) const {
    for (Index i = 0; i < tile.tokens(); ++i) {
      const Index first = (row + i) * cols_ + col, last = first + tile.features();
      Scalar* const to = tile.token(i);
      for (Index n = first; n < last;) {  // up to the end of a block
        const float scale = scale_at(n / block);
        const Index end = (std::min)(last, (n / block + 1) * block);
        if (n % 2 != 0) to[n - first] = static_cast<Scalar>(pair_at(n)[1] * scale), ++n;
        for (; n + 1 < end; n += 2) {
          const std::array<float, 2>& both = pair_at(n);
          to[n - first] = static_cast<Scalar>(both[0] * scale);
          to[n - first + 1] = static_cast<Scalar>(both[1] * scale);
        }
        if (n < end) to[n - first] = static_cast<Scalar>(pair_at(n)[0] * scale), ++n;
      }
    }
  }
  friend bool operator==(const NF4Weight& a, const NF4Weight& b) {
    return a.rows_ == b.rows_ && a.cols_ == b.cols_ && a.packed_ == b.packed_ && a.scales() == b.scales();
  }

 private:
  static constexpr Index scale_block = 256;  // scales that share a step

  float scale_at(Index i) const {
    const auto place = static_cast<std::size_t>(i);
    if (scale_codes_.empty()) return scales_[place];
    return (std::max)(0.0F, mean_ + steps_[place / scale_block] * static_cast<float>(scale_codes_[place]));
  }
  void quantize_scales() {
    double sum = 0;
    for (const float scale : scales_) sum += static_cast<double>(scale);
    mean_ = scales_.empty() ? 0 : static_cast<float>(sum / static_cast<double>(scales_.size()));
    for (std::size_t first = 0; first < scales_.size(); first += scale_block) {
      const std::size_t end = std::min<std::size_t>(first + scale_block, scales_.size());
      float largest = 0;
      for (std::size_t i = first; i < end; ++i) largest = (std::max)(largest, std::abs(scales_[i] - mean_));
      const float step = largest / 127;
      steps_.push_back(step);
      for (std::size_t i = first; i < end; ++i) {
        scale_codes_.push_back(step > 0 ? static_cast<std::int8_t>(std::nearbyint((scales_[i] - mean_) / step)) : 0);
      }
    }
    scales_ = {};
  }
  static unsigned nearest(float value) {
    unsigned best = 0;
    for (unsigned i = 1; i < codes.size(); ++i) {
      if (std::abs(codes[i] - value) < std::abs(codes[best] - value)) best = i;
    }
    return best;
  }
  /// The values of both codes in the byte that holds number n: one look-up for two numbers.
  const std::array<float, 2>& pair_at(Index n) const {
    static const auto pairs = [] {
      std::array<std::array<float, 2>, 256> all{};
      for (std::size_t byte = 0; byte < all.size(); ++byte) all[byte] = {codes[byte >> 4U], codes[byte & 15U]};
      return all;
    }();
    return pairs[packed_[static_cast<std::size_t>(n / 2)]];
  }
  Index rows_, cols_;
  std::vector<std::uint8_t> packed_;  // two codes per byte, the first in the upper half
  std::vector<float> scales_;         // or, with double quantisation:
  std::vector<std::int8_t> scale_codes_;
  std::vector<float> steps_;
  float mean_ = 0;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
