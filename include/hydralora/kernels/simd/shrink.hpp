// SPDX-License-Identifier: MIT
// P = S X on the register tile. A task owns some tokens (of few tokens: some rows) and reads the whole stack.
#pragma once

#include <algorithm>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/simd/pack.hpp"
#include "hydralora/kernels/simd/tile.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Tokens of a task in shrink(): each task reads the whole stack. 32 to 128 take the same time.
inline constexpr Index shrink_tokens = 64;
/// A stack of so many bytes stays in half the L2 cache: every tile then takes all features, and X is read in long runs.
/// Of a larger stack all tiles of a task take one block after another.
inline constexpr Index shrink_stack_bytes = 524288;
/// Up to so many tokens shrink() packs a piece of the stack in the L2 cache and uses it at once, instead of the whole
/// stack before: 1,024 features, which are four of the blocks that a tile of one token takes side by side, by 16 rows
/// of floats fill 64 KiB.
inline constexpr Index shrink_few_tokens = 16, shrink_few_features = 4 * feature_block;

namespace detail {

/// P += `used` rows of a panel times x, block by block, for one tile of tokens.
template <class Arch, class A, class Scalar = sum_t<A>>
void shrink_tile(const A* panel, Index step, const Scalar* x, Index x_stride, Index features, Index tokens, Scalar* p,
                 Index p_stride, Index used) {
  using Shapes = Tiles<Arch, A, Scalar>;
  constexpr Index lane_count = lanes<Scalar, Arch>;
  static_assert(tile_registers == 2);
  const bool one = used <= lane_count;  // register
  const Index whole = one ? lane_count : 2 * lane_count;
  TileArguments<A, Scalar> tile;
  tile.a_step = step;
  tile.a_copy = feature_block * step;
  tile.b_step = 1;
  tile.b_copy = feature_block;
  tile.b_row = x_stride;
  // Rows that do not fill their registers are summed in a buffer of whole registers.
  Scalar aside[static_cast<std::size_t>(tile_rows * tile_width<Scalar, Arch>)];
  const bool in_place = used == whole;
  if (!in_place) {
    for (Index i = 0; i < tokens; ++i) {
      const Scalar* from = p + i * p_stride;
      std::fill(std::copy(from, from + used, aside + i * whole), aside + (i + 1) * whole, Scalar(0));
    }
  }
  tile.to = in_place ? p : aside;
  tile.to_row = in_place ? p_stride : whole;
  tile.used = whole;
  tile.next_to = tile.to;
  const auto& single = one ? Shapes::template single<1>[tokens - 1] : Shapes::template single<2>[tokens - 1];
  const auto& copied = one ? Shapes::template copied<1>[tokens - 1] : Shapes::template copied<2>[tokens - 1];
  const Index copied_features = copied.size * feature_block;
  for (Index j = 0; j < features;) {
    const bool copies = features - j >= copied_features;
    tile.length = (std::min)(feature_block, features - j);
    tile.a = panel + j * step;
    tile.b = x + j;
    (copies ? copied : single).add(tile);
    j += copies ? copied_features : feature_block;
  }
  if (!in_place) {
    for (Index i = 0; i < tokens; ++i) std::copy(aside + i * whole, aside + i * whole + used, p + i * p_stride);
  }
}

/// P += panels of a stack times features [first, end) of some tokens.
/// @param stack  its data begin at feature `first`.
/// @param p      (rows × tokens), ADDED to.
template <class Arch, class A, class X>
void shrink_features(const Panels<A>& stack, ConstTokens<X> x, Index first, Index end, Tokens<sum_t<A>> p) {
  constexpr Index width = tile_width<sum_t<A>, Arch>;
  for_each_tile(x.tokens(), [&](Index t, Index count) {
    BroadcastTokens<Arch, X> broadcast;
    const Index span = broadcast.span(count, end - first);
    for (Index j = first; j < end; j += span) {
      const Index features = (std::min)(span, end - j);
      Index stride = 0;
      const auto* const from = broadcast.read(x, t, j, count, features, stride);
      for (Index row = 0; row < p.features(); row += width) {
        const A* panel = stack.data + row / width * stack.panel_stride + (j - first) * stack.step;
        shrink_tile<Arch>(panel, stack.step, from, stride, features, count, p.token(t) + row, p.stride(),
                          (std::min)(width, p.features() - row));
      }
    }
  });
}

/// shrink() of few tokens with a stack that is not read in place: each piece of it is packed and used at once.
template <class Arch, class Scalar, class X>
void shrink_few(ConstStack<Scalar> s, ConstTokens<X> x, Tokens<sum_t<Scalar>> p) {
  using Sum = sum_t<Scalar>;
  constexpr Index width = tile_width<Sum, Arch>, lane_count = lanes<Sum, Arch>;
  parallel_for(ceil_div(s.rows, width), (2 * x.tokens() + packing_cost) * s.rows * s.features, [&](Index panel) {
    const Index row = panel * width, rows = (std::min)(width, s.rows - row);
    const Index step = ceil_div(rows, lane_count) * lane_count;
    const Tokens<Sum> sums = p.rows(row, rows);
    for (Index t = 0; t < x.tokens(); ++t) std::fill(sums.token(t), sums.token(t) + rows, Sum(0));
    ScratchFrame scratch;
    Sum* packed = scratch.take<Sum>(shrink_few_features * step);
    for (Index j = 0; j < s.features; j += shrink_few_features) {
      const Index features = (std::min)(shrink_few_features, s.features - j);
      pack_panel<Arch, Scalar>(s.row_range(row, rows).feature_range(j, features), packed, step);
      shrink_features<Arch>(Panels<Sum>{packed, 0, step}, x, j, j + features, sums);
    }
  });
}

}  // namespace detail

/// Loads: rows of the stack at one feature. Broadcasts: that feature of a tile's tokens.
template <class Arch, class Scalar, class X = Scalar>
void shrink(ConstStack<Scalar> s, type_t<ConstTokens<X>> x, Tokens<sum_t<Scalar>> p) {
  using Sum = sum_t<Scalar>;
  if (x.tokens() <= shrink_few_tokens && s.row_stride != 1) return detail::shrink_few<Arch, Scalar, X>(s, x, p);
  const Index groups = detail::ceil_div(x.tokens(), shrink_tokens);
  const bool fits = s.rows * s.features * static_cast<Index>(sizeof(Scalar)) <= shrink_stack_bytes;
  detail::with_panels_of_rows<Arch>(s, x.tokens(), [&](const auto& stack) {
    parallel_for(groups, 2 * x.tokens() * s.rows * s.features, [&](Index group) {
      const Index begin = x.tokens() * group / groups, tokens = x.tokens() * (group + 1) / groups - begin;
      const Tokens<Sum> sums = p.slice(begin, tokens);
      for (Index t = 0; t < tokens; ++t) std::fill(sums.token(t), sums.token(t) + s.rows, Sum(0));
      // Several tiles share a block of the stack while it is in the cache.
      const Index span = tokens <= tile_rows || fits ? s.features : feature_block;
      for (Index j = 0; j < s.features; j += span) {
        auto piece = stack;
        piece.data += j * stack.step;
        detail::shrink_features<Arch>(piece, x.slice(begin, tokens), j, (std::min)(j + span, s.features), sums);
      }
    });
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
