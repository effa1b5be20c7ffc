// SPDX-License-Identifier: MIT
// The number types of GGUF files: blocks of 32 or 256 numbers that share scales. Source: ggml-quants.c and gguf-py,
// whose numbers these are, bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/io/dtype.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The type of a tensor's numbers, numbered as in the file.
enum class GgufType : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  BF16 = 30
};

struct GgufTypeInfo {
  const char* name;
  Index block, bytes;  ///< numbers of a block, and its bytes; 0: not supported

  bool supported() const { return block > 0; }
  /// Bytes of a row of whole blocks.
  Index row_bytes(Index columns) const { return columns / block * bytes; }
  std::string text(GgufType type) const { return std::to_string(static_cast<std::uint32_t>(type)) + " (" + name + ")"; }
};

inline const GgufTypeInfo& info_of(GgufType type) {
  static constexpr GgufTypeInfo table[] = {
      {"F32", 1, 4},      {"F16", 1, 2},      {"Q4_0", 32, 18},   {"Q4_1", 32, 20}, {"Q4_2", 0, 0},    {"Q4_3", 0, 0},
      {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},   {"Q8_1", 0, 0},   {"Q2_K", 0, 0},    {"Q3_K", 0, 0},
      {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"Q8_K", 0, 0},   {"IQ2_XXS", 0, 0}, {"IQ2_XS", 0, 0},
      {"IQ3_XXS", 0, 0},  {"IQ1_S", 0, 0},    {"IQ4_NL", 0, 0},   {"IQ3_S", 0, 0},  {"IQ2_S", 0, 0},   {"IQ4_XS", 0, 0},
      {"I8", 0, 0},       {"I16", 0, 0},      {"I32", 0, 0},      {"I64", 0, 0},    {"F64", 0, 0},     {"IQ1_M", 0, 0},
      {"BF16", 1, 2},     {"unknown", 0, 0}};
  constexpr std::size_t last = std::size(table) - 1;
  return table[(std::min)(static_cast<std::size_t>(type), last)];
}

