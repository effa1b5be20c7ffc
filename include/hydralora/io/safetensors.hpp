// SPDX-License-Identifier: MIT
// The safetensors format. Files are not trusted when read, and written atomically.
//
// A file is: the length N of a header, 8 bytes; the header, N bytes of JSON with the name, type, shape and place of
// every tensor; their numbers, without gaps. All little-endian, tensors row-major.
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
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/dtype.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A safetensors file, open for reading. The constructor reads and checks only the header: every tensor lies inside the
/// file and has the size that its type and shape need; there are no gaps or overlaps. All functions throw FileError on
/// a broken file or a tensor that is missing, has another shape or type, or cannot be read.
class SafetensorsFile {
 public:
  /// Memory   at most about 32 times the header, which has at most 16 MiB.
  explicit SafetensorsFile(const std::filesystem::path& path, FileAccess access = FileAccess::buffered)
      : file_(path, access) {
    constexpr std::uint64_t length_bytes = 8;
    if (file_.size() < length_bytes) {
      throw FileError(path, "has " + std::to_string(file_.size()) + " bytes, a safetensors file has at least 8");
    }
    std::array<unsigned char, length_bytes> length;
    file_.read(0, length.data(), length.size());
    const auto header_bytes = detail::from_little_endian<std::uint64_t>(length.data());
    if (header_bytes > std::min(detail::most_header_bytes, file_.size() - length_bytes)) {
      throw FileError(path, "announces a header of " + std::to_string(header_bytes) + " bytes: the file has " +
                                std::to_string(file_.size()) + ", and at most 16 MiB are allowed");
    }
    data_begin_ = length_bytes + header_bytes;
    const std::uint64_t data_bytes = file_.size() - data_begin_;
    detail::SafetensorsHeader header(path, data_bytes);
    {  // the text is released before check_places() allocates
      std::string text(static_cast<std::size_t>(header_bytes), '\0');
      file_.read(length_bytes, text.data(), text.size());
      if (text.empty() || text[0] != '{') throw FileError(path, "header: does not begin with {");
      nlohmann::json::sax_parse(text, &header);  // throws on any error
    }
    tensors_ = std::move(header.tensors);
    metadata_ = std::move(header.metadata);
    check_places(data_bytes);
  }

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }  ///< by name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }
  const TensorEntry& entry(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw FileError(path(), "has no tensor " + in_quotes(name));
    return found->second;
  }
  const TensorEntry& entry(const std::string& name, const std::vector<Index>& shape) const {
    const TensorEntry& found = entry(name);
    if (found.shape != shape) {
      detail::fail_tensor(path(), name, " has shape " + shape_text(found.shape) + ", expected " + shape_text(shape));
    }
    return found;
  }
  /// Reads a floating-point tensor of shape [rows, columns], or [rows] for one column, rounded to the matrix's type.
  /// Further dimensions must be 1, as in 1 × 1 convolutions.
  /// @param matrix       an Eigen matrix or writable view of the tensor's size, OVERWRITTEN.
  /// @param finite_only  refuse a tensor with an infinity or a NaN.
  /// @throws FileError  also if it is not floating-point. The matrix may be changed.
  template <class Matrix>
  void read(const std::string& name, Matrix&& matrix, bool finite_only = true) const {
    using Scalar = typename std::decay_t<Matrix>::Scalar;
    static_assert(std::is_floating_point_v<Scalar>, "hydralora: tensors are read into float or double.");
    const TensorEntry& from = entry(name);
    std::vector<Index> shape = from.shape;
    while (shape.size() > 2 && shape.back() == 1) shape.pop_back();
    while (shape.size() < 2) shape.push_back(1);
    if (shape != std::vector<Index>{matrix.rows(), matrix.cols()}) entry(name, {matrix.rows(), matrix.cols()});
    if (!detail::is_floating(from.type)) {
      detail::fail_tensor(path(), name,
                          std::string(" holds ") + info_of(from.type).name + ", expected F64, F32, F16 or BF16");
    }
    const auto size = static_cast<std::size_t>(info_of(from.type).bytes);
    std::array<unsigned char, 8192> buffer;
    const Index elements = matrix.size(), at_once = static_cast<Index>(buffer.size() / size);
    for (Index first = 0; first < elements; first += at_once) {
      const Index count = std::min(at_once, elements - first);
      file_.read(from.offset + static_cast<std::uint64_t>(first) * size, buffer.data(),
                 static_cast<std::size_t>(count) * size);
      for (Index i = 0; i < count; ++i) {
        const auto value = detail::decode<Scalar>(from.type, buffer.data() + static_cast<std::size_t>(i) * size);
        if (finite_only && !std::isfinite(value)) {
          detail::fail_tensor(path(), name, " holds a number that is not finite at " + std::to_string(first + i));
        }
        matrix((first + i) / matrix.cols(), (first + i) % matrix.cols()) = value;
      }
    }
  }

  /// The bytes of a tensor of any type, as in the file. Also throws if there is no memory: a file can claim any size.
  std::vector<unsigned char> bytes(const std::string& name) const {
    const TensorEntry& from = entry(name);
    std::vector<unsigned char> all;
    try {
      all.resize(static_cast<std::size_t>(from.bytes));
    } catch (const std::exception&) {  // bad_alloc or length_error
      detail::fail_tensor(path(), name, " has " + std::to_string(from.bytes) + " bytes: there is no memory for them");
    }
    file_.read(from.offset, all.data(), all.size());
    return all;
  }

 private:
  void check_places(std::uint64_t data_bytes) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> places;
    places.reserve(tensors_.size());
    for (auto& [name, tensor] : tensors_) {
      // With a dimension of 0 the product is 0; the dimensions before it must still not overflow.
      std::uint64_t needed = static_cast<std::uint64_t>(info_of(tensor.type).bytes);
      for (const Index extent : tensor.shape) {
        const auto factor = static_cast<std::uint64_t>(extent);
        if (factor != 0 && needed > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()) / factor) {
          detail::fail_tensor(path(), name, ": shape " + shape_text(tensor.shape) + " is too large");
        }
        needed *= factor;
      }
      if (needed != tensor.bytes) {
        detail::fail_tensor(path(), name,
                            ": shape " + shape_text(tensor.shape) + " of " + info_of(tensor.type).name + " needs " +
                                std::to_string(needed) + " bytes, data_offsets hold " + std::to_string(tensor.bytes));
      }
      places.emplace_back(tensor.offset, tensor.bytes);
      tensor.offset += data_begin_;
    }
    std::sort(places.begin(), places.end());
    std::uint64_t end = 0;
    for (const auto& [offset, bytes] : places) {
      if (offset != end) {
        throw FileError(path(), "two tensors overlap, or leave a gap, at byte " +
                                    std::to_string(std::min(offset, end)) + " behind the header");
      }
      end += bytes;
    }
    if (end != data_bytes) {
      throw FileError(
          path(), "has " + std::to_string(data_bytes) + " bytes behind the header, its tensors " + std::to_string(end));
    }
  }

  InputFile file_;
  std::uint64_t data_begin_ = 0;
  std::map<std::string, TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

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
    static_assert(std::is_floating_point_v<Scalar>, "hydralora: tensors are written from float or double.");
    const DType stored = type.value_or(sizeof(Scalar) == 4 ? DType::F32 : DType::F64);
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

  /// Adds a tensor of any type from its bytes, little-endian and row-major.
  /// @throws std::invalid_argument  as above, or if the number of bytes does not match type and shape.
  void add_bytes(const std::string& name, DType type, std::vector<Index> shape, std::vector<unsigned char> bytes) {
    expects(name != "__metadata__", "SafetensorsWriter: a tensor cannot be named ", name);
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
  /// The whole file. Wider types come first, so that all numbers are aligned, then by name, as in other writers.
  /// @throws std::invalid_argument  if a name or the metadata is not UTF-8.
  std::string content() const { return content(metadata); }
  /// The same with other text for the header.
  std::string content(const std::map<std::string, std::string>& header_metadata) const {
    std::vector<const std::pair<const std::string, Tensor>*> order;
    for (const auto& one : tensors_) order.push_back(&one);
    std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return info_of(a->second.type).bytes > info_of(b->second.type).bytes;
    });
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!header_metadata.empty()) header["__metadata__"] = header_metadata;
    std::uint64_t end = 0;
    for (const auto* one : order) {
      const Tensor& tensor = one->second;
      header[one->first] = {{"dtype", info_of(tensor.type).name},
                            {"shape", tensor.shape},
                            {"data_offsets", {end, end + tensor.bytes.size()}}};
      end += tensor.bytes.size();
    }
    std::string text;
    try {
      text = header.dump();
    } catch (const nlohmann::json::exception& error) {
      fail("SafetensorsWriter: a name or the metadata is not UTF-8: ", error.what());
    }
    constexpr std::size_t alignment = 8;
    text.resize((text.size() + alignment - 1) / alignment * alignment, ' ');
    expects(text.size() <= detail::most_header_bytes, "SafetensorsWriter: the header has ", text.size(),
            " bytes, more than 16 MiB");
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
  struct Tensor {
    DType type;
    std::vector<Index> shape;
    std::vector<unsigned char> bytes;
  };

  std::map<std::string, Tensor> tensors_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
