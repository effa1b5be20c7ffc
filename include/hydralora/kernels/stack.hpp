// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A skinny stack of `rows` vectors with `features` numbers each: [A; gate] or the transposed [B_1 … B_N].
///
/// Number (row, feature) lies at data[row · row_stride + feature · feature_stride]; one of the strides is usually 1.
/// The three heavy products of every adapter (low_rank.hpp) run over such a stack. Holds no ownership.
template <class Scalar>
struct Stack {
  Scalar* data = nullptr;    ///< number (0, 0)
  Index rows = 0;            ///< vectors
  Index features = 0;        ///< numbers of each
  Index row_stride = 0;      ///< from a row to the next
  Index feature_stride = 0;  ///< from a feature to the next
  /// Numbers after the last one that may be read (and are then ignored), because they belong to the same buffer. Lets
  /// the kernels load whole registers from a stack whose rows do not fill them.
  Index slack = 0;

  /// One number, unchecked.
  Scalar& operator()(Index row, Index feature) const { return data[row * row_stride + feature * feature_stride]; }
};

/// One that is only read.
template <class Scalar>
using ConstStack = Stack<const Scalar>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
