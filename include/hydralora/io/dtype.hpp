// SPDX-License-Identifier: MIT
// The number types of adapter files. Files are little-endian on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The type of a tensor's numbers, named as in the file. `other` are those that this library does not know the size of,
/// such as F4 and C64; TensorEntry::type_name() has their name.
enum class DType { BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, BF16, I32, U32, F32, I64, U64, F64, other };

struct DTypeInfo {
  const char* name;  ///< as in the file
  Index bytes;       ///< of one number; 0 of `other`
};
inline const DTypeInfo& info_of(DType type) {
  static constexpr DTypeInfo table[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8}, {"another type", 0}};
  return table[static_cast<std::size_t>(type)];
}

namespace detail {

template <class Unsigned>
Unsigned from_little_endian(const unsigned char* bytes) {
  Unsigned value = 0;
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
    value = static_cast<Unsigned>(value | static_cast<Unsigned>(static_cast<Unsigned>(bytes[i]) << (8 * i)));
  }
  return value;
}
/// Whether this machine is little-endian. Compilers know it: neither branch of a condition on it remains.
inline bool is_little_endian() {
  const std::uint16_t one = 1;
  unsigned char first = 0;
  std::memcpy(&first, &one, 1);
  return first == 1;
}
/// A little-endian number that was copied from a file as it is there.
template <class Unsigned>
Unsigned in_order_of_memory(Unsigned copied) {
  if (is_little_endian()) return copied;
  unsigned char bytes[sizeof(Unsigned)];
  std::memcpy(bytes, &copied, sizeof(bytes));
  return from_little_endian<Unsigned>(bytes);
}
template <class Unsigned>
void to_little_endian(Unsigned value, unsigned char* bytes) {
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
    bytes[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(value) >> (8 * i));
  }
}
template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(static_cast<void*>(&to), &from, sizeof(to));
  return to;
}

inline bool is_floating(DType type) {
  return type == DType::F16 || type == DType::BF16 || type == DType::F32 || type == DType::F64;
}

/// @param type  F16, BF16, F32 or F64, also in encode().
template <class Scalar>
Scalar decode(DType type, const unsigned char* bytes) {
  if (type == DType::F32) return static_cast<Scalar>(bits_as<float>(from_little_endian<std::uint32_t>(bytes)));
  if (type == DType::F64) return static_cast<Scalar>(bits_as<double>(from_little_endian<std::uint64_t>(bytes)));
  const auto bits = from_little_endian<std::uint16_t>(bytes);
  return static_cast<Scalar>(type == DType::F16 ? static_cast<float>(bits_as<Eigen::half>(bits))
                                                : static_cast<float>(bits_as<Eigen::bfloat16>(bits)));
}
/// Rounds to nearest, ties to even. From double to 16 bits it rounds twice, by way of float.
template <class Scalar>
void encode(DType type, Scalar value, unsigned char* bytes) {
  if (type == DType::F64) return to_little_endian(bits_as<std::uint64_t>(static_cast<double>(value)), bytes);
  const auto single = static_cast<float>(value);
  if (type == DType::F32) return to_little_endian(bits_as<std::uint32_t>(single), bytes);
  to_little_endian(type == DType::F16 ? bits_as<std::uint16_t>(Eigen::half(single))
                                      : bits_as<std::uint16_t>(Eigen::bfloat16(single)),
                   bytes);
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
