// SPDX-License-Identifier: MIT
// Frozen bases in 16 bits, 8 bits or 4 bits per number, row-major as checkpoints have them. W is decoded strip by
// strip, and Eigen multiplies the strip.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/layers/frozen_linear.hpp"
#include "hydralora/layers/nf4_weight.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// W as Eigen::bfloat16 or Eigen::half, rounded to float and then to nearest.
template <class Narrow>
class NarrowWeight {
 public:
  /// @throws std::invalid_argument  on a number that is not finite or too large for the narrow type.
  template <class Derived>
  explicit NarrowWeight(const Eigen::MatrixBase<Derived>& weight)
      : weight_(weight.template cast<float>().template cast<Narrow>()) {
    expects(weight_.template cast<float>().allFinite(),
            "NarrowWeight: a number is not finite, or too large for 16 bits");
  }
  Index rows() const { return weight_.rows(); }
  Index cols() const { return weight_.cols(); }
  Index bytes() const { return weight_.size() * static_cast<Index>(sizeof(Narrow)); }
  const Narrow* data() const { return weight_.data(); }  ///< row-major
  /// Decodes W's block at (row, col), transposed: column i of the tile is a piece of W's row `row + i`.
  template <class Scalar>
  void read_rows(Index row, Index col, Tokens<Scalar> tile) const {
    for (Index i = 0; i < tile.tokens(); ++i) {
      const Narrow* const from = weight_.data() + (row + i) * cols() + col;
      Scalar* const to = tile.token(i);
      for (Index j = 0; j < tile.features(); ++j) to[j] = static_cast<Scalar>(widen(from[j]));
    }
  }
  friend bool operator==(const NarrowWeight& a, const NarrowWeight& b) {
    return a.weight_.rows() == b.weight_.rows() && a.weight_.cols() == b.weight_.cols() && a.weight_ == b.weight_;
  }

 private:
  /// Eigen's casts, in a form that compilers vectorise. The numbers are finite.
  static float widen(Narrow number) {
    const std::uint32_t from = Eigen::numext::bit_cast<std::uint16_t>(number);
    if constexpr (std::is_same_v<Narrow, Eigen::bfloat16>) return Eigen::numext::bit_cast<float>(from << 16U);
    const std::uint32_t normal = ((from & 0x7fffU) << 13U) + (112U << 23U), sign = (from & 0x8000U) << 16U;
    const float denormal = static_cast<float>(from & 0x3ffU) * 0x1p-24F;
    const std::uint32_t is_normal = 0U - static_cast<std::uint32_t>((from & 0x7c00U) != 0);  // a mask, not a branch
    return Eigen::numext::bit_cast<float>(sign | (normal & is_normal) |
                                          (Eigen::numext::bit_cast<std::uint32_t>(denormal) & ~is_normal));
  }

  Eigen::Matrix<Narrow, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> weight_;
};

/// W in 8 bits: the step of a row is its largest absolute value / 127, at least the smallest normal float. The error is
/// at most half a step. It throws on a number that is not finite as a float.
class Int8Weight {
 public:
  template <class Derived>
  explicit Int8Weight(const Eigen::MatrixBase<Derived>& weight)
      : codes_(weight.rows(), weight.cols()), steps_(weight.rows()) {
    constexpr float most = 127;
    for (Index i = 0; i < weight.rows(); ++i) {
      const Eigen::RowVectorXf row = weight.row(i).template cast<float>();
      expects(row.allFinite(), "Int8Weight: row ", i, " has a number that is not finite as a float");
      const float largest = row.size() == 0 ? 0 : row.cwiseAbs().maxCoeff();
      steps_[i] = (std::max)(largest / most, (std::numeric_limits<float>::min)());  // a denormal step is inexact or 0
      if (!std::isfinite(steps_[i] * most)) steps_[i] = std::nextafter(steps_[i], 0.0F);  // rounded up
      for (Index j = 0; j < row.size(); ++j) {
        codes_(i, j) = static_cast<std::int8_t>(std::clamp(std::nearbyint(row[j] / steps_[i]), -most, most));
      }
    }
  }
  Index rows() const { return codes_.rows(); }
  Index cols() const { return codes_.cols(); }
  Index bytes() const { return codes_.size() + steps_.size() * static_cast<Index>(sizeof(float)); }
  const Eigen::VectorXf& steps() const { return steps_; }  ///< one per row
  template <class Scalar>
  void read_rows(Index row, Index col, Tokens<Scalar> tile) const {
    for (Index i = 0; i < tile.tokens(); ++i) {
      const std::int8_t* const from = codes_.data() + (row + i) * cols() + col;
      const float step = steps_[row + i];
      Scalar* const to = tile.token(i);
      for (Index j = 0; j < tile.features(); ++j) to[j] = static_cast<Scalar>(static_cast<float>(from[j]) * step);
    }
  }
  friend bool operator==(const Int8Weight& a, const Int8Weight& b) {
    return a.rows() == b.rows() && a.cols() == b.cols() && a.codes_ == b.codes_ && a.steps_ == b.steps_;
  }

