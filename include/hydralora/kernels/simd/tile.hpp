// SPDX-License-Identifier: MIT
// The micro-kernel of all three low-rank products: a small tile of outer products in registers. The products differ in
// what is broadcast and what is loaded (low_rank.hpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/simd.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Registers per row of a tile: each broadcast number is used twice.
inline constexpr Index tile_registers = 2;

/// Rows of the tile (broadcast numbers). Of 16 registers 6 × 2 = 12 sums, 2 loaded and 1 broadcast fill 15. Of 32 the
/// tile takes 8 × 2, as 8 divides the usual ranks and batches. 8 independent chains hide an FMA's latency (4 cycles,
/// two FMAs a cycle); both tiles have more, and load less than 0.7 numbers per FMA.
inline constexpr Index tile_rows = HYDRALORA_VECTOR_REGISTERS == 32 ? 8 : 6;

template <class Scalar, class Arch>
inline constexpr Index tile_width = tile_registers* lanes<Scalar, Arch>;

/// How many times a tile of few rows fits into the registers for sums: as copies side by side, each for a part of the
/// sum (shrink), or as a wider tile (expand). Even one token then has 8 chains, or twice as many, which read longer
/// runs.
constexpr Index tile_copies(Index rows, Index registers, Index sums) {
  return rows > 4 ? 1 : std::max<Index>(1, sums / (rows * registers));
}
/// Copies in shrink(). More than 8 registers of sums do not pay: distant blocks of the stack evict each other.
constexpr Index copies_of(Index rows, Index registers) { return tile_copies(rows, registers, 8); }
/// Registers of a row in expand().
constexpr Index wide_of(Index rows) {
  return tile_registers * tile_copies(rows, tile_registers, HYDRALORA_VECTOR_REGISTERS / 2);
}

/// One call of the micro-kernel. For copy c, row i, number j < used and l = 0 … length - 1, copy after copy:
///
///   to[i · to_row + j] += factor · Σ_l  b[l · b_step + c · b_copy + i · b_row] · a[l · a_step + c · a_copy + j]
///
/// Whole registers of `a` are read, also where fewer numbers are used; with several copies all are used.
/// `a` and `to` may be numbers of 16 bits (core/narrow.hpp). `to` is then rounded once.
template <class A, class To>
struct TileArguments {
  using Scalar = sum_t<A>;
  static_assert(std::is_same_v<Scalar, sum_t<To>>);

  Index length = 0;
  const A* a = nullptr;
  Index a_step = 0, a_copy = 0;
  const Scalar* b = nullptr;
  Index b_step = 0, b_copy = 0, b_row = 0;
  To* to = nullptr;
  Index to_row = 0;
  Index used = 0;
  Scalar factor = 1;
  const To* next_to = nullptr;  ///< `to` of a later call, to prefetch
};

