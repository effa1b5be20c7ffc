// SPDX-License-Identifier: MIT
//
// The three skinny products on the register tile. Each packs what the tile loads into panels one tile wide, so that
// loads are contiguous whatever the layout, and broadcasts the other factor. The packing pads only what is not summed
// over.
#pragma once

#include <algorithm>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/simd/tile.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Features summed in one go in contract(): a packed panel block (256 × 16 floats, 16 KiB) stays in half the L1 cache.
inline constexpr Index feature_block = 256;
/// Tokens one thread takes at a time: eight tiles, whose activations stay in the L2 cache between panels.
inline constexpr Index token_chunk = 8 * tile_rows;
/// Tokens summed in one go in accumulate(): their panel (128 × 16 floats, 8 KiB, on the stack) stays in the L1 cache.
inline constexpr Index token_block = 128;
/// Panels one thread takes at a time in accumulate().
inline constexpr Index panel_chunk = 4;

namespace detail {

constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

/// Registers needed for the `count` numbers that are left: the last panel may be narrower.
template <class Scalar, class Arch>
constexpr Index registers_for(Index count) {
  return std::min(tile_registers, ceil_div(count, lanes<Scalar, Arch>));
}

/// f(first, count, rows, registers) for every tile of `tokens`, the last two as compile-time constants.
template <class Function>
void for_each_tile(Index begin, Index end, Index registers, Function&& f) {
  with_constant<tile_registers>(registers, [&](auto width) {
    for (Index t = begin; t < end; t += tile_rows) {
      with_constant<tile_rows>(std::min(tile_rows, end - t), [&](auto rows) { f(t, rows, width); });
    }
  });
}

/// f(begin, end) for chunks of tokens, in parallel.
template <class Function>
void for_each_token_chunk(Index tokens, Index flop_per_token, Function&& f) {
  parallel_for(ceil_div(tokens, token_chunk), tokens * flop_per_token,
               [&](Index chunk) { f(chunk * token_chunk, std::min(tokens, (chunk + 1) * token_chunk)); });
}

/// A stack in panels one tile wide: number (row, feature) is at panel(row / width)[feature · step + row % width].
template <class Scalar>
struct Panels {
  const Scalar* data;
  Index panel_stride;
  Index step;

  const Scalar* panel(Index i) const { return data + i * panel_stride; }
};

/// The panels of a stack. Few tokens use each number once or twice, so where its rows lie side by side and fill their
/// registers they read it in place; more tokens share a contiguous copy, whose last panel is padded with zero rows.
template <class Arch, class Scalar>
Panels<Scalar> cut_into_panels(ConstStack<Scalar> s, Index tokens, ScratchFrame& scratch) {
  constexpr Index width = tile_width<Scalar, Arch>;
  if (tokens <= tile_rows && s.row_stride == 1 && s.rows % lanes<Scalar, Arch> == 0)
    return {s.data, width, s.feature_stride};

  const Index panels = ceil_div(s.rows, width);
  Scalar* packed = scratch.take<Scalar>(panels * width * s.features);
  parallel_for(panels, panels * width * s.features, [&](Index panel) {
    const Index first = panel * width, used = std::min(width, s.rows - first);
    for (Index j = 0; j < s.features; ++j) {
      Scalar* to = packed + (panel * s.features + j) * width;
      for (Index i = 0; i < used; ++i) to[i] = s(first + i, j);
      std::fill(to + used, to + width, Scalar(0));
    }
  });
  return {packed, width * s.features, width};
}

}  // namespace detail

/// See kernels::contract. Loads: rows of the stack at one feature. Broadcasts: that feature of six tokens.
template <class Arch, class Scalar>
void contract(ConstStack<Scalar> s, ConstTokens<Scalar> x, Tokens<Scalar> p) {
  using B = Batch<Scalar, Arch>;
  constexpr Index width = tile_width<Scalar, Arch>;
  constexpr Index lane_count = lanes<Scalar, Arch>;
  const Index panels = detail::ceil_div(s.rows, width);

  ScratchFrame scratch;
  const detail::Panels<Scalar> stack = detail::cut_into_panels<Arch>(s, x.tokens(), scratch);
  detail::for_each_token_chunk(x.tokens(), 2 * s.rows * s.features, [&](Index begin, Index end) {
    for (Index panel = 0; panel < panels; ++panel) {
      const Index first_row = panel * width, used = std::min(width, s.rows - first_row);
      // The first block sets P and the later ones add to it, so a sum over many features is rounded block by block.
      Index j = 0;
      do {
        const Index length = std::min(feature_block, s.features - j);
        const Scalar* block = stack.panel(panel) + j * stack.step;
        detail::for_each_tile(
            begin, end, detail::registers_for<Scalar, Arch>(used), [&](Index t, auto rows, auto registers) {
              const auto tile =
                  outer_products<Arch, rows, registers>(length, block, stack.step, x.token(t) + j, 1, x.stride());
              for (Index i = 0; i < rows; ++i) {
                for (Index v = 0; v < registers; ++v) {
                  Scalar* to = p.token(t + i) + first_row + v * lane_count;
                  const Index count = std::min(lane_count, used - v * lane_count);
                  const B& sum = tile[static_cast<std::size_t>(i)][static_cast<std::size_t>(v)];
                  store_first<Arch>(j == 0 ? sum : load_first<Arch>(to, count) + sum, to, count);
                }
              }
            });
        j += length;
      } while (j < s.features);
    }
  });
}

