// SPDX-License-Identifier: MIT
//
// What nearly every test includes: random shapes and numbers from fixed seeds, and buffers that notice a write outside
// their view.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <hydralora/hydralora.hpp>
#include <iterator>
#include <limits>
#include <ostream>
#include <vector>

#include "support/errors.hpp"
#include "support/threads.hpp"
#include "support/tolerances.hpp"

namespace support {

using hydralora::CounterRandom;
using hydralora::Index;

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

/// Numbers of mixed sign around 1, the same on every platform.
template <class Scalar>
Matrix<Scalar> random_matrix(Index rows, Index cols, std::uint64_t seed) {
  const CounterRandom random(seed, 100);
  Matrix<Scalar> m(rows, cols);
  for (Index j = 0; j < cols; ++j) {
    for (Index i = 0; i < rows; ++i) {
      m(i, j) = static_cast<Scalar>(random.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j)));
    }
  }
  return m;
}

struct LayerShape {
  Index in, out, rank, heads, tokens;
  friend std::ostream& operator<<(std::ostream& stream, const LayerShape& s) {
    return stream << "in " << s.in << " out " << s.out << " rank " << s.rank << " heads " << s.heads << " tokens "
                  << s.tokens;
  }
};

/// Shape number `index`: first the corners (no token, one token, rank 1, one head, everything 1), then random ones
/// whose sizes reach past two of the widest registers.
inline LayerShape layer_shape(std::uint64_t index) {
  const LayerShape corners[] = {{1, 1, 1, 1, 1},  {5, 7, 3, 2, 0},    {5, 7, 3, 2, 1},   {9, 4, 1, 3, 6},
                                {8, 8, 4, 1, 5},  {16, 16, 8, 4, 12}, {17, 33, 5, 3, 7}, {31, 1, 2, 5, 13},
                                {1, 31, 2, 5, 3}, {33, 35, 16, 2, 8}};
  if (index < std::size(corners)) return corners[index];
  const CounterRandom random(2024, 7);
  const auto draw = [&](std::uint64_t n, std::uint64_t which) {
    return static_cast<Index>(1 + random.below(n, which, index));
  };
  return {draw(37, 0), draw(37, 1), draw(index % 4 == 0 ? 19 : 6, 2), draw(5, 3), draw(14, 4) - 1};
}

/// Lengths that sum to `tokens`, an empty one among them.
inline std::vector<Index> some_segments(Index tokens, std::uint64_t seed) {
  const CounterRandom random(seed, 78);
  std::vector<Index> lengths{0};
  for (std::uint64_t n = 0; tokens > 0; ++n) {
    const Index length =
        1 + static_cast<Index>(random.below(static_cast<std::uint64_t>(std::min<Index>(tokens, 5)), n));
    lengths.push_back(length);
    tokens -= length;
  }
  return lengths;
}

/// A matrix whose column j lies at `offset` + j · (rows + `gap`) of a buffer that ends `slack` numbers after the last
/// column. What is not of the matrix is signalling NaN: even adding zero to that changes its bits.
template <class Scalar>
class Guarded {
 public:
  explicit Guarded(const Matrix<Scalar>& values, Index offset = 3, Index gap = 5, Index slack = 2)
      : rows_(values.rows()),
        cols_(values.cols()),
        offset_(offset),
        stride_(values.rows() + gap),
        memory_(static_cast<std::size_t>(offset + (cols_ > 0 ? (cols_ - 1) * stride_ + rows_ : 0) + slack),
                std::numeric_limits<Scalar>::signaling_NaN()) {
    for (Index j = 0; j < cols_; ++j) std::copy_n(values.data() + j * rows_, rows_, data() + j * stride_);
    before_ = memory_;
  }
  Scalar* data() { return memory_.data() + offset_; }
  Index stride() const { return stride_; }
  hydralora::Tokens<Scalar> view() { return {data(), rows_, cols_, stride_}; }
  Matrix<Scalar> values() const {
    return hydralora::ConstTokens<Scalar>(memory_.data() + offset_, rows_, cols_, stride_).matrix();
  }
  /// Nothing but the matrix was written to.
  bool rest_untouched() const {
    std::vector<Scalar> now = memory_;
    for (Index j = 0; j < cols_; ++j) {
      const auto begin = static_cast<std::ptrdiff_t>(offset_ + j * stride_);
      std::copy_n(before_.begin() + begin, rows_, now.begin() + begin);
    }
    return std::memcmp(now.data(), before_.data(), now.size() * sizeof(Scalar)) == 0;
  }
  bool untouched() const { return std::memcmp(memory_.data(), before_.data(), memory_.size() * sizeof(Scalar)) == 0; }

 private:
  Index rows_, cols_, offset_, stride_;
  std::vector<Scalar> memory_, before_;
};

/// Bitwise equality, which tells 0 from −0.
template <class Scalar>
bool same_bits(const Matrix<Scalar>& a, const Matrix<Scalar>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(Scalar)) == 0);
}

/// Largest difference over the largest entry (or over 1 where all entries are small).
template <class A, class B>
double relative_difference(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  if (a.size() == 0) return 0;
  const auto x = a.template cast<double>();
  const auto y = b.template cast<double>();
  return (x - y).cwiseAbs().maxCoeff() / std::max(1.0, y.cwiseAbs().maxCoeff());
}

}  // namespace support
