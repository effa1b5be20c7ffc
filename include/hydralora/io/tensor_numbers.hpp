// SPDX-License-Identifier: MIT
// The numbers of a tensor, from a file into a matrix of any memory layout. 117 MB of bfloat16 into a row-major float
// matrix take 0.95 times as long as a copy of the result on two threads and 1.5 times on one, into a column-major one
// 1.9 and 3.4 times: half of that is writing short pieces of columns.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/io/dtype.hpp"
#include "hydralora/io/file.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Numbers that are decoded at once. The loops below have constant counts and arrays of their own: only such loops does
/// g++ 12 vectorise at -O2.
constexpr std::size_t decoded_at_once = 32;

/// Has the highest bit if the float or double with these bits is infinite or NaN: all bits of its exponent are 1, and
/// adding 1 to the exponent carries into the sign.
constexpr std::uint32_t not_finite_bit(std::uint32_t bits) { return (bits & 0x7fffffffU) + 0x00800000U; }
constexpr std::uint64_t not_finite_bit(std::uint64_t bits) {
  return (bits & 0x7fffffffffffffffU) + 0x0010000000000000U;
}

/// A half as float, exact. A mask instead of a condition: compilers make branches of those.
inline float half_as_float(std::uint16_t half) {
  constexpr std::uint32_t one = 1U << 23U;              // of a float's exponent
  const std::uint32_t moved = (half & 0x7fffU) << 13U;  // exponent and fraction to their places in a float
  const float normal = bits_as<float>(moved + 224 * one) * 0x1p-112F;   // 31 + 224 = 255: infinite and NaN stay so
  const float denormal = bits_as<float>(moved + 113 * one) - 0x1p-14F;  // takes away the leading 1 that it has not
  const std::uint32_t is_denormal = 0U - static_cast<std::uint32_t>(moved < one);
  return bits_as<float>((bits_as<std::uint32_t>(denormal) & is_denormal) |
                        (bits_as<std::uint32_t>(normal) & ~is_denormal) | (half & 0x8000U) << 16U);
}

/// One number of a type from its bits.
template <DType type, class Unsigned>
auto number_of(Unsigned bits) {
  if constexpr (type == DType::F64) return bits_as<double>(bits);
  if constexpr (type == DType::F32) return bits_as<float>(bits);
  if constexpr (type == DType::F16) return half_as_float(bits);
  if constexpr (type == DType::BF16) return bits_as<float>(static_cast<std::uint32_t>(bits) << 16U);
}

/// Bits of which the highest is set if any number was infinite or NaN.
template <class Scalar>
using finite_bits = std::conditional_t<sizeof(Scalar) == 4, std::uint32_t, std::uint64_t>;
template <class Scalar>
finite_bits<Scalar> not_finite(Scalar number) {
  if constexpr (sizeof(Scalar) == 4 || sizeof(Scalar) == 8) {
    return not_finite_bit(bits_as<finite_bits<Scalar>>(number));
  } else {
    return static_cast<finite_bits<Scalar>>(!std::isfinite(widen(number))) << 63U;
  }
}

template <DType type, class Unsigned, class Scalar>
finite_bits<Scalar> decode_block(const unsigned char* __restrict from, Scalar* __restrict to) {
  finite_bits<Scalar> bad = 0;
  for (std::size_t i = 0; i < decoded_at_once; ++i) {
    Unsigned bits;
    std::memcpy(&bits, from + i * sizeof(Unsigned), sizeof(bits));
    to[i] = static_cast<Scalar>(number_of<type>(in_order_of_memory(bits)));
    bad |= not_finite(to[i]);
  }
  return bad;
}

template <DType type, class Unsigned, class Scalar>
bool decode_run(const unsigned char* from, Scalar* to, std::size_t count) {
  finite_bits<Scalar> bad = 0;
  for (; count >= decoded_at_once; count -= decoded_at_once) {
    bad |= decode_block<type, Unsigned>(from, to);
    from += decoded_at_once * sizeof(Unsigned);
    to += decoded_at_once;
  }
  if (count > 0) {
    std::array<unsigned char, decoded_at_once * sizeof(Unsigned)> rest{};
    std::array<Scalar, decoded_at_once> numbers;
    std::memcpy(rest.data(), from, count * sizeof(Unsigned));
    bad |= decode_block<type, Unsigned>(rest.data(), numbers.data());
    std::copy_n(numbers.begin(), count, to);
  }
  return bad >> (8 * sizeof(bad) - 1) == 0;
}
/// Decodes `count` numbers of type F16, BF16, F32 or F64 that lie side by side. @return  whether all are finite.
template <class Scalar>
bool decode_run(DType type, const unsigned char* from, Scalar* to, Index count) {
  const auto n = static_cast<std::size_t>(count);
  if (type == DType::F64) return decode_run<DType::F64, std::uint64_t>(from, to, n);
  if (type == DType::F32) return decode_run<DType::F32, std::uint32_t>(from, to, n);
  if (type == DType::F16) return decode_run<DType::F16, std::uint16_t>(from, to, n);
  return decode_run<DType::BF16, std::uint16_t>(from, to, n);
}

