// SPDX-License-Identifier: MIT
// dS += scale · P Xᵀ on the register tile. A task owns 256 bytes of every token: it copies blocks of tokens into the L1
// cache, then takes all rows of P.
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

/// Tokens of a partial sum in accumulate(): 256 bytes of each fill 32 KiB of L1 cache. Results' bits depend on it.
inline constexpr Index token_block = 128;
/// Bytes of every token that a task owns in accumulate().
inline constexpr Index accumulate_chunk_bytes = 256;
/// Up to so many tokens accumulate() adds to a stack whose rows lie side by side in place, row by row.
inline constexpr Index accumulate_in_place_tokens = 16;
/// Tokens that are prefetched. About 64 columns that lie a power of two apart fit into the L2 cache.
inline constexpr Index accumulate_fetched = 48;

namespace detail {

/// accumulate() of few tokens to a stack whose rows lie side by side.
/// Loads: rows of one token's P. Broadcasts: that token's numbers at a tile's features.
template <class Arch, class Scalar, class X>
void accumulate_few(ConstTokens<Scalar> p, ConstTokens<X> x, Scalar scale, Stack<Scalar> ds) {
  constexpr Index width = tile_width<Scalar, Arch>, lane_count = lanes<Scalar, Arch>, chunk = 256;
  const Index step = ceil_div(ds.rows, lane_count) * lane_count + lane_count;  // the last tile reads whole registers
  ScratchFrame scratch;
  Scalar* padded = scratch.take<Scalar>(x.tokens() * step);
  for (Index t = 0; t < x.tokens(); ++t) {
    std::fill(std::copy(p.token(t), p.token(t) + ds.rows, padded + t * step), padded + (t + 1) * step, Scalar(0));
  }
  parallel_for(ceil_div(ds.features, chunk), 2 * x.tokens() * ds.rows * ds.features, [&](Index task) {
    const Index begin = task * chunk, features = (std::min)(chunk, ds.features - begin);
    ScratchFrame of_task;
    Scalar* copied = of_task.take<Scalar>(x.tokens() * chunk);
    for (Index t = 0; t < x.tokens(); ++t) copy<Arch>(x.token(t) + begin, copied + t * chunk, features);
    for_each_tile(features, [&](Index j, Index count) {
      TileArguments<Scalar, Scalar> tile;
      tile.length = x.tokens();
      tile.a_step = step;
      tile.b = copied + j;
      tile.b_step = chunk;
      tile.b_row = 1;
      tile.to_row = ds.feature_stride;
      tile.factor = scale;
      for (Index row = 0; row < ds.rows; row += width) {
        tile.a = padded + row;
        tile.to = &ds(row, begin + j);
        tile.next_to = tile.to + count * ds.feature_stride;
        tile.used = ds.rows - row;
        using Shapes = Tiles<Arch, Scalar, Scalar>;
        const auto& one = Shapes::template single<1>[count - 1];
        (tile.used <= lane_count ? one : Shapes::template single<2>[count - 1]).add(tile);
      }
    });
  });
}

}  // namespace detail

/// Loads: a panel of one token's features. Broadcasts: a tile's rows of that token's P.
template <class Arch, class Scalar, class X = Scalar>
void accumulate(ConstTokens<Scalar> p, type_t<ConstTokens<X>> x, Scalar scale, Stack<Scalar> ds) {
  if (x.tokens() <= accumulate_in_place_tokens && ds.row_stride == 1 && ds.feature_stride != 1) {
    return detail::accumulate_few<Arch, Scalar, X>(p, x, scale, ds);
  }
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
