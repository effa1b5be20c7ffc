// SPDX-License-Identifier: MIT
//
// Copies of a stack in the order in which the tile loads it.
#pragma once

#include <algorithm>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// to[feature · step + row] = s(row, feature): the rows side by side, whichever way they lie in the stack. Writes nothing
/// else.
template <class Arch, class Scalar>
void rows_side_by_side(ConstStack<Scalar> s, Scalar* to, Index step) {
  if (s.row_stride == 1) {
    for (Index j = 0; j < s.features; ++j) copy<Arch>(&s(0, j), to + j * step, s.rows);
    return;
  }
  // A row is read a cache line at a time: rows that lie a power of two apart share a few places in the L1 cache, and a
  // line that is left before its end has to be fetched again.
  constexpr Index side = transpose_side<Scalar>, line = cache_line<Scalar>;
  const Index square_rows = s.feature_stride == 1 ? s.rows / side * side : 0,
              square_features = s.features / side * side;
  for (Index begin = 0; begin < square_features; begin += line) {
    const Index end = std::min(square_features, begin + line);
    for (Index k = 0; k < square_rows; k += side) {
      for (Index j = begin; j < end; j += side) transpose_square(&s(k, j), s.row_stride, to + j * step + k, step);
    }
  }
  for (Index j = 0; j < s.features; ++j) {
    for (Index k = j < square_features ? square_rows : 0; k < s.rows; ++k) to[j * step + k] = s(k, j);
  }
}

/// The same with zeros from the last row to `step`. They meet only sums that nobody reads: no number that is summed is
/// padded.
template <class Arch, class Scalar>
void pack_panel(ConstStack<Scalar> s, Scalar* to, Index step) {
  rows_side_by_side<Arch>(s, to, step);
  if (s.rows == step) return;
  for (Index j = 0; j < s.features; ++j) std::fill(to + j * step + s.rows, to + (j + 1) * step, Scalar(0));
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
