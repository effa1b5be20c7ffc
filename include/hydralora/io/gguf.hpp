// SPDX-License-Identifier: MIT
// The GGUF format of llama.cpp. Files are not trusted. The writer is in gguf_writer.hpp.
//
// A file is: "GGUF", a version, the numbers of tensors and of metadata; keys with typed values; the name, shape, type
// and place of every tensor; padding; their numbers. All little-endian. Source: ggml/docs/gguf.md.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/dtype.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/gguf_blocks.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A tensor of a GGUF. `shape` is that of a row-major array: the file's numbers in the reverse order.
struct GgufEntry {
  GgufType type;
  std::vector<Index> shape;
  std::uint64_t offset, bytes;  ///< in the file

  Index columns() const { return shape.empty() ? 1 : shape.back(); }
  Index rows() const {
    Index product = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
    return product;
  }
};

namespace detail {

inline constexpr std::uint32_t gguf_alignment = 32;  // where general.alignment is missing

/// Reads a file's header from its start, in pieces of 64 KiB.
class GgufCursor {
 public:
  explicit GgufCursor(const InputFile& file) : file_(file) {}

  std::uint64_t place() const { return place_; }
  std::uint64_t left() const { return file_.size() - place_; }
  void read(void* to, std::size_t count) {
    auto* bytes = static_cast<unsigned char*>(to);
    while (count > 0) {
      if (place_ < begin_ || place_ >= begin_ + buffer_.size()) refill();
      const auto from = static_cast<std::size_t>(place_ - begin_), some = (std::min)(count, buffer_.size() - from);
      std::copy_n(buffer_.data() + from, some, bytes);
      bytes += some, count -= some, place_ += some;
    }
  }
  template <class Unsigned>
  Unsigned number() {
    std::array<unsigned char, sizeof(Unsigned)> bytes;
    read(bytes.data(), bytes.size());
    return from_little_endian<Unsigned>(bytes.data());
  }
  /// A number of things of at least so many bytes each: not more than the file can hold.
  std::size_t count(const char* what, std::uint64_t least_bytes) {
    const auto value = number<std::uint64_t>();
    if (value > left() / least_bytes) {
      throw FileError(file_.path(), "announces " + std::to_string(value) + " " + what + " at byte " +
                                        std::to_string(place_ - 8) + ", and has " + std::to_string(left()) +
                                        " bytes more");
    }
    return static_cast<std::size_t>(value);
  }
  std::string text() {
    std::string all(count("bytes of text", 1), '\0');
    read(all.data(), all.size());
    return all;
  }

 private:
  void refill() {
    constexpr std::uint64_t most = 65536;
    if (left() == 0) throw FileError(file_.path(), "ends in its header, at byte " + std::to_string(place_));
    buffer_.resize(static_cast<std::size_t>((std::min)(most, left())));
    begin_ = place_;
    file_.read(begin_, buffer_.data(), buffer_.size());
  }

