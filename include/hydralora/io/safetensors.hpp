// SPDX-License-Identifier: MIT
// The safetensors format. Files are not trusted when read, and written atomically.
//
// A file is: the length N of a header, 8 bytes; the header, N bytes of JSON with the name, type, shape and place of
// every tensor; their numbers, without gaps. All little-endian, tensors row-major.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/io/dtype.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/safetensors_header.hpp"
#include "hydralora/io/safetensors_writer.hpp"
#include "hydralora/io/tensor_numbers.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A safetensors file, open for reading. The constructor reads and checks only the header: every tensor lies inside the
/// file and has the size that its type and shape need; there are no gaps or overlaps. Of a type that the library does
/// not know (DType::other) the size is not checked, and only bytes() reads it. All functions throw FileError on a
/// broken file or a tensor that is missing, has another shape or type, or cannot be read.
class SafetensorsFile {
 public:
  /// Memory   about 4 times the header, at most 32 times; a header has at most 100 MB.
  explicit SafetensorsFile(const std::filesystem::path& path, FileAccess access = FileAccess::buffered)
      : file_(path, access) {
    constexpr std::uint64_t length_bytes = 8;
    const std::string lfs = "version https://git-lfs";
    std::string begin(static_cast<std::size_t>(std::min<std::uint64_t>(lfs.size(), file_.size())), '\0');
    file_.read(0, begin.data(), begin.size());
    if (begin == lfs) {
      throw FileError(path, "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`");
    }
    if (begin.size() < length_bytes) {
      throw FileError(path, "has " + std::to_string(begin.size()) + " bytes, a safetensors file has at least 8");
    }
    const auto header_bytes =
        detail::from_little_endian<std::uint64_t>(reinterpret_cast<const unsigned char*>(begin.data()));
    const std::uint64_t behind = file_.size() - length_bytes;
    if (header_bytes > (std::min)(detail::most_header_bytes, behind)) {
      throw FileError(path, "announces a header of " + std::to_string(header_bytes) + " bytes, expected at most " +
                                (behind < detail::most_header_bytes
                                     ? std::to_string(behind) + ", which the file has behind this number"
                                     : std::to_string(detail::most_header_bytes)));
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
  /// Reads a floating-point tensor of shape [rows, columns], [rows] for one column, or [] for one number, rounded to
  /// the matrix's type. Further dimensions must be 1, as in 1 × 1 convolutions.
  /// @param matrix       an Eigen matrix or writable view of the tensor's size, OVERWRITTEN.
  /// @param finite_only  refuse a tensor with an infinity or a NaN.
  /// @throws FileError  also if it is not floating-point. The matrix may be changed.
  /// Memory   at most 0.6 MB a thread beside the matrix.
  /// Threads  as parallel_for() has them, for more than 125,000 numbers.
  template <class Matrix>
  void read(const std::string& name, Matrix&& matrix, bool finite_only = true) const {
    using Scalar = typename std::decay_t<Matrix>::Scalar;
    static_assert(std::is_floating_point_v<Scalar> || is_narrow<Scalar>,
                  "hydralora: tensors are read into floating-point numbers.");
    const TensorEntry& from = entry(name);
    const bool is_vector = from.shape.size() == 1 && matrix.cols() == 1;
    const bool is_number = from.shape.empty() && matrix.size() == 1;
    if (is_vector) entry(name, {matrix.rows()});
    if (!is_vector && !is_number &&
        detail::matrix_shape(from.shape) != std::vector<Index>{matrix.rows(), matrix.cols()})
      entry(name, {matrix.rows(), matrix.cols()});
    if (!detail::is_floating(from.type)) {
      detail::fail_tensor(path(), name, " holds " + from.type_name() + ", expected F64, F32, F16 or BF16");
    }
    const detail::TensorPlace place{from.type, from.offset, matrix.rows(), matrix.cols()};
    const Index wrong = detail::read_numbers(file_, place, matrix, finite_only);
    if (wrong >= 0) {
      detail::fail_tensor(path(), name, " holds a number that is not finite at " + std::to_string(wrong));
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
      const bool is_other = tensor.type == DType::other;
      std::uint64_t needed = is_other ? 1 : static_cast<std::uint64_t>(info_of(tensor.type).bytes);
      for (const Index extent : tensor.shape) {
        const auto factor = static_cast<std::uint64_t>(extent);
        if (factor != 0 && needed > static_cast<std::uint64_t>((std::numeric_limits<Index>::max)()) / factor) {
          detail::fail_tensor(path(), name, ": shape " + shape_text(tensor.shape) + " is too large");
        }
        needed *= factor;
      }
      if (needed != tensor.bytes && !is_other) {
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
                                    std::to_string((std::min)(offset, end)) + " behind the header");
      }
      end += bytes;
    }
    if (end != data_bytes) {
      throw FileError(path(), "has " + std::to_string(file_.size()) + " bytes, its header and tensors need " +
                                  std::to_string(data_begin_ + end));
    }
  }

  InputFile file_;
  std::uint64_t data_begin_ = 0;
  std::map<std::string, TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