 private:
  Eigen::Matrix<std::int8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> codes_;
  Eigen::VectorXf steps_;
};

/// A frozen weight W (out_features × in_features) in one of the storages above, or NF4Weight, multiplied as float or
/// double.
/// Numerics  the same bits for any number of threads, as DenseLinear; a token's bits may depend on its place.
/// Cost      2 · tokens · in · out flop and decoding W, which dominates for few tokens. Scratch: a strip per thread, of
///           `in` or 512 columns.
template <class StorageType, class Scalar = float>
class StoredLinear {
 public:
  using Storage = StorageType;

  /// @param storage  W, (out × in).
  explicit StoredLinear(Storage storage) : storage_(std::move(storage)) {}

  const Storage& storage() const { return storage_; }
  Index in_features() const { return storage_.cols(); }
  Index out_features() const { return storage_.rows(); }

  /// W, decoded.
  Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> weight() const {
    Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> all(in_features(), out_features());
    storage_.read_rows(0, 0, Tokens<Scalar>(all));
    return all.transpose();
  }
  /// Row `out` of W. @param to  in_features numbers, OVERWRITTEN.
  void row(Index out, Scalar* to) const { storage_.read_rows(out, 0, Tokens<Scalar>(to, in_features(), 1)); }
  /// Replaces W, for example by a merged one. @return  the old storage; another exchange() restores it bit for bit.
  /// @throws std::invalid_argument  on another shape, or numbers that the storage refuses; nothing is then changed.
  template <class Derived>
  Storage exchange(const Eigen::MatrixBase<Derived>& weight) {
    return exchange(Storage(weight));
  }
  Storage exchange(Storage storage) {
    expects_shape("StoredLinear::exchange", "the weight", Shape{storage.rows(), storage.cols()},
                  Shape{out_features(), in_features()}, "out x in");
    std::swap(storage, storage_);
    return storage;
  }
  /// y += W x. Errors as in DenseLinear.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write = Write::add) const {
    check("forward", x, y, in_features(), out_features());
    parallel_slices(out_features(), strip, [&](Index begin, Index count) {
      ScratchFrame scratch;
      const Tokens<Scalar> rows = scratch.take_tokens<Scalar>(in_features(), count);
      storage_.read_rows(begin, 0, rows);
      detail::multiply(rows.matrix().transpose(), x.matrix(), y.rows(begin, count).matrix(), write);
    });
  }
  /// dx += Wᵀ dy.
  void backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write write = Write::add) const {
    check("backward", dy, dx, out_features(), in_features());
    parallel_slices(in_features(), strip, [&](Index begin, Index count) {
      for (Index row = 0; row == 0 || row < out_features(); row += strip_rows) {  // of no rows: dx = 0
        const Index rows = (std::min)(strip_rows, out_features() - row);
        ScratchFrame scratch;
        const Tokens<Scalar> columns = scratch.take_tokens<Scalar>(count, rows);
        storage_.read_rows(row, begin, columns);
        detail::multiply(columns.matrix(), dy.rows(row, rows).matrix(), dx.rows(begin, count).matrix(),
                         row == 0 ? write : Write::add);
      }
    });
  }
  /// The former names of forward() and backward().
  [[deprecated("use forward()")]] void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y) const { forward(x, y); }
  [[deprecated("use backward()")]] void add_backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx) const {
    backward(dy, dx);
  }

 private:
  /// Rows or columns of W that are decoded at a time, the columns in pieces of `strip_rows`. Eigen packs all tokens for
  /// every strip: 160 cost 8 % less time than 64, and 192 would cut 576 features into three strips, for two threads.
  static constexpr Index strip = 160, strip_rows = 512;

  static void check(const char* what, ConstTokens<Scalar> from, Tokens<Scalar> to, Index from_features,
                    Index to_features) {
    const Shape in{from_features, from.tokens()}, out{to_features, from.tokens()};
    expects(from.shape() == in && to.shape() == out, "StoredLinear::", what, ": from ", from.shape(), " to ",
            to.shape(), ", expected ", in, " to ", out);
    expects(!overlap<Scalar>(from, to), "StoredLinear::", what, ": the input ", from.shape(), " and the output ",
            to.shape(), " overlap");
  }

  Storage storage_;
};

template <class Scalar = float>
using BFloat16Linear = StoredLinear<NarrowWeight<Eigen::bfloat16>, Scalar>;
template <class Scalar = float>
using HalfLinear = StoredLinear<NarrowWeight<Eigen::half>, Scalar>;
template <class Scalar = float>
using Int8Linear = StoredLinear<Int8Weight, Scalar>;
template <class Scalar = float>
using NF4Linear = StoredLinear<NF4Weight, Scalar>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