  const InputFile& file_;
  std::vector<unsigned char> buffer_;
  std::uint64_t place_ = 0, begin_ = 0;
};

// The types of metadata, as in the file.
enum class GgufKind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

inline std::uint64_t least_bytes_of(GgufKind kind) {
  constexpr std::uint64_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return bytes[static_cast<std::size_t>(kind)];
}

inline GgufKind read_gguf_kind(GgufCursor& from, const std::filesystem::path& path, const std::string& key) {
  const auto kind = from.number<std::uint32_t>();
  if (kind > static_cast<std::uint32_t>(GgufKind::f64)) {
    throw FileError(path, in_quotes(key) + " has a value of type " + std::to_string(kind) + ", known are 0 to 12");
  }
  return static_cast<GgufKind>(kind);
}

inline nlohmann::json read_gguf_value(GgufCursor& from, const std::filesystem::path& path, const std::string& key,
                                      GgufKind kind) {
  switch (kind) {
    case GgufKind::u8:
      return from.number<std::uint8_t>();
    case GgufKind::i8:
      return bits_as<std::int8_t>(from.number<std::uint8_t>());
    case GgufKind::u16:
      return from.number<std::uint16_t>();
    case GgufKind::i16:
      return bits_as<std::int16_t>(from.number<std::uint16_t>());
    case GgufKind::u32:
      return from.number<std::uint32_t>();
    case GgufKind::i32:
      return bits_as<std::int32_t>(from.number<std::uint32_t>());
    case GgufKind::f32:
      return bits_as<float>(from.number<std::uint32_t>());
    case GgufKind::boolean:
      return from.number<std::uint8_t>() != 0;
    case GgufKind::text:
      return from.text();
    case GgufKind::u64:
      return from.number<std::uint64_t>();
    case GgufKind::i64:
      return bits_as<std::int64_t>(from.number<std::uint64_t>());
    case GgufKind::f64:
      return bits_as<double>(from.number<std::uint64_t>());
    case GgufKind::array:
      break;
  }
  const GgufKind element = read_gguf_kind(from, path, key);
  if (element == GgufKind::array) throw FileError(path, in_quotes(key) + " is an array of arrays, supported are lists");
  nlohmann::json list = nlohmann::json::array();
  const std::size_t size = from.count("elements", least_bytes_of(element));
  for (std::size_t i = 0; i < size; ++i) list.push_back(read_gguf_value(from, path, key, element));
  return list;
}

}  // namespace detail

