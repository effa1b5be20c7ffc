// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A view of `rows` vectors with `features` numbers each, [A; gate] or the transposed [B_1 … B_N]. Number (row,
/// feature) lies at data[row · row_stride + feature · feature_stride]; one of the strides is usually 1.
template <class Scalar>
struct Stack {
  Scalar* data = nullptr;
  Index rows = 0, features = 0;
  Index row_stride = 0, feature_stride = 0;
  /// Numbers behind the last one that may be read and are ignored, so that kernels load whole registers.
  Index slack = 0;

  Scalar& operator()(Index row, Index feature) const { return data[row * row_stride + feature * feature_stride]; }

  template <class S = Scalar, std::enable_if_t<!std::is_const_v<S>, int> = 0>
  operator Stack<const S>() const {  // NOLINT(google-explicit-constructor)
    return {data, rows, features, row_stride, feature_stride, slack};
  }

  /// Rows first … first + count - 1.
  Stack row_range(Index first, Index count) const {
    return {data + first * row_stride, count, features, row_stride, feature_stride};
  }
  /// Features first … first + count - 1 of every row.
  Stack feature_range(Index first, Index count) const {
    const Index behind = row_stride == 1 ? (features - first - count) * feature_stride : 0;
    return {data + first * feature_stride, rows, count, row_stride, feature_stride, slack + behind};
  }
};

template <class Scalar>
using ConstStack = Stack<const Scalar>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
