// SPDX-License-Identifier: MIT
// Writes GGUF files, version 3, atomically.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/gguf.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Collects metadata and tensors, and saves them as one GGUF, version 3.
class GgufWriter {
 public:
  /// An object. Texts, true and false stay what they are; whole numbers become u32 or i32, others f32; a list has the
  /// type of its first element.
  nlohmann::ordered_json metadata = nlohmann::ordered_json::object();

  /// Rounds a matrix to `type`: F32, F16, BF16, Q8_0 or Q4_0, row by row. A vector with as_vector.
  /// @throws std::invalid_argument  a name that was added before; rows of no whole blocks; a number that is not finite,
  ///                                or too large for the type.
  template <class Derived>
  void add(const std::string& name, const Eigen::MatrixBase<Derived>& matrix, GgufType type, bool as_vector = false) {
    const GgufTypeInfo& info = info_of(type);
    const Index columns = as_vector ? matrix.rows() : matrix.cols(), rows = as_vector ? 1 : matrix.rows();
    expects(columns % info.block == 0, "GgufWriter: ", in_quotes(name), " has rows of ", columns,
            " numbers, no whole blocks of ", info.name);
    std::vector<unsigned char> bytes(static_cast<std::size_t>(rows * info.row_bytes(columns)));
    std::vector<float> row(static_cast<std::size_t>(columns)), back(row.size());
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < columns; ++j) {
        row[static_cast<std::size_t>(j)] = static_cast<float>(as_vector ? matrix(j, 0) : matrix(i, j));
      }
      const auto is_finite = [](const std::vector<float>& numbers) {
        return std::all_of(numbers.begin(), numbers.end(), [](float x) { return std::isfinite(x); });
      };
      unsigned char* const to = bytes.data() + i * info.row_bytes(columns);
      if (is_finite(row)) detail::encode_blocks(type, row.data(), columns, to);
      detail::decode_blocks(type, to, 0, columns, back.data());
      expects(is_finite(row) && is_finite(back), "GgufWriter: ", in_quotes(name),
              " has a number that is not finite, or too large for ", info.name);
    }
    add_bytes(name, type, as_vector ? std::vector<Index>{columns} : std::vector<Index>{rows, columns},
              std::move(bytes));
  }
  /// @param shape  row-major.
  void add_bytes(const std::string& name, GgufType type, std::vector<Index> shape, std::vector<unsigned char> bytes) {
    for (const Tensor& tensor : tensors_)
      expects(tensor.name != name, "GgufWriter: ", in_quotes(name), " was added before");
    tensors_.push_back({name, type, std::move(shape), std::move(bytes)});
  }

  std::string content() const {
    std::string all = "GGUF";
    const auto number = [&](auto value) {
      unsigned char bytes[sizeof(value)];
      detail::to_little_endian(value, bytes);
      all.append(reinterpret_cast<const char*>(bytes), sizeof(value));
    };
    const auto text = [&](const std::string& value) {
      number(static_cast<std::uint64_t>(value.size()));
      all += value;
    };
    constexpr std::uint32_t version = 3;
    number(version);
    number(static_cast<std::uint64_t>(tensors_.size()));
    number(static_cast<std::uint64_t>(metadata.size()));
    for (const auto& [key, value] : metadata.items()) {
      text(key);
      const bool is_list = value.is_array();
      const detail::GgufKind kind = kind_of(key, is_list && !value.empty() ? value[0] : value);
      if (is_list) number(static_cast<std::uint32_t>(detail::GgufKind::array));
      number(static_cast<std::uint32_t>(kind));
      if (is_list) number(static_cast<std::uint64_t>(value.size()));
      const nlohmann::ordered_json list = is_list ? value : nlohmann::ordered_json::array({value});
      for (const auto& one : list) {
        expects(kind_of(key, one) == kind, "GgufWriter: ", in_quotes(key), " is a list of several types");
        if (kind == detail::GgufKind::text) text(one.template get_ref<const std::string&>());
        if (kind == detail::GgufKind::boolean) number(static_cast<std::uint8_t>(one.template get<bool>()));
        if (kind == detail::GgufKind::u32) number(one.template get<std::uint32_t>());
        if (kind == detail::GgufKind::i32) number(detail::bits_as<std::uint32_t>(one.template get<std::int32_t>()));
        if (kind == detail::GgufKind::f32) number(detail::bits_as<std::uint32_t>(one.template get<float>()));
      }
    }
    const auto padded = [](std::uint64_t bytes) {
      return (bytes + detail::gguf_alignment - 1) / detail::gguf_alignment * detail::gguf_alignment;
    };
    std::uint64_t offset = 0;
    for (const Tensor& tensor : tensors_) {
      text(tensor.name);
      number(static_cast<std::uint32_t>(tensor.shape.size()));
      for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
        number(static_cast<std::uint64_t>(*extent));
      number(static_cast<std::uint32_t>(tensor.type));
      number(offset);
      offset += padded(tensor.bytes.size());
    }
    for (const Tensor& tensor : tensors_) {
      all.resize(static_cast<std::size_t>(padded(all.size())));
      all.append(tensor.bytes.begin(), tensor.bytes.end());
    }
    all.resize(static_cast<std::size_t>(padded(all.size())));
    return all;
  }
  /// @throws FileError  if it cannot be written; the old file is then unchanged (write_file_atomically()).
  void save(const std::filesystem::path& path) const {
    const std::string all = content();
    write_file_atomically(path, all.data(), all.size());
  }

 private:
  struct Tensor {
    std::string name;
    GgufType type;
    std::vector<Index> shape;
    std::vector<unsigned char> bytes;
  };

  static detail::GgufKind kind_of(const std::string& key, const nlohmann::ordered_json& value) {
    using detail::GgufKind;
    if (value.is_string()) return GgufKind::text;
    if (value.is_boolean()) return GgufKind::boolean;
    if (value.is_number_unsigned() && value.get<std::uint64_t>() <= (std::numeric_limits<std::uint32_t>::max)())
      return GgufKind::u32;
    if (value.is_number_integer() && value >= (std::numeric_limits<std::int32_t>::min)() &&
        value <= (std::numeric_limits<std::int32_t>::max)())
      return GgufKind::i32;
    if (value.is_number_float()) return GgufKind::f32;
    fail("GgufWriter: ", in_quotes(key), " is ", value.dump().substr(0, 100), ", which has no type in a GGUF");
  }

  std::vector<Tensor> tensors_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
