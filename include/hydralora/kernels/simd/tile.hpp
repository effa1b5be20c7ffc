// SPDX-License-Identifier: MIT
//
// The one micro-kernel: a small tile of outer products held in registers. All three skinny products are this loop and
// differ only in what is broadcast and what is loaded (low_rank.hpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/simd.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Registers side by side in a tile: each broadcast number is used twice.
inline constexpr Index tile_registers = 2;

/// Rows of the tile (broadcast numbers). With 16 vector registers 6 × 2 = 12 sums, 2 loaded and 1 broadcast register
/// fill 15; with 32 the tile is 8 × 2, as 8 divides the usual ranks and batches. Either has more independent chains than
/// the 8 that hide the 4 cycles of an FMA at two FMAs a cycle, and loads 0.63 to 0.67 numbers an FMA where two are free.
inline constexpr Index tile_rows = HYDRALORA_VECTOR_REGISTERS == 32 ? 8 : 6;

template <class Scalar, class Arch>
inline constexpr Index tile_width = tile_registers* lanes<Scalar, Arch>;

/// How many times a tile of so few rows fits into the registers for sums: as copies side by side, each on its own part of
/// the sum (shrink), or as a tile so many times as wide (expand). Even one token then has the 8 chains that an FMA's latency
/// asks for; with twice as many, where there are registers for them, it also reads longer runs of memory.
constexpr Index tile_copies(Index rows, Index registers, Index sums = HYDRALORA_VECTOR_REGISTERS / 2) {
  return rows > 4 ? 1 : std::max<Index>(1, sums / (rows * registers));
}

/// Calls f with `count` (1 … maximum) as a compile-time constant.
template <Index maximum, class Function>
void with_constant(Index count, Function&& f) {
  if constexpr (maximum > 1) {
    if (count < maximum) return with_constant<maximum - 1>(count, f);
  }
  f(std::integral_constant<Index, maximum>{});
}

/// What one call of the micro-kernel reads and writes. With c counting copies, i rows, and j numbers along the registers:
///
///   to[i · to_row + j] += factor · Σ_l  b[l · b_step + c · b_copy + i · b_row] · a[l · a_step + c · a_copy + j]
///
/// for l = 0 … length - 1 and j < used, the copies one after another. Whole registers of `a` are read, also where fewer numbers are used.
template <class Scalar>
struct TileArguments {
  Index length = 0;
  const Scalar* a = nullptr;
  Index a_step = 0, a_copy = 0;
  const Scalar* b = nullptr;
  Index b_step = 0, b_copy = 0, b_row = 0;
  Scalar* to = nullptr;
  Index to_row = 0;
  Index used = 0;
  Scalar factor = 1;
  const Scalar* next_to = nullptr;  ///< `to` of a later call: its lines are fetched during this one
};

namespace detail {

template <class Arch, Index registers, Index rows, class Scalar, std::size_t... load, std::size_t... cell>
void add_outer_products(const TileArguments<Scalar>& tile, std::index_sequence<load...>, std::index_sequence<cell...>) {
  using B = Batch<Scalar, Arch>;
  constexpr Index lane_count = lanes<Scalar, Arch>;
  // A cell is a register of sums; cells are counted by copy, then row, then register.
  constexpr auto copy_of = [](std::size_t c) { return static_cast<Index>(c) / (registers * rows); };
  constexpr auto row_of = [](std::size_t c) { return static_cast<Index>(c) / registers % rows; };
  constexpr auto register_of = [](std::size_t c) { return static_cast<Index>(c) % registers; };

  const Scalar* a = tile.a;
  const Scalar* b = tile.b;
  const Index a_step = tile.a_step, a_copy = tile.a_copy, b_step = tile.b_step, b_copy = tile.b_copy,
              b_row = tile.b_row;
  constexpr Index line = cache_line<Scalar>;
  // The last rows' lines may lie beyond the buffer, which a prefetch ignores; asking first takes a tenth of a short tile.
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < registers * lane_count; j += line) prefetch_for_write(tile.next_to + i * tile.to_row + j);
  }
  B sums[] = {(static_cast<void>(cell), B(Scalar(0)))...};
  for (Index l = 0; l < tile.length; ++l, a += a_step, b += b_step) {
    const B loaded[] = {B::load_unaligned(a + static_cast<Index>(load) / registers * a_copy +
                                          static_cast<Index>(load) % registers * lane_count)...};
    B broadcast(Scalar(0));
    ((static_cast<void>(register_of(cell) == 0 ? (broadcast = B(b[copy_of(cell) * b_copy + row_of(cell) * b_row]), 0)
                                               : 0),
      sums[cell] = fma(broadcast, loaded[copy_of(cell) * registers + register_of(cell)], sums[cell])),
     ...);
  }

  const B factor(tile.factor);
  const auto to = [&](std::size_t c) { return tile.to + row_of(c) * tile.to_row + register_of(c) * lane_count; };
  if (tile.used >= registers * lane_count) {
    (fma(sums[cell], factor, B::load_unaligned(to(cell))).store_unaligned(to(cell)), ...);
  } else {  // from memory, so that this rare path takes no registers from the loop
    Scalar spilled[sizeof...(cell)][static_cast<std::size_t>(lane_count)];
    (sums[cell].store_unaligned(spilled[cell]), ...);
    for (std::size_t c = 0; c < sizeof...(cell); ++c) {
      const Index count = std::min(lane_count, tile.used - register_of(c) * lane_count);
      if (count > 0) {
        store_first<Arch>(fma(B::load_unaligned(spilled[c]), factor, load_first<Arch>(to(c), count)), to(c), count);
      }
    }
  }
}

}  // namespace detail

/// Each sum is a chain of fused multiply-adds from zero in the order of l: a number's bits depend on its own factors and
/// on nothing else, least of all on the shape of the tile. Copies are added in their order.
template <class Arch, Index rows, Index registers, Index copies, class Scalar>
void add_outer_products(const TileArguments<Scalar>& tile) {
  detail::add_outer_products<Arch, registers, rows>(
      tile, std::make_index_sequence<static_cast<std::size_t>(copies * registers)>{},
      std::make_index_sequence<static_cast<std::size_t>(copies * rows * registers)>{});
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
