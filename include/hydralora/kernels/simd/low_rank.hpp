// SPDX-License-Identifier: MIT
// kernels/low_rank.hpp on the register tile. A task of one thread owns a part of the result, so that no sum is split:
//
//   shrink      some tokens                  reads the whole stack, packed once for all threads
//   expand      2 KiB of every token         packs its piece of the stack into the L2 cache, then takes all tokens
//   accumulate  256 bytes of every token     copies blocks of tokens into the L1 cache, then takes all rows of P
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
/// Tokens of a partial sum in accumulate(): 256 bytes of each fill 32 KiB of L1 cache. Results' bits depend on it.
inline constexpr Index token_block = 128;
/// Bytes of every token that a task owns in expand(): enough for the hardware to prefetch Y, and the piece of a stack
/// of 64 rows (128 KiB) stays in the L2 cache. 512 bytes are slower for few rows.
inline constexpr Index expand_chunk_bytes = 2048;
/// Bytes of every token that a task owns in accumulate().
inline constexpr Index accumulate_chunk_bytes = 256;
/// Tokens that are prefetched. About 64 columns that lie a power of two apart fit into the L2 cache.
inline constexpr Index accumulate_fetched = 48;
/// Tokens for which expand() packs a piece of the stack once; packing costs little beside them.
inline constexpr Index expand_tokens = 512;
/// Up to so many tokens expand() reads a stack of contiguous rows in place: packing costs more than it saves.
inline constexpr Index expand_in_place_tokens = 64;
/// Bytes of every token that a task then owns: four of the longest runs that a tile reads.
inline constexpr Index expand_in_place_bytes = 4096;

namespace detail {

/// Calls f(first, count) for tiles of tokens (or rows) of nearly equal size: 9 = 5 + 4.
template <class Function>
void for_each_tile(Index count, Function&& f) {
  const Index tiles = ceil_div(count, tile_rows);
  for (Index i = 0; i < tiles; ++i) {
    const Index first = count * i / tiles;
    f(first, count * (i + 1) / tiles - first);
  }
}

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

}  // namespace detail