/// See kernels::expand. Loads: a panel of features of one row. Broadcasts: that row's number of six tokens.
template <class Arch, class Scalar>
void expand(ConstStack<Scalar> s, ConstTokens<Scalar> p, Scalar scale, Tokens<Scalar> y) {
  using B = Batch<Scalar, Arch>;
  constexpr Index width = tile_width<Scalar, Arch>;
  constexpr Index lane_count = lanes<Scalar, Arch>;
  const Index panels = detail::ceil_div(s.features, width);

  ScratchFrame scratch;
  const ConstStack<Scalar> transposed{s.data, s.features, s.rows, s.feature_stride, s.row_stride};
  const detail::Panels<Scalar> stack = detail::cut_into_panels<Arch>(transposed, p.tokens(), scratch);
  const B factor(scale);
  detail::for_each_token_chunk(p.tokens(), 2 * s.rows * s.features, [&](Index begin, Index end) {
    for (Index panel = 0; panel < panels; ++panel) {
      const Index first = panel * width, used = std::min(width, s.features - first);
      detail::for_each_tile(begin, end, detail::registers_for<Scalar, Arch>(used),
                            [&](Index t, auto rows, auto registers) {
                              const auto tile = outer_products<Arch, rows, registers>(
                                  s.rows, stack.panel(panel), stack.step, p.token(t), 1, p.stride());
                              for (Index i = 0; i < rows; ++i) {
                                for (Index v = 0; v < registers; ++v) {
                                  Scalar* to = y.token(t + i) + first + v * lane_count;
                                  const Index count = std::min(lane_count, used - v * lane_count);
                                  const B& sum = tile[static_cast<std::size_t>(i)][static_cast<std::size_t>(v)];
                                  store_first<Arch>(fma(sum, factor, load_first<Arch>(to, count)), to, count);
                                }
                              }
                            });
    }
  });
}

/// See kernels::accumulate. Loads: a panel of one token's features. Broadcasts: six rows of that token's P.
template <class Arch, class Scalar>
void accumulate(ConstTokens<Scalar> p, ConstTokens<Scalar> x, Scalar scale, Stack<Scalar> ds) {
  using B = Batch<Scalar, Arch>;
  constexpr Index width = tile_width<Scalar, Arch>;
  constexpr Index lane_count = lanes<Scalar, Arch>;
  const Index panels = detail::ceil_div(ds.features, width);
  const B factor(scale);

  // A thread owns the features of its panels, so no number of dS is added to by two threads.
  parallel_for(detail::ceil_div(panels, panel_chunk), 2 * x.tokens() * ds.rows * ds.features, [&](Index chunk) {
    alignas(64) Scalar packed[static_cast<std::size_t>(token_block * width)];  // [token][width]
    for (Index begin = 0; begin < x.tokens(); begin += token_block) {
      const Index length = std::min(token_block, x.tokens() - begin);
      for (Index panel = chunk * panel_chunk; panel < std::min(panels, (chunk + 1) * panel_chunk); ++panel) {
        const Index first = panel * width, used = std::min(width, ds.features - first);
        for (Index t = 0; t < length; ++t) {
          for (Index v = 0; v < tile_registers; ++v) {
            const Index from = std::min(v * lane_count, used);
            load_first<Arch>(x.token(begin + t) + first + from, std::min(lane_count, used - from))
                .store_unaligned(packed + t * width + v * lane_count);
          }
        }
        detail::for_each_tile(
            0, ds.rows, detail::registers_for<Scalar, Arch>(used), [&](Index k, auto rows, auto registers) {
              const auto tile =
                  outer_products<Arch, rows, registers>(length, packed, width, p.token(begin) + k, p.stride(), 1);
              for (Index i = 0; i < rows; ++i) {
                for (Index v = 0; v < registers; ++v) {
                  const Index feature = first + v * lane_count;
                  const Index count = std::min(lane_count, used - v * lane_count);
                  const B& sum = tile[static_cast<std::size_t>(i)][static_cast<std::size_t>(v)];
                  Scalar* to = &ds(k + i, feature);
                  if (ds.feature_stride == 1) {
                    store_first<Arch>(fma(sum, factor, load_first<Arch>(to, count)), to, count);
                  } else {
                    Scalar buffer[static_cast<std::size_t>(lane_count)] = {};
                    for (Index lane = 0; lane < count; ++lane) buffer[lane] = to[lane * ds.feature_stride];
                    fma(sum, factor, B::load_unaligned(buffer)).store_unaligned(buffer);
                    for (Index lane = 0; lane < count; ++lane) to[lane * ds.feature_stride] = buffer[lane];
                  }
                }
              }
            });
      }
    }
  });
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