/// A tile of decoded numbers in the L1 cache, 16 KiB.
template <class Scalar>
struct Tile {
  static constexpr Index rows = 256 / static_cast<Index>(sizeof(Scalar)), columns = 64;
  alignas(64) Scalar numbers[static_cast<std::size_t>(rows * columns)];
};

/// to(i, j) = tile(i, j) for a destination whose columns are contiguous.
template <class Scalar>
void store_transposed(const Scalar* tile, Index tile_stride, Index rows, Index columns, Scalar* to, Index stride) {
  constexpr Index side = is_narrow<Scalar> ? 1 : simd::transpose_side<Scalar>;  // squares are widened
  const Index square_rows = side > 1 ? rows / side * side : 0, square_columns = side > 1 ? columns / side * side : 0;
  if constexpr (side > 1) {
    for (Index j = 0; j < square_columns; j += side) {
      for (Index i = 0; i < square_rows; i += side) {
        simd::transpose_square(tile + i * tile_stride + j, tile_stride, to + j * stride + i, stride);
      }
    }
  }
  for (Index j = 0; j < columns; ++j) {
    for (Index i = j < square_columns ? square_rows : 0; i < rows; ++i) to[j * stride + i] = tile[i * tile_stride + j];
  }
}

/// Read at once. Small enough for an L2 cache; tiles need many rows, and 8 KiB of each to keep the calls few.
constexpr Index row_part_bytes = Index{1} << 17U, tile_part_bytes = Index{1} << 19U;

/// Where the numbers of a tensor [rows, columns] are in a file. Rows are as long as `columns`.
struct TensorPlace {
  DType type;
  std::uint64_t offset;  ///< of the first number
  Index rows, columns;

  Index size() const { return info_of(type).bytes; }
  std::uint64_t at(Index i, Index j) const { return offset + static_cast<std::uint64_t>((i * columns + j) * size()); }
};

/// A part of a tensor: rows [row, row + rows), columns [column, column + columns).
struct TensorPart {
  Index row, column, rows, columns;
  const unsigned char* bytes;  ///< as in the file
  Index row_bytes;             ///< from one row to the next
};

/// Calls use(part), on several threads, for parts that together are the tensor. All are a multiple of `unit` rows high,
/// but for the first, which has at most `lead` rows if this is not 0, and the last.
/// @return  the lowest row of a part for which use() was false, or -1.
template <class Use>
Index for_each_part(const InputFile& file, const TensorPlace& from, Index unit, Index lead, Index most_bytes,
                    Use&& use) {
  const Index size = from.size(), width = (std::min)(from.columns, std::max<Index>(most_bytes / (unit * size), 1));
  const Index height = width < from.columns ? unit : std::max<Index>(most_bytes / (width * size * unit), 1) * unit;
  const Index shift = lead > 0 ? height - (std::min)(lead, height) : 0;  // rows that the first part has not
  const Index down = (from.rows + shift + height - 1) / height, across = (from.columns + width - 1) / width;
  const Index work = InputFile::reads_on_any_thread ? 8 * from.rows * from.columns : 0;  // a number takes a nanosecond
  std::vector<std::vector<unsigned char>> buffers(static_cast<std::size_t>(parallel_threads(down * across, work)));
  std::atomic<Index> failed{from.rows};
  parallel_for(down * across, work, [&](Index k, Index thread) {
    TensorPart part{};
    part.row = std::max<Index>(k / across * height - shift, 0);
    part.column = k % across * width;
    part.rows = (std::min)((k / across + 1) * height - shift, from.rows) - part.row;
    part.columns = (std::min)(width, from.columns - part.column);
    part.row_bytes = from.columns * size;
    if (part.row > failed.load(std::memory_order_relaxed)) return;
    // Tiles are copied first: they take a few bytes of many rows, which the hardware does not fetch ahead.
    if (unit == 1) {
      part.bytes = file.mapped(from.at(part.row, part.column),
                               static_cast<std::size_t>(((part.rows - 1) * from.columns + part.columns) * size));
    }
    if (part.bytes == nullptr) {
      auto& buffer = buffers[static_cast<std::size_t>(thread)];
      buffer.resize(static_cast<std::size_t>((std::min)(height, from.rows) * width * size));
      part.bytes = buffer.data();
      part.row_bytes = part.columns * size;
      const Index reads = part.columns == from.columns ? 1 : part.rows;
      const auto bytes = static_cast<std::size_t>(part.row_bytes * (part.rows / reads));
      for (Index i = 0; i < reads; ++i) {
        file.read(from.at(part.row + i, part.column), buffer.data() + static_cast<std::size_t>(i) * bytes, bytes);
      }
    }
    if (use(part)) return;
    for (Index lowest = failed; part.row < lowest && !failed.compare_exchange_weak(lowest, part.row);) continue;
  });
  return failed < from.rows ? failed.load() : -1;
}