/// A GGUF file, open for reading. The constructor reads and checks the header: every tensor lies inside the file, has
/// whole blocks in its rows, and overlaps no other. All functions throw FileError on a broken file, or a tensor that is
/// missing or has another shape.
class GgufFile {
 public:
  /// Versions 2 and 3. Memory: at most about 32 times the header.
  explicit GgufFile(const std::filesystem::path& path) : file_(path) {
    detail::GgufCursor from(file_);
    std::array<char, 4> magic{};
    if (file_.size() >= magic.size()) from.read(magic.data(), magic.size());
    if (magic != std::array<char, 4>{'G', 'G', 'U', 'F'})
      throw FileError(path, "is not a GGUF: it does not begin with GGUF");
    const auto version = from.number<std::uint32_t>();
    if (version != 2 && version != 3) {
      throw FileError(path, "is GGUF version " + std::to_string(version) + ", supported are 2 and 3, little-endian");
    }
    constexpr std::uint64_t least_tensor = 24, least_pair = 13;
    const std::size_t tensors = from.count("tensors", least_tensor), pairs = from.count("keys", least_pair);
    for (std::size_t i = 0; i < pairs; ++i) {
      const std::string key = from.text();
      const detail::GgufKind kind = detail::read_gguf_kind(from, path, key);
      if (metadata_.contains(key)) throw FileError(path, "has the key " + in_quotes(key) + " twice");
      metadata_[key] = detail::read_gguf_value(from, path, key, kind);
    }
    for (std::size_t i = 0; i < tensors; ++i) read_entry(from);
    place_tensors(from.place());
  }

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, GgufEntry>& tensors() const { return tensors_; }  ///< by name
  const nlohmann::json& metadata() const { return metadata_; }                  ///< an object
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }
  const GgufEntry& entry(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw FileError(path(), "has no tensor " + in_quotes(name));
    return found->second;
  }
  const GgufEntry& entry(const std::string& name, const std::vector<Index>& shape) const {
    const GgufEntry& found = entry(name);
    if (found.shape != shape) {
      detail::fail_tensor(path(), name, " has shape " + shape_text(found.shape) + ", expected " + shape_text(shape));
    }
    return found;
  }
  /// A tensor's rows [first, first + count), as in the file.
  std::vector<unsigned char> bytes(const std::string& name, Index first, Index count) const {
    const GgufEntry& from = entry(name);
    const Index row = info_of(from.type).row_bytes(from.columns());
    std::vector<unsigned char> all;
    try {
      all.resize(static_cast<std::size_t>(row * count));
    } catch (const std::exception&) {  // bad_alloc or length_error
      detail::fail_tensor(path(), name, " has " + std::to_string(from.bytes) + " bytes: there is no memory for them");
    }
    file_.read(from.offset + static_cast<std::uint64_t>(row * first), all.data(), all.size());
    return all;
  }
  std::vector<unsigned char> bytes(const std::string& name) const { return bytes(name, 0, entry(name).rows()); }
  /// Calls f(first number, numbers, their count) for a tensor's numbers, decoded, row by row.
  template <class Function>
  void for_each_row(const std::string& name, Function&& f) const {
    const GgufEntry& from = entry(name);
    std::vector<float> row(static_cast<std::size_t>(from.columns()));
    for (Index i = 0; i < from.rows(); ++i) {
      detail::decode_blocks(from.type, bytes(name, i, 1).data(), 0, from.columns(), row.data());
      f(i, row);
    }
  }

 private:
  void read_entry(detail::GgufCursor& from) {
    const std::string name = from.text();
    const auto fail = [&](const std::string& reason) { detail::fail_tensor(path(), name, reason); };
    GgufEntry entry{};
    const auto dimensions = from.number<std::uint32_t>();
    if (dimensions > 4) fail(" has " + std::to_string(dimensions) + " dimensions, more than 4");
    std::uint64_t numbers = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto extent = from.number<std::uint64_t>();
      constexpr auto most = static_cast<std::uint64_t>((std::numeric_limits<Index>::max)()) / 8;
      if (extent == 0 || numbers > most / extent) fail(extent == 0 ? " has no numbers" : ": its shape is too large");
      numbers *= extent;
      entry.shape.insert(entry.shape.begin(), static_cast<Index>(extent));
    }
    entry.type = static_cast<GgufType>(from.number<std::uint32_t>());
    const GgufTypeInfo& info = info_of(entry.type);
    if (!info.supported()) fail(" is of type " + info.text(entry.type) + ", supported are " + gguf_type_names());
    if (entry.columns() % info.block != 0) {
      fail(": rows of " + std::to_string(entry.columns()) + " numbers are no whole blocks of " + info.name);
    }
    entry.bytes = numbers / static_cast<std::uint64_t>(info.block) * static_cast<std::uint64_t>(info.bytes);
    entry.offset = from.number<std::uint64_t>();
    if (!tensors_.emplace(name, std::move(entry)).second) fail(" is in the file twice");
  }

  void place_tensors(std::uint64_t header_end) {
    const nlohmann::json alignment = metadata_.value("general.alignment", nlohmann::json(detail::gguf_alignment));
    const bool is_number = alignment.is_number_unsigned() && alignment > 0 && alignment <= 65536;
    const bool is_valid = is_number && alignment.get<int>() % 8 == 0;
    if (!is_valid)
      throw FileError(path(), "\"general.alignment\" is " + alignment.dump() + ", expected a multiple of 8");
    const auto step = alignment.get<std::uint64_t>(), begin = (header_end + step - 1) / step * step;
    std::vector<std::pair<std::uint64_t, const std::pair<const std::string, GgufEntry>*>> places;
    for (auto& one : tensors_) {
      GgufEntry& entry = one.second;
      const std::uint64_t end = file_.size();
      if (entry.offset % step != 0)
        detail::fail_tensor(path(), one.first, " does not begin at a multiple of " + std::to_string(step));
      if (begin > end || entry.offset > end - begin || entry.bytes > end - begin - entry.offset) {
        detail::fail_tensor(path(), one.first,
                            " needs " + std::to_string(entry.bytes) + " bytes at " + std::to_string(entry.offset) +
                                " behind the header, the file has " + std::to_string(end - (std::min)(begin, end)) +
                                " there");
      }
      entry.offset += begin;
      if (entry.bytes > 0) places.emplace_back(entry.offset, &one);
    }
    std::sort(places.begin(), places.end());
    for (std::size_t i = 1; i < places.size(); ++i) {
      const auto& [offset, before] = places[i - 1];
      if (offset + before->second.bytes > places[i].first) {
        detail::fail_tensor(path(), places[i].second->first, " overlaps " + in_quotes(before->first));
      }
    }
  }

  InputFile file_;
  nlohmann::json metadata_ = nlohmann::json::object();
  std::map<std::string, GgufEntry> tensors_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
