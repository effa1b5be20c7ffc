// SPDX-License-Identifier: MIT
// Copies of a stack in the order in which the tile loads it.
#pragma once

#include <algorithm>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/simd/tile.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Features of a partial sum in shrink(): a packed panel block (256 × 16 floats, 16 KiB) stays in half the L1 cache.
/// The result's bits depend on it.
inline constexpr Index feature_block = 256;

/// to[feature · step + row] = s(row, feature), and writes nothing else.
template <class Arch, class Scalar>
void rows_side_by_side(ConstStack<Scalar> s, sum_t<Scalar>* to, Index step) {
  if (s.row_stride == 1) {
    for (Index j = 0; j < s.features; ++j) copy<Arch>(&s(0, j), to + j * step, s.rows);
    return;
  }
  // Reads whole cache lines of a row: the L1 cache holds only a few rows that lie a power of two apart.
  constexpr Index side = transpose_side<Scalar>, line = cache_line<Scalar>;
  const Index square_rows = s.feature_stride == 1 ? s.rows / side * side : 0,
              square_features = s.features / side * side;
  for (Index begin = 0; begin < square_features; begin += line) {
    const Index end = (std::min)(square_features, begin + line);
    for (Index k = 0; k < square_rows; k += side) {
      for (Index j = begin; j < end; j += side) transpose_square(&s(k, j), s.row_stride, to + j * step + k, step);
    }
  }
  for (Index j = 0; j < s.features; ++j) {
    for (Index k = j < square_features ? square_rows : 0; k < s.rows; ++k) to[j * step + k] = widen(s(k, j));
  }
}

/// The same with zeros from the last row to `step`. They enter only sums that are not read.
template <class Arch, class Scalar>
void pack_panel(ConstStack<Scalar> s, sum_t<Scalar>* to, Index step) {
  rows_side_by_side<Arch, Scalar>(s, to, step);
  if (s.rows == step) return;
  for (Index j = 0; j < s.features; ++j) std::fill(to + j * step + s.rows, to + (j + 1) * step, sum_t<Scalar>(0));
}

namespace detail {

constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

/// Calls f(first, count) for tiles of tokens (or rows) of nearly equal size: 9 = 5 + 4.
template <class Function>
void for_each_tile(Index count, Function&& f) {
  const Index tiles = ceil_div(count, tile_rows);
  for (Index i = 0; i < tiles; ++i) {
    const Index first = count * i / tiles;
    f(first, count * (i + 1) / tiles - first);
  }
}

/// Panels as the tile reads them: number (feature, row) at data[panel · panel_stride + feature · step + row].
template <class Scalar>
struct Panels {
  const Scalar* data;
  Index panel_stride;
  Index step;
};

/// Packing a number takes about as long as so many flop of the tile.
inline constexpr Index packing_cost = 8;

/// Calls use() with the stack in panels of a tile's width along its rows. In place where rows lie so, or one tile of
/// tokens uses them.
template <class Arch, class Scalar, class Use>
void with_panels_of_rows(ConstStack<Scalar> s, Index tokens, Use&& use) {
  using Sum = sum_t<Scalar>;
  constexpr Index width = tile_width<Sum, Arch>, lane_count = lanes<Sum, Arch>;
  const Index overhang = ceil_div(s.rows, lane_count) * lane_count - s.rows;
  const bool whole_registers = s.row_stride == 1 && overhang <= s.slack;  // whether they may be read in place
  if (whole_registers && (tokens <= tile_rows || (overhang == 0 && s.rows <= width && !is_narrow<Scalar>))) {
    return use(Panels<Scalar>{s.data, width, s.feature_stride});
  }
  ScratchFrame scratch;
  const Index panels = ceil_div(s.rows, width), blocks = ceil_div(s.features, feature_block);
  const Index step = (std::min)(width, s.rows + overhang);
  Sum* packed = scratch.take<Sum>(panels * step * s.features);
  parallel_for(panels * blocks, packing_cost * panels * step * s.features, [&](Index i) {
    const Index row = i / blocks * width, feature = i % blocks * feature_block;
    const ConstStack<Scalar> piece{&s(row, feature), (std::min)(width, s.rows - row + (whole_registers ? overhang : 0)),
                                   (std::min)(feature_block, s.features - feature), s.row_stride, s.feature_stride};
    pack_panel<Arch, Scalar>(piece, packed + i / blocks * step * s.features + feature * step, step);
  });
  use(Panels<Sum>{packed, step * s.features, step});
}

/// A tile's piece of X as the tile broadcasts it: itself, or the widened copy of numbers of 16 bits in the L1 cache.
template <class Arch, class X>
class BroadcastTokens {
 public:
  using Scalar = sum_t<X>;
  /// Features of a piece. Several blocks for few tokens, as tiles of few tokens have copies.
  static Index span(Index tokens, Index features) {
    return is_narrow<X> ? (std::max)(feature_block, numbers / tokens / feature_block * feature_block) : features;
  }
  /// @return  where token 0 begins. @param stride  from one token to the next, OVERWRITTEN.
  const Scalar* read(ConstTokens<X> x, Index token, Index feature, Index tokens, Index features, Index& stride) {
    if constexpr (is_narrow<X>) {
      stride = features;
      for (Index t = 0; t < tokens; ++t) copy<Arch>(x.token(token + t) + feature, widened + t * features, features);
      return widened;
    } else {
      stride = x.stride();
      return x.token(token) + feature;
    }
  }

 private:
  static constexpr Index numbers = feature_block * 8;  // 8 KiB
  alignas(64) Scalar widened[is_narrow<X> ? static_cast<std::size_t>(numbers) : 1];
};

}  // namespace detail
}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
