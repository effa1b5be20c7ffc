// SPDX-License-Identifier: MIT
// Writes safetensors files (safetensors.hpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/io/dtype.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Collects tensors and saves them as one file:
///
///   SafetensorsWriter file;
///   file.add("A", layer.A());
///   file.save("adapter.safetensors");
class SafetensorsWriter {
 public:
  std::map<std::string, std::string> metadata;  ///< text for the header

  /// Copies the matrix to a tensor [rows, columns], or [rows] with as_vector, rounded to `type` (default: its own).
  /// @throws std::invalid_argument  a name that was added before or is "__metadata__"; a type that is not
  ///                                floating-point, or too small for a number.
  template <class Derived>
  void add(const std::string& name, const Eigen::MatrixBase<Derived>& matrix, std::optional<DType> type = {},
           bool as_vector = false) {
    using Scalar = typename Derived::Scalar;
    if constexpr (is_narrow<Scalar>) {
      constexpr DType own = std::is_same_v<Scalar, Eigen::bfloat16> ? DType::BF16 : DType::F16;
      return add(name, matrix.template cast<float>(), type.value_or(own), as_vector);
    } else {
      add_floats(name, matrix, type.value_or(sizeof(Scalar) == 4 ? DType::F32 : DType::F64), as_vector);
    }
  }

  /// Adds a tensor of any type but DType::other from its bytes, little-endian and row-major.
  /// @throws std::invalid_argument  as above, or if the number of bytes does not match type and shape.
  void add_bytes(const std::string& name, DType type, std::vector<Index> shape, std::vector<unsigned char> bytes) {
    expects(name != "__metadata__", "SafetensorsWriter: a tensor cannot be named ", name);
    expects(type != DType::other, "SafetensorsWriter: ", in_quotes(name), " has a type that is not supported");
    Index needed = info_of(type).bytes;
    for (const Index extent : shape) {
      expects(extent >= 0, "SafetensorsWriter: ", in_quotes(name), " has shape ", shape_text(shape));
      needed = checked_product(needed, extent, "SafetensorsWriter");
    }
    expects(shape.size() <= detail::most_dimensions, "SafetensorsWriter: ", in_quotes(name), " has ", shape.size(),
            " dimensions, more than ", detail::most_dimensions);
    expects(needed == static_cast<Index>(bytes.size()), "SafetensorsWriter: ", in_quotes(name), " has ", bytes.size(),
            " bytes, ", info_of(type).name, ' ', shape_text(shape), " needs ", needed);
    const bool is_new = tensors_.try_emplace(name, Tensor{type, std::move(shape), std::move(bytes)}).second;
    expects(is_new, "SafetensorsWriter: ", in_quotes(name), " was added before");
  }
  /// Takes all tensors of another. @throws std::invalid_argument  a name that was added before; nothing is then taken.
  void merge(SafetensorsWriter&& other) {
    for (const auto& [name, tensor] : other.tensors_) {
      expects(tensors_.count(name) == 0, "SafetensorsWriter: ", in_quotes(name), " was added before");
    }
    tensors_.merge(other.tensors_);
  }
  /// The whole file. Wider types come first, so that all numbers are aligned, then by name, as in other writers.
  /// @throws std::invalid_argument  if a name or the metadata is not UTF-8.
  std::string content() const { return content(metadata); }
  /// The same with another text for the header.
  std::string content(const std::map<std::string, std::string>& header_metadata) const {
    std::vector<const std::pair<const std::string, Tensor>*> order;
    for (const auto& one : tensors_) order.push_back(&one);
    std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return info_of(a->second.type).bytes > info_of(b->second.type).bytes;
    });
    // Piece by piece: an ordered JSON object looks for a key among all others.
    std::string text;
    const auto add = [&](const std::string& name, const std::string& value) {
      text += text.empty() ? '{' : ',';
      text += escaped(name) + ':' + value;
    };
    if (!header_metadata.empty()) add("__metadata__", escaped(header_metadata));
    std::uint64_t end = 0;
    for (const auto* one : order) {
      const Tensor& tensor = one->second;
      const std::uint64_t begin = end;
      end += tensor.bytes.size();
      add(one->first, std::string(R"({"dtype":")") + info_of(tensor.type).name + R"(","shape":)" +
                          nlohmann::json(tensor.shape).dump() + R"(,"data_offsets":[)" + std::to_string(begin) + ',' +
                          std::to_string(end) + "]}");
    }
    text += text.empty() ? "{}" : "}";
    constexpr std::size_t alignment = 8;
    text.resize((text.size() + alignment - 1) / alignment * alignment, ' ');
    expects(text.size() <= detail::most_header_bytes, "SafetensorsWriter: the header has ", text.size(),
            " bytes, more than ", detail::most_header_bytes);
    std::string all(alignment, '\0');
    detail::to_little_endian<std::uint64_t>(text.size(), reinterpret_cast<unsigned char*>(all.data()));
    all.reserve(all.size() + text.size() + end);
    all += text;
    for (const auto* one : order) all.append(one->second.bytes.begin(), one->second.bytes.end());
    return all;
  }

  /// @throws FileError  if it cannot be written; the old file is then unchanged (write_file_atomically()).
  void save(const std::filesystem::path& path) const {
    const std::string all = content();
    write_file_atomically(path, all.data(), all.size());
  }

 private:
  template <class Derived>
  void add_floats(const std::string& name, const Eigen::MatrixBase<Derived>& matrix, DType stored, bool as_vector) {
    using Scalar = typename Derived::Scalar;
    static_assert(std::is_floating_point_v<Scalar>, "hydralora: tensors are written from floating-point numbers.");
    expects(detail::is_floating(stored), "SafetensorsWriter: ", in_quotes(name), " as ", info_of(stored).name,
            ", expected F64, F32, F16 or BF16");
    expects(!as_vector || matrix.cols() == 1, "SafetensorsWriter: ", in_quotes(name), " has ", matrix.cols(),
            " columns, a vector has 1");
    const auto size = static_cast<std::size_t>(info_of(stored).bytes);
    std::vector<unsigned char> bytes(static_cast<std::size_t>(matrix.size()) * size);
    unsigned char* to = bytes.data();
    for (Index i = 0; i < matrix.rows(); ++i) {
      for (Index j = 0; j < matrix.cols(); ++j, to += size) {
        detail::encode(stored, matrix(i, j), to);
        if (std::isfinite(matrix(i, j)) && !std::isfinite(detail::decode<Scalar>(stored, to))) {
          fail("SafetensorsWriter: ", in_quotes(name), " has ", matrix(i, j), ", too large for ", info_of(stored).name);
        }
      }
    }
    add_bytes(name, stored,
              as_vector ? std::vector<Index>{matrix.rows()} : std::vector<Index>{matrix.rows(), matrix.cols()},
              std::move(bytes));
  }

  struct Tensor {
    DType type;
    std::vector<Index> shape;
    std::vector<unsigned char> bytes;
  };

  static std::string escaped(const nlohmann::json& value) {
    try {
      return value.dump();
    } catch (const nlohmann::json::exception& error) {
      fail("SafetensorsWriter: a name or the metadata is not UTF-8: ", error.what());
    }
  }

  std::map<std::string, Tensor> tensors_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