/// Of the types that are read.
inline const char* gguf_type_names() { return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"; }

namespace detail {

/// A half as a float, without branches, so that compilers vectorise it.
inline float half_at(const unsigned char* bytes) {
  const std::uint32_t from = bytes[0] | static_cast<std::uint32_t>(bytes[1]) << 8U;
  const std::uint32_t exponent = from & 0x7c00U, sign = (from & 0x8000U) << 16U, rebias = 112U << 23U;
  const std::uint32_t infinite = 0U - static_cast<std::uint32_t>(exponent == 0x7c00U);  // masks
  const std::uint32_t normal = 0U - static_cast<std::uint32_t>(exponent != 0);
  const std::uint32_t number = ((from & 0x7fffU) << 13U) + rebias + (rebias & infinite);
  const auto denormal = bits_as<std::uint32_t>(static_cast<float>(from & 0x3ffU) * 0x1p-24F);
  return bits_as<float>(sign | (number & normal) | (denormal & ~normal));
}

inline constexpr int gguf_piece = 32;  // numbers that are decoded together: a block's, or those that share a scale

// What follows is written once, for SIMD batches and for single numbers.
#if HYDRALORA_HAS_XSIMD
using GgufFloats = xsimd::batch<float, simd::DefaultArch>;
using GgufCodes = xsimd::batch<std::int32_t, simd::DefaultArch>;
inline constexpr int gguf_lanes = static_cast<int>(GgufFloats::size);
inline GgufCodes load_codes(const std::int32_t* from) { return GgufCodes::load_unaligned(from); }
inline GgufFloats to_floats(GgufCodes codes) { return xsimd::to_float(codes); }
inline void store_floats(GgufFloats numbers, float* to) { numbers.store_unaligned(to); }
#else
using GgufFloats = float;
using GgufCodes = std::int32_t;
inline constexpr int gguf_lanes = 1;
inline GgufCodes load_codes(const std::int32_t* from) { return *from; }
inline GgufFloats to_floats(GgufCodes codes) { return static_cast<float>(codes); }
inline void store_floats(GgufFloats numbers, float* to) { *to = numbers; }
#endif

/// f(0), f(1) … as codes.
template <class Function>
GgufCodes make_codes(Function&& f) {
  std::int32_t codes[gguf_lanes];
  for (int i = 0; i < gguf_lanes; ++i) codes[i] = static_cast<std::int32_t>(f(i));
  return load_codes(codes);
}

/// 32 numbers: piece `piece` of a block. The products are exact in float, so that fusing them with the addition changes
/// no bit.
template <GgufType type>
void decode_piece(const unsigned char* block, [[maybe_unused]] int piece, float* to) {
  constexpr int half = gguf_piece / 2;
  static_assert(half % gguf_lanes == 0);
  const auto bytes = [](const unsigned char* from) { return make_codes([&](int i) { return from[i]; }); };
  const auto nibble = [&](const unsigned char* from, int at) {
    const GgufCodes both = bytes(from + at % half);
    return at < half ? both & GgufCodes(15) : both >> 4;
  };
  if constexpr (type == GgufType::Q8_0) {
    const GgufFloats d(half_at(block));
    for (int i = 0; i < gguf_piece; i += gguf_lanes) {
      const auto codes = make_codes([&](int j) { return static_cast<std::int8_t>(block[2 + i + j]); });
      store_floats(d * to_floats(codes), to + i);
    }
  } else if constexpr (type == GgufType::Q4_0) {
    const GgufFloats d(half_at(block));
    for (int i = 0; i < gguf_piece; i += gguf_lanes) {
      store_floats(d * to_floats(nibble(block + 2, i) - GgufCodes(8)), to + i);
    }
  } else if constexpr (type == GgufType::Q4_1) {
    const GgufFloats d(half_at(block)), low(half_at(block + 2));
    for (int i = 0; i < gguf_piece; i += gguf_lanes) store_floats(d * to_floats(nibble(block + 4, i)) + low, to + i);
  } else if constexpr (type == GgufType::Q5_0 || type == GgufType::Q5_1) {
    constexpr bool has_minimum = type == GgufType::Q5_1;
    const GgufFloats d(half_at(block)), low(has_minimum ? half_at(block + 2) : 0.0F);
    const auto high = from_little_endian<std::uint32_t>(block + (has_minimum ? 4 : 2));
    for (int i = 0; i < gguf_piece; i += gguf_lanes) {
      const GgufCodes fifth = make_codes([&](int j) { return (high >> (i + j) & 1U) << 4U; });
      const GgufCodes codes = nibble(block + (has_minimum ? 8 : 6), i) | fifth;
      store_floats(has_minimum ? d * to_floats(codes) + low : d * to_floats(codes - GgufCodes(16)), to + i);
    }
  } else if constexpr (type == GgufType::Q4_K || type == GgufType::Q5_K) {
    // 8 scales and 8 minima of 6 bits in 12 bytes: the first four of each whole, of the others the upper two bits
    // beside them.
    const unsigned char* const scales = block + 4;
    const bool is_whole = piece < 4;
    const int scale = is_whole ? scales[piece] & 63 : (scales[piece + 4] & 15) | (scales[piece - 4] >> 6) << 4;
    const int minimum = is_whole ? scales[piece + 4] & 63 : scales[piece + 4] >> 4 | (scales[piece] >> 6) << 4;
    const GgufFloats d(half_at(block) * static_cast<float>(scale));
    const GgufFloats low(half_at(block + 2) * static_cast<float>(minimum));
    const unsigned char* const lower = block + (type == GgufType::Q4_K ? 16 : 48) + piece / 2 * gguf_piece;
    for (int i = 0; i < gguf_piece; i += gguf_lanes) {
      GgufCodes codes = (bytes(lower + i) >> (piece % 2 * 4)) & GgufCodes(15);
      if constexpr (type == GgufType::Q5_K) codes = codes | (((bytes(block + 16 + i) >> piece) & GgufCodes(1)) << 4);
      store_floats(d * to_floats(codes) - low, to + i);
    }
  } else {
    static_assert(type == GgufType::Q6_K);
    const int part = piece / 4, quarter = piece % 4;  // of 128 numbers, of 32
    const unsigned char* const lower = block + part * 64 + quarter % 2 * gguf_piece;
    const unsigned char* const upper = block + 128 + part * gguf_piece;
    const unsigned char* const scales = block + 192 + part * 8 + quarter * 2;
    const float d = half_at(block + 208);
    for (int i = 0; i < gguf_piece; i += gguf_lanes) {
      const GgufFloats step(d * static_cast<float>(static_cast<std::int8_t>(scales[i / half])));
      const GgufCodes low = (bytes(lower + i) >> (quarter / 2 * 4)) & GgufCodes(15);
      const GgufCodes high = (bytes(upper + i) >> (2 * quarter)) & GgufCodes(3);
      store_floats(step * to_floats((low | (high << 4)) - GgufCodes(32)), to + i);
    }
  }
}

template <GgufType type>
void decode_pieces(const unsigned char* row, Index first, Index count, float* to) {
  const GgufTypeInfo& info = info_of(type);
  for (Index n = first, end = first + count; n < end;) {
    const unsigned char* const block = row + n / info.block * info.bytes;
    const int piece = static_cast<int>(n % info.block / gguf_piece);
    const Index within = n % gguf_piece, some = (std::min)(gguf_piece - within, end - n);
    if (some == gguf_piece) {
      decode_piece<type>(block, piece, to);
    } else {
      float all[gguf_piece];
      decode_piece<type>(block, piece, all);
      std::copy_n(all + within, some, to);
    }
    to += some, n += some;
  }
}

/// Numbers first … first + count − 1 of a row as floats. @param to  OVERWRITTEN.
inline void decode_blocks(GgufType type, const unsigned char* row, Index first, Index count, float* to) {
  const unsigned char* const from = row + first * info_of(type).bytes;  // of a type without blocks
  switch (type) {
    case GgufType::F32:
      for (Index i = 0; i < count; ++i) to[i] = bits_as<float>(from_little_endian<std::uint32_t>(from + 4 * i));
      return;
    case GgufType::F16:
      for (Index i = 0; i < count; ++i) to[i] = half_at(from + 2 * i);
      return;
    case GgufType::BF16:
      for (Index i = 0; i < count; ++i) {
        const std::uint32_t upper = from[2 * i] | static_cast<std::uint32_t>(from[2 * i + 1]) << 8U;
        to[i] = bits_as<float>(upper << 16U);
      }
      return;
    case GgufType::Q4_0:
      return decode_pieces<GgufType::Q4_0>(row, first, count, to);
    case GgufType::Q4_1:
      return decode_pieces<GgufType::Q4_1>(row, first, count, to);
    case GgufType::Q5_0:
      return decode_pieces<GgufType::Q5_0>(row, first, count, to);
    case GgufType::Q5_1:
      return decode_pieces<GgufType::Q5_1>(row, first, count, to);
    case GgufType::Q8_0:
      return decode_pieces<GgufType::Q8_0>(row, first, count, to);
    case GgufType::Q4_K:
      return decode_pieces<GgufType::Q4_K>(row, first, count, to);
    case GgufType::Q5_K:
      return decode_pieces<GgufType::Q5_K>(row, first, count, to);
    case GgufType::Q6_K:
      return decode_pieces<GgufType::Q6_K>(row, first, count, to);
  }
}

/// Rounds a row to whole blocks of F32, F16, BF16, Q8_0 or Q4_0, as ggml does.
inline void encode_blocks(GgufType type, const float* row, Index count, unsigned char* to) {
  const GgufTypeInfo& info = info_of(type);
  if (info.block == 1) {
    const DType number = type == GgufType::F32 ? DType::F32 : type == GgufType::F16 ? DType::F16 : DType::BF16;
    for (Index i = 0; i < count; ++i) encode(number, row[i], to + i * info.bytes);
    return;
  }
  for (Index n = 0; n < count; n += info.block, to += info.bytes) {
    const float* const x = row + n;
    const float largest =
        *std::max_element(x, x + info.block, [](float a, float b) { return std::abs(a) < std::abs(b); });
    if (type == GgufType::Q8_0) {
      const float d = std::abs(largest) / 127, inverse = d > 0 ? 1 / d : 0;
      encode(DType::F16, d, to);
      for (Index i = 0; i < info.block; ++i) {
        to[2 + i] = static_cast<unsigned char>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
      }
      continue;
    }
    const float d = largest / -8, inverse = d != 0 ? 1 / d : 0;
    encode(DType::F16, d, to);
    const auto code = [&](Index i) { return (std::min)(15, static_cast<int>(x[i] * inverse + 8.5F)); };
    for (Index i = 0; i < gguf_piece / 2; ++i) {
      to[2 + i] = static_cast<unsigned char>(code(i) | code(i + gguf_piece / 2) << 4);
    }
  }
}

}  // namespace detail

/// Storage of a StoredLinear: a matrix in a GGUF's blocks.
class GgufWeight {
 public:
  /// @param bytes  whole rows, as in the file.
  /// @throws std::invalid_argument  on rows of no whole blocks, or another number of bytes.
  GgufWeight(GgufType type, Index rows, Index cols, std::vector<unsigned char> bytes)
      : type_(type), rows_(rows), cols_(cols), bytes_(std::move(bytes)) {
    expects(cols % info_of(type).block == 0, "GgufWeight: rows of ", cols, " numbers are no whole blocks of ",
            info_of(type).name);
    const Index needed = rows * info_of(type).row_bytes(cols);
    expects(static_cast<Index>(bytes_.size()) == needed, "GgufWeight: ", bytes_.size(), " bytes, expected ", needed);
  }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index bytes() const { return static_cast<Index>(bytes_.size()); }
  GgufType type() const { return type_; }
  /// Decodes W's block at (row, col), transposed: column i of the tile is a piece of W's row `row + i`.
  template <class Scalar>
  void read_rows(Index row, Index col, Tokens<Scalar> tile) const {
    for (Index i = 0; i < tile.tokens(); ++i) {
      const unsigned char* const from = bytes_.data() + (row + i) * info_of(type_).row_bytes(cols_);
      if constexpr (std::is_same_v<Scalar, float>) {
        detail::decode_blocks(type_, from, col, tile.features(), tile.token(i));
      } else {
        float some[detail::gguf_piece];
        for (Index j = 0; j < tile.features(); j += detail::gguf_piece) {
          const Index count = std::min<Index>(detail::gguf_piece, tile.features() - j);
          detail::decode_blocks(type_, from, col + j, count, some);
          std::copy_n(some, count, tile.token(i) + j);
        }
      }
    }
  }
  friend bool operator==(const GgufWeight& a, const GgufWeight& b) {
    return a.type_ == b.type_ && a.rows_ == b.rows_ && a.cols_ == b.cols_ && a.bytes_ == b.bytes_;
  }

 private:
  GgufType type_;
  Index rows_, cols_;
  std::vector<unsigned char> bytes_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