namespace detail {

/// The end of add_outer_products() where the last registers of a row are not all used. One function for all shapes.
template <class Arch, class A, class To>
void add_first(const TileArguments<A, To>& tile, Index rows, Index registers, const sum_t<A>* sums) {
  using Scalar = sum_t<A>;
  constexpr Index lane_count = lanes<Scalar, Arch>;
  const Batch<Scalar, Arch> factor(tile.factor);
  for (Index i = 0; i < rows; ++i, sums += registers * lane_count) {
    for (Index j = 0; j < tile.used; j += lane_count) {
      To* to = tile.to + i * tile.to_row + j;
      const Index count = tile.used - j;
      store_first<Arch>(fma(Batch<Scalar, Arch>::load_unaligned(sums + j), factor, load_first<Arch>(to, count)), to,
                        count);
    }
  }
}

/// A cell is a register of sums. Cells are numbered by copy, then row, then register.
template <Index rows, Index registers>
struct Cell {
  static constexpr Index copy(std::size_t c) { return static_cast<Index>(c) / (registers * rows); }
  static constexpr Index row(std::size_t c) { return static_cast<Index>(c) / registers % rows; }
  static constexpr Index column(std::size_t c) { return static_cast<Index>(c) % registers; }
};

template <class Arch, Index registers, Index rows, class A, class To, std::size_t... load, std::size_t... cell>
void add_outer_products(const TileArguments<A, To>& tile, std::index_sequence<load...>, std::index_sequence<cell...>) {
  using Scalar = sum_t<A>;
  using B = Batch<Scalar, Arch>;
  using At = Cell<rows, registers>;
  constexpr Index lane_count = lanes<Scalar, Arch>;

  const A* a = tile.a;
  const Scalar* b = tile.b;
  const Index a_step = tile.a_step, a_copy = tile.a_copy, b_step = tile.b_step, b_copy = tile.b_copy,
              b_row = tile.b_row;
  constexpr Index line = cache_line<To>;
  // Lines beyond the buffer are harmless in a prefetch; a condition would cost a tenth of a short tile.
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < registers * lane_count; j += line) prefetch_for_write(tile.next_to + i * tile.to_row + j);
  }
  B sums[] = {(static_cast<void>(cell), B(Scalar(0)))...};
  for (Index l = 0; l < tile.length; ++l, a += a_step, b += b_step) {
    const B loaded[] = {simd::load<Arch>(a + static_cast<Index>(load) / registers * a_copy +
                                         static_cast<Index>(load) % registers * lane_count)...};
    B broadcast(Scalar(0));
    ((static_cast<void>(At::column(cell) == 0 ? (broadcast = B(b[At::copy(cell) * b_copy + At::row(cell) * b_row]), 0)
                                              : 0),
      sums[cell] = fma(broadcast, loaded[At::copy(cell) * registers + At::column(cell)], sums[cell])),
     ...);
  }

  if (sizeof...(cell) > rows * registers || tile.used >= registers * lane_count) {
    const B factor(tile.factor);
    To* const to = tile.to;
    const Index to_row = tile.to_row;
    const auto place = [&](std::size_t c) { return to + At::row(c) * to_row + At::column(c) * lane_count; };
    (store<Arch>(fma(sums[cell], factor, simd::load<Arch>(place(cell))), place(cell)), ...);
  } else {  // through memory, so that this rare path takes no registers from the loop
    Scalar spilled[sizeof...(cell) * static_cast<std::size_t>(lane_count)];
    (sums[cell].store_unaligned(spilled + static_cast<Index>(cell) * lane_count), ...);
    add_first<Arch>(tile, rows, registers, spilled);
  }
}

}  // namespace detail

/// Each sum is a chain of fused multiply-adds from zero in the order of l, so a number's bits depend on its factors
/// only, not on the shape of the tile. Copies are added in their order.
template <class Arch, class A, class To, Index rows, Index registers, Index copies>
void add_outer_products(const TileArguments<A, To>& tile) {
  detail::add_outer_products<Arch, registers, rows>(
      tile, std::make_index_sequence<static_cast<std::size_t>(copies * registers)>{},
      std::make_index_sequence<static_cast<std::size_t>(copies * rows * registers)>{});
}

/// The shapes of the micro-kernel, as functions for 1 … tile_rows rows (at [rows - 1]). Each shape is compiled once.
template <class Arch, class A, class To, class Rows = std::make_index_sequence<static_cast<std::size_t>(tile_rows)>>
struct Tiles;

template <class Arch, class A, class To, std::size_t... row>
struct Tiles<Arch, A, To, std::index_sequence<row...>> {
  struct Shape {
    void (*add)(const TileArguments<A, To>&);
    Index size;  ///< copies, or registers of a row
  };

  template <Index registers>
  static constexpr Shape single[] = {{&add_outer_products<Arch, A, To, Index(row + 1), registers, 1>, registers}...};
  template <Index registers>
  static constexpr Shape copied[] = {
      {&add_outer_products<Arch, A, To, Index(row + 1), registers, copies_of(row + 1, registers)>,
       copies_of(row + 1, registers)}...};
  static constexpr Shape wide[] = {
      {&add_outer_products<Arch, A, To, Index(row + 1), wide_of(row + 1), 1>, wide_of(row + 1)}...};
};

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
