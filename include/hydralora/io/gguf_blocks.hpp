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
  return table[std::min(static_cast<std::size_t>(type), last)];
}

/// Of the types that are read.
inline const char* gguf_type_names() { return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"; }

namespace detail {

inline float half_at(const unsigned char* bytes) { return decode<float>(DType::F16, bytes); }

inline constexpr int gguf_piece = 32;  // numbers that are decoded together: at least two types need so many

/// 32 numbers: piece `piece` of a block. All products below are exact in float, so that fusing them with an addition
/// changes no bit.
template <GgufType type>
void decode_piece(const unsigned char* block, [[maybe_unused]] int piece, float* to) {
  constexpr int half = gguf_piece / 2;
  if constexpr (type == GgufType::Q8_0) {
    const float d = half_at(block);
    for (int i = 0; i < gguf_piece; ++i) to[i] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
  } else if constexpr (type == GgufType::Q4_0 || type == GgufType::Q4_1) {
    constexpr bool has_minimum = type == GgufType::Q4_1;
    const float d = half_at(block), low = has_minimum ? half_at(block + 2) : 0;
    const auto number = [&](int code) {
      return has_minimum ? d * static_cast<float>(code) + low : d * static_cast<float>(code - 8);
    };
    const unsigned char* const codes = block + (has_minimum ? 4 : 2);
    for (int i = 0; i < half; ++i) {
      to[i] = number(codes[i] & 15);
      to[i + half] = number(codes[i] >> 4);
    }
  } else if constexpr (type == GgufType::Q5_0 || type == GgufType::Q5_1) {
    constexpr bool has_minimum = type == GgufType::Q5_1;
    const float d = half_at(block), low = has_minimum ? half_at(block + 2) : 0;
    const auto number = [&](int code) {
      return has_minimum ? d * static_cast<float>(code) + low : d * static_cast<float>(code - 16);
    };
    const auto high = from_little_endian<std::uint32_t>(block + (has_minimum ? 4 : 2));
    const unsigned char* const codes = block + (has_minimum ? 8 : 6);
    for (int i = 0; i < half; ++i) {
      to[i] = number((codes[i] & 15) | static_cast<int>(high >> i & 1) << 4);
      to[i + half] = number((codes[i] >> 4) | static_cast<int>(high >> (i + half) & 1) << 4);
    }
  } else if constexpr (type == GgufType::Q4_K || type == GgufType::Q5_K) {
    // 8 scales and 8 minima of 6 bits in 12 bytes: the first four of each whole, of the others the upper two bits
    // beside them.
    const unsigned char* const scales = block + 4;
    const bool is_whole = piece < 4;
    const int scale = is_whole ? scales[piece] & 63 : (scales[piece + 4] & 15) | (scales[piece - 4] >> 6) << 4;
    const int minimum = is_whole ? scales[piece + 4] & 63 : scales[piece + 4] >> 4 | (scales[piece] >> 6) << 4;
    const float d = half_at(block) * static_cast<float>(scale), low = half_at(block + 2) * static_cast<float>(minimum);
    const unsigned char* const high = block + 16;  // of Q5_K
    const unsigned char* const codes = block + (type == GgufType::Q4_K ? 16 : 48) + piece / 2 * gguf_piece;
    const int shift = piece % 2 * 4;
    for (int i = 0; i < gguf_piece; ++i) {
      int code = codes[i] >> shift & 15;
      if constexpr (type == GgufType::Q5_K) code |= (high[i] >> piece & 1) << 4;
      to[i] = d * static_cast<float>(code) - low;
    }
  } else {
    static_assert(type == GgufType::Q6_K);
    const int part = piece / 4, quarter = piece % 4;  // of 128 numbers, of 32
    const unsigned char* const low = block + part * 64 + quarter % 2 * gguf_piece;
    const unsigned char* const high = block + 128 + part * gguf_piece;
    const unsigned char* const scales = block + 192 + part * 8 + quarter * 2;
    const float d = half_at(block + 208);
    const int shift = quarter / 2 * 4;
    for (int h = 0; h < 2; ++h) {
      const float step = d * static_cast<float>(static_cast<std::int8_t>(scales[h]));
      for (int i = h * half; i < (h + 1) * half; ++i) {
        to[i] = step * static_cast<float>(((low[i] >> shift & 15) | (high[i] >> 2 * quarter & 3) << 4) - 32);
      }
    }
  }
}

template <GgufType type>
void decode_pieces(const unsigned char* row, Index first, Index count, float* to) {
  const GgufTypeInfo& info = info_of(type);
  for (Index n = first, end = first + count; n < end;) {
    const unsigned char* const block = row + n / info.block * info.bytes;
    const int piece = static_cast<int>(n % info.block / gguf_piece);
    const Index within = n % gguf_piece, some = std::min(gguf_piece - within, end - n);
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
  const auto plain = [&](DType number) {
    const Index bytes = info_of(number).bytes;
    for (Index i = 0; i < count; ++i) to[i] = decode<float>(number, row + (first + i) * bytes);
  };
  switch (type) {
    case GgufType::F32:
      return plain(DType::F32);
    case GgufType::F16:
      return plain(DType::F16);
    case GgufType::BF16:
      return plain(DType::BF16);
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
    const auto code = [&](Index i) { return std::min(15, static_cast<int>(x[i] * inverse + 8.5F)); };
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
  /// @throws std::invalid_argument  on another number of bytes.
  GgufWeight(GgufType type, Index rows, Index cols, std::vector<unsigned char> bytes)
      : type_(type), rows_(rows), cols_(cols), bytes_(std::move(bytes)) {
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