/// Loads: rows of the stack at one feature. Broadcasts: that feature of a tile's tokens.
template <class Arch, class Scalar, class X>
void shrink(ConstStack<Scalar> s, ConstTokens<X> x, Tokens<sum_t<Scalar>> p) {
  using Sum = sum_t<Scalar>;
  constexpr Index width = tile_width<Sum, Arch>;
  const Index groups = detail::ceil_div(x.tokens(), shrink_tokens);
  const bool fits = s.rows * s.features * static_cast<Index>(sizeof(Scalar)) <= shrink_stack_bytes;
  detail::with_panels_of_rows<Arch>(s, x.tokens(), [&](const auto& stack) {
    parallel_for(groups, 2 * x.tokens() * s.rows * s.features, [&](Index group) {
      const Index begin = x.tokens() * group / groups, tokens = x.tokens() * (group + 1) / groups - begin;
      for (Index t = begin; t < begin + tokens; ++t) std::fill(p.token(t), p.token(t) + s.rows, Sum(0));
      // Several tiles share a block of the stack while it is in the cache.
      const Index shared = tokens <= tile_rows || fits ? s.features : feature_block;
      for (Index j = 0; j < s.features; j += shared) {
        const Index end = (std::min)(j + shared, s.features);
        detail::for_each_tile(tokens, [&](Index t, Index count) {
          detail::BroadcastTokens<Arch, X> broadcast;
          const Index span = broadcast.span(count, end - j);
          for (Index k = j; k < end; k += span) {
            const Index features = (std::min)(span, end - k);
            Index stride = 0;
            const Sum* const from = broadcast.read(x, begin + t, k, count, features, stride);
            for (Index row = 0; row < s.rows; row += width) {
              const auto* panel = stack.data + row / width * stack.panel_stride + k * stack.step;
              detail::shrink_tile<Arch>(panel, stack.step, from, stride, features, count, p.token(begin + t) + row,
                                        p.stride(), (std::min)(width, s.rows - row));
            }
          }
        });
      }
    });
  });
}

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
template <class Arch, class Scalar, class Y>
void expand(ConstStack<Scalar> s, ConstTokens<sum_t<Scalar>> p, sum_t<Scalar> scale, Tokens<Y> y) {
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

/// Loads: a panel of one token's features. Broadcasts: a tile's rows of that token's P.
template <class Arch, class Scalar, class X>
void accumulate(ConstTokens<Scalar> p, ConstTokens<X> x, Scalar scale, Stack<Scalar> ds) {
  constexpr Index width = tile_width<Scalar, Arch>;
  constexpr Index chunk = (std::max)(width, accumulate_chunk_bytes / static_cast<Index>(sizeof(Scalar)));
  const auto fetch = [&](Index token, Index feature, Index count) {
    for (Index j = 0; j < count; j += cache_line<X>) prefetch(x.token(token) + feature + j);
  };

  parallel_for(detail::ceil_div(ds.features, chunk), 2 * x.tokens() * ds.rows * ds.features, [&](Index task) {
    const Index begin = task * chunk, features = (std::min)(chunk, ds.features - begin);
    ScratchFrame scratch;
    // [token][chunk]; the rest of a chunk that is not full adds to sums that are not read
    const Index copied_tokens = (std::min)(token_block, x.tokens());
    Scalar* copied = scratch.take<Scalar>(copied_tokens * chunk);
    if (features < chunk) std::fill(copied, copied + copied_tokens * chunk, Scalar(0));
    // The task's piece of dS with its features side by side: itself, or a transposed copy.
    Stack<Scalar> sums{&ds(0, begin), ds.rows, features, ds.row_stride, ds.feature_stride};
    if (ds.feature_stride != 1) {
      sums = {scratch.take<Scalar>(ds.rows * chunk), ds.rows, features, chunk, 1};
      pack_panel<Arch, Scalar>(ConstStack<Scalar>{&ds(0, begin), features, ds.rows, ds.feature_stride, ds.row_stride},
                               sums.data, chunk);
    }
    const Index calls = detail::ceil_div(ds.rows, tile_rows) * detail::ceil_div(features, width);
    for (Index block = 0; block < x.tokens(); block += token_block) {
      const Index length = (std::min)(token_block, x.tokens() - block);
      for (Index t = 0; t < length; ++t) {
        if (t + accumulate_fetched < length) fetch(block + t + accumulate_fetched, begin, features);
        copy<Arch>(x.token(block + t) + begin, copied + t * chunk, features);
      }

      // Tokens lie too far apart for the hardware to prefetch them. Every call of the tile prefetches a part of the
      // next block, or of the first block of the next features.
      const bool last = block + token_block >= x.tokens();
      const Index next_token = last ? 0 : block + token_block;
      const Index next_feature = last ? (std::min)(begin + chunk, ds.features - 1) : begin;
      const Index next_tokens = (std::min)(accumulate_fetched, x.tokens() - next_token);
      const Index next_features = (std::min)(chunk, ds.features - next_feature);
      Index call = 0;
      detail::for_each_tile(ds.rows, [&](Index k, Index rows) {
        TileArguments<Scalar, Scalar> tile;
        tile.length = length;
        tile.a_step = chunk;
        tile.b = p.token(block) + k;
        tile.b_step = p.stride();
        tile.b_row = 1;
        tile.to_row = sums.row_stride;
        tile.factor = scale;
        const auto add = Tiles<Arch, Scalar, Scalar>::template single<tile_registers>[rows - 1].add;
        for (Index first = 0; first < features; first += width, ++call) {
          for (Index t = next_tokens * call / calls; t < next_tokens * (call + 1) / calls; ++t) {
            fetch(next_token + t, next_feature, next_features);
          }
          tile.a = copied + first;
          tile.to = &sums(k, first);
          tile.next_to = tile.to;
          tile.used = features - first;
          add(tile);
        }
      });
    }
    if (ds.feature_stride != 1) {
      rows_side_by_side<Arch, Scalar>(ConstStack<Scalar>{sums.data, ds.rows, features, chunk, 1}, &ds(0, begin),
                                      ds.feature_stride);
    }
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
