// SPDX-License-Identifier: MIT
// Y += scale · Sᵀ P on the register tile. A task owns 2 KiB of every token: it packs its piece of the stack into the L2
// cache, then takes all tokens.
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

/// Bytes of every token that a task owns in expand(): enough for the hardware to prefetch Y, and the piece of a stack
/// of 64 rows (128 KiB) stays in the L2 cache. 512 bytes are slower for few rows.
inline constexpr Index expand_chunk_bytes = 2048;
/// Tokens for which expand() packs a piece of the stack once; packing costs little beside them.
inline constexpr Index expand_tokens = 512;
/// Up to so many tokens expand() reads a stack of contiguous rows in place: packing costs more than it saves.
inline constexpr Index expand_in_place_tokens = 64;
/// Bytes of every token that a task then owns: four of the longest runs that a tile reads.
inline constexpr Index expand_in_place_bytes = 4096;

/// How expand() splits its work.
template <class Arch, class Scalar>
struct ExpandPlan {
  bool in_place;
  Index chunk, chunks, groups, tasks, work;
  Index room, rooms;  ///< numbers of scratch memory for each thread, and for all

  ExpandPlan(ConstStack<Scalar> s, Index tokens) {
    using Sum = sum_t<Scalar>;
    constexpr Index width = tile_width<Sum, Arch>, line = cache_line<Sum>;
    in_place = s.feature_stride == 1 && tokens <= expand_in_place_tokens;
    const Index bytes = in_place ? expand_in_place_bytes : expand_chunk_bytes;
    chunk = (std::max)(width, bytes / static_cast<Index>(sizeof(Sum)) / width * width);
    chunks = detail::ceil_div(s.features, chunk);
    groups = detail::ceil_div(tokens, expand_tokens);
    tasks = chunks * groups;
    work = 2 * tokens * s.rows * s.features;
    // In place, only a partial last panel is packed: reading its whole registers would exceed the stack.
    const Index last = s.features % width == 0 ? 0 : width;
    const Index most = in_place ? last : (std::min)(chunk, detail::ceil_div(s.features, width) * width);
    room = detail::ceil_div(s.rows * most, line) * line;
    rooms = parallel_threads(tasks, work) * room;
  }
};

/// Loads: a panel of features of one row. Broadcasts: that row's number of a tile's tokens.
template <class Arch, class Scalar, class Y = Scalar>
void expand(ConstStack<Scalar> s, ConstTokens<sum_t<Scalar>> p, sum_t<Scalar> scale, type_t<Tokens<Y>> y) {
  using Sum = sum_t<Scalar>;
  constexpr Index width = tile_width<Sum, Arch>;
  const ExpandPlan<Arch, Scalar> plan(s, p.tokens());
  const bool in_place = plan.in_place;
  const Index chunk = plan.chunk, chunks = plan.chunks, groups = plan.groups, room = plan.room;

  // Taken for all threads before the first writes to Y: if memory runs out, Y is unchanged.
  ScratchFrame scratch;
  Sum* rooms = plan.rooms == 0 ? nullptr : scratch.take<Sum>(plan.rooms);

  parallel_for(plan.tasks, plan.work, [&](Index task, Index thread) {
    const Index begin = task % chunks * chunk, end = (std::min)(s.features, begin + chunk);
    const Index full = begin + (end - begin) / width * width;  // end of the full panels
    const Index token = p.tokens() * (task / chunks) / groups;
    const Index tokens = p.tokens() * (task / chunks + 1) / groups - token;

    const Index packed_from = in_place ? full : begin;
    Sum* packed = rooms + thread * room;
    for (Index first = packed_from; first < end; first += width) {
      const ConstStack<Scalar> panel{&s(0, first), (std::min)(width, end - first), s.rows, s.feature_stride,
                                     s.row_stride};
      pack_panel<Arch, Scalar>(panel, packed + (first - packed_from) * s.rows, width);
    }

    detail::for_each_tile(tokens, [&](Index t, Index rows) {
      const Index next = t + 2 * rows <= tokens ? rows * y.stride() : 0;
      // Features [from, to) in panels, those of a in place or those of the packed ones.
      const auto add = [&](const auto* a, Index a_step, Index a_next, Index from, Index to, bool wide_fits) {
        using A = std::remove_const_t<std::remove_pointer_t<decltype(a)>>;
        using Shapes = Tiles<Arch, A, Y>;
        TileArguments<A, Y> tile;
        tile.length = s.rows;
        tile.a_step = a_step;
        tile.b = p.token(token + t);
        tile.b_step = 1;
        tile.b_row = p.stride();
        tile.to_row = y.stride();
        tile.factor = scale;
        const auto& single = Shapes::template single<tile_registers>[rows - 1];
        const auto& wide = Shapes::wide[rows - 1];
        const Index wide_width = wide.size * lanes<Sum, Arch>;
        for (Index first = from; first < to;) {
          const bool fits = wide_fits && first + wide_width <= to;
          tile.a = a + (first - from) * a_next;
          tile.to = y.token(token + t) + first;
          tile.next_to = tile.to + next;
          tile.used = end - first;
          (fits ? wide : single).add(tile);
          first += fits ? wide_width : width;
        }
      };
      if (packed_from > begin) add(&s(0, begin), s.row_stride, 1, begin, packed_from, true);
      if (end > packed_from) add(static_cast<const Sum*>(packed), width, s.rows, packed_from, end, false);
    });
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
