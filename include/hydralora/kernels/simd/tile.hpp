// SPDX-License-Identifier: MIT
//
// The one micro-kernel: a small tile of outer products held in registers. All three skinny products are this loop and
// differ only in what is broadcast and what is loaded (low_rank.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "hydralora/core/simd.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace simd {

/// Rows of the tile (broadcast numbers) and its width in registers. 6 × 2 = 12 accumulators, 2 loaded and 1 broadcast
/// register fill 15 of AVX2's 16; twelve independent chains hide the 4 cycles of an FMA at two FMAs a cycle.
inline constexpr Index tile_rows = 6;
inline constexpr Index tile_registers = 2;

template <class Scalar, class Arch>
inline constexpr Index tile_width = tile_registers* lanes<Scalar, Arch>;

namespace detail {

template <class Function, std::size_t... i>
void unrolled(Function&& f, std::index_sequence<i...>) {
  (f(std::integral_constant<std::size_t, i>{}), ...);
}

/// f(0), …, f(count - 1) written out: array elements indexed by constants stay in registers.
template <Index count, class Function>
void unrolled(Function&& f) {
  unrolled(f, std::make_index_sequence<static_cast<std::size_t>(count)>{});
}

}  // namespace detail

/// Calls f with `count` (1 … maximum) as a compile-time constant.
template <Index maximum, class Function>
void with_constant(Index count, Function&& f) {
  if constexpr (maximum > 1) {
    if (count < maximum) return with_constant<maximum - 1>(count, f);
  }
  f(std::integral_constant<Index, maximum>{});
}

template <class Scalar, class Arch, Index rows, Index registers>
using Tile =
    std::array<std::array<Batch<Scalar, Arch>, static_cast<std::size_t>(registers)>, static_cast<std::size_t>(rows)>;

/// tile(i, ·) = Σ_l  b[l · b_step + i · b_row] · a[l · a_step + ·],  l = 0 … length - 1, each a chain of fused
/// multiply-adds from zero in the order of l, so a number's bits depend on its own factors and nothing else.
template <class Arch, Index rows, Index registers, class Scalar>
Tile<Scalar, Arch, rows, registers> outer_products(Index length, const Scalar* a, Index a_step, const Scalar* b,
                                                   Index b_step, Index b_row) {
  using B = Batch<Scalar, Arch>;
  Tile<Scalar, Arch, rows, registers> tile;
  detail::unrolled<rows>([&](auto i) { detail::unrolled<registers>([&](auto v) { tile[i][v] = B(Scalar(0)); }); });
  for (Index l = 0; l < length; ++l, a += a_step, b += b_step) {
    std::array<B, static_cast<std::size_t>(registers)> loaded;
    detail::unrolled<registers>(
        [&](auto v) { loaded[v] = B::load_unaligned(a + static_cast<Index>(v) * lanes<Scalar, Arch>); });
    detail::unrolled<rows>([&](auto i) {
      const B broadcast(b[static_cast<Index>(i) * b_row]);
      detail::unrolled<registers>([&](auto v) { tile[i][v] = fma(broadcast, loaded[v], tile[i][v]); });
    });
  }
  return tile;
}

}  // namespace simd
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