/// Reads into a matrix whose rows are contiguous. @return  a row at or before that of the first number that is not
/// finite, or -1 without one.
template <class Scalar>
Index read_rows(const InputFile& file, const TensorPlace& from, Scalar* to, Index row_stride, bool finite_only) {
  return for_each_part(file, from, 1, 0, row_part_bytes, [&](const TensorPart& part) {
    bool finite = true;
    for (Index i = 0; i < part.rows; ++i) {
      finite &= decode_run(from.type, part.bytes + i * part.row_bytes, to + (part.row + i) * row_stride + part.column,
                           part.columns);
    }
    return finite || !finite_only;
  });
}

/// Reads tile by tile. store(i, j, rows, columns, numbers, stride) takes a tile, row-major, for place (i, j).
template <class Scalar, class Store>
Index read_tiles(const InputFile& file, const TensorPlace& from, Index lead, bool finite_only, Store&& store) {
  const Index size = from.size();
  return for_each_part(file, from, Tile<Scalar>::rows, lead, tile_part_bytes, [&](const TensorPart& part) {
    Tile<Scalar> tile;
    bool finite = true;
    for (Index i = 0; i < part.rows; i += tile.rows) {
      for (Index j = 0; j < part.columns; j += tile.columns) {
        const Index rows = (std::min)(tile.rows, part.rows - i), columns = (std::min)(tile.columns, part.columns - j);
        const unsigned char* const bytes = part.bytes + i * part.row_bytes + j * size;
        const bool one_run = columns * size == part.row_bytes;
        for (Index k = 0; k < (one_run ? 1 : rows); ++k) {
          finite &= decode_run(from.type, bytes + k * part.row_bytes, tile.numbers + k * columns,
                               one_run ? rows * columns : columns);
        }
        store(part.row + i, part.column + j, rows, columns, tile.numbers, columns);
      }
    }
    return finite || !finite_only;
  });
}

/// The row-major index of the first number that is not finite, from a row on.
template <class Scalar>
Index first_not_finite(const InputFile& file, const TensorPlace& from, Index row) {
  std::array<unsigned char, 8192> buffer;
  const Index size = from.size(), at_once = static_cast<Index>(buffer.size()) / size, end = from.rows * from.columns;
  Index first = row * from.columns;
  for (Index count = 0; first < end; first += count) {
    count = (std::min)(at_once, end - first);
    file.read(from.at(0, first), buffer.data(), static_cast<std::size_t>(count * size));
    for (Index i = 0; i < count; ++i) {
      if (!std::isfinite(widen(decode<Scalar>(from.type, buffer.data() + i * size)))) return first + i;
    }
  }
  return end;
}

/// Reads a tensor into any Eigen matrix or view of its size.
/// @return  the row-major index of the first number that is not finite with finite_only, or -1.
template <class Matrix>
Index read_numbers(const InputFile& file, TensorPlace from, Matrix& matrix, bool finite_only) {
  using Scalar = typename Matrix::Scalar;
  if (from.rows == 0 || from.columns == 0) return -1;
  Index row = -1;
  if constexpr ((Matrix::Flags & Eigen::DirectAccessBit) != 0) {
    Scalar* const to = matrix.data();
    Index row_stride = matrix.rowStride(), column_stride = matrix.colStride();
    if (from.columns == 1) {
      std::swap(from.rows, from.columns);
      column_stride = row_stride;
    }
    if (from.rows == 1 || (column_stride == 1 && row_stride == from.columns)) {  // numbers in the order of the file
      from.columns *= from.rows;
      from.rows = 1;
    }
    if (column_stride == 1) {
      row = read_rows(file, from, to, row_stride, finite_only);
    } else {
      // Tiles that begin at cache lines, so that each line is written once.
      constexpr std::uintptr_t line = 64;
      const bool aligns = row_stride == 1 && column_stride * static_cast<Index>(sizeof(Scalar)) % 64 == 0;
      const std::uintptr_t behind = reinterpret_cast<std::uintptr_t>(to) % line;
      const Index lead = aligns && behind > 0 ? static_cast<Index>((line - behind) / sizeof(Scalar)) : 0;
      const auto store = [&](Index i, Index j, Index rows, Index columns, const Scalar* numbers, Index stride) {
        Scalar* const place = to + i * row_stride + j * column_stride;
        if (row_stride == 1) return store_transposed(numbers, stride, rows, columns, place, column_stride);
        for (Index k = 0; k < rows; ++k) {
          for (Index l = 0; l < columns; ++l) place[k * row_stride + l * column_stride] = numbers[k * stride + l];
        }
      };
      row = read_tiles<Scalar>(file, from, lead, finite_only, store);
    }
  } else {
    const auto store = [&](Index i, Index j, Index rows, Index columns, const Scalar* numbers, Index stride) {
      for (Index k = 0; k < rows; ++k) {
        for (Index l = 0; l < columns; ++l) matrix(i + k, j + l) = numbers[k * stride + l];
      }
    };
    row = read_tiles<Scalar>(file, from, 0, finite_only, store);
  }
  return row < 0 ? -1 : first_not_finite<Scalar>(file, from, row);
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
