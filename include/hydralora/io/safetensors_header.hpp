// SPDX-License-Identifier: MIT
// The header of a safetensors file: JSON with the type, shape and place of every tensor. It is not trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "hydralora/io/dtype.hpp"
#include "hydralora/io/file.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Text from a file for a message: shortened, printable.
inline std::string printable(const std::string& text) {
  constexpr std::size_t most = 120;
  std::string result;
  for (const char c : text.substr(0, most)) {
    result += static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f ? '?' : c;
  }
  return result + (text.size() > most ? "..." : "");
}
/// The same in quotes.
inline std::string in_quotes(const std::string& text) { return "'" + printable(text) + "'"; }

/// A tensor's description in the header, checked against the file.
struct TensorEntry {
  DType type = DType::F32;
  std::vector<Index> shape;  ///< row-major: the last index runs fastest
  std::uint64_t offset = 0;  ///< of its first byte, from the start of the file
  std::uint64_t bytes = 0;
  std::shared_ptr<const std::string> other_type;  ///< as in the file, of DType::other only

  Index elements() const {
    Index product = 1;  // does not overflow: the file was checked
    for (const Index extent : shape) product *= extent;
    return product;
  }
  /// For messages: the type as in the file.
  std::string type_name() const { return other_type ? printable(*other_type) : info_of(type).name; }
};

/// For messages: [4, 7].
inline std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

namespace detail {

/// A shape without the trailing ones of a 1 × 1 convolution.
inline std::vector<Index> matrix_shape(std::vector<Index> shape) {
  while (shape.size() > 2 && shape.back() == 1) shape.pop_back();
  return shape;
}

[[noreturn]] inline void fail_tensor(const std::filesystem::path& path, const std::string& name,
                                     const std::string& reason) {
  throw FileError(path, "tensor " + in_quotes(name) + reason);
}

constexpr std::uint64_t most_header_bytes = 100'000'000;  // as in the reference implementation
constexpr std::size_t most_dimensions = 8;

/// Parses the header event by event, so that only a valid header takes memory. Other events throw.
class SafetensorsHeader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader(const std::filesystem::path& path, std::uint64_t data_bytes)
      : path_(path), data_bytes_(data_bytes) {}

  std::map<std::string, TensorEntry> tensors;  // offsets relative to the data until checked
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (place_ == Place::start) return enter(Place::file);
    if (place_ == Place::entry) return enter(is_metadata_ ? Place::metadata : Place::tensor);
    refuse("an object where none is allowed");
  }
  bool key(string_t& text) override {
    if (place_ == Place::file) {
      is_metadata_ = text == "__metadata__";
      if (is_metadata_ ? has_metadata_ : tensors.count(text) > 0) refuse(in_quotes(text) + " appears twice");
      has_metadata_ = has_metadata_ || is_metadata_;
      if (!is_metadata_) {
        current_ = &tensors[text];
        name_ = text;
        has_type_ = has_shape_ = has_offsets_ = false;
      }
      return enter(Place::entry);
    }
    if (place_ == Place::metadata) {
      const auto [found, is_new] = metadata.try_emplace(text);
      if (!is_new) refuse("__metadata__: " + in_quotes(text) + " appears twice");
      metadata_value_ = &found->second;
      name_ = text;
      return enter(Place::text);
    }
    for (const auto& [field, place, seen] :
         {std::tuple{"dtype", Place::type, &has_type_}, std::tuple{"shape", Place::shape_key, &has_shape_},
          std::tuple{"data_offsets", Place::offsets_key, &has_offsets_}}) {
      if (text != field) continue;
      if (*seen) refuse_tensor(in_quotes(text) + " appears twice");
      *seen = true;
      return enter(place);
    }
    refuse_tensor("has the unknown field " + in_quotes(text) + ", expected dtype, shape and data_offsets");
  }
  bool end_object() override {
    if (place_ == Place::file) return enter(Place::end);
    if (place_ == Place::tensor && !(has_type_ && has_shape_ && has_offsets_)) {
      refuse_tensor("lacks its dtype, shape or data_offsets");
    }
    return enter(Place::file);
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::shape_key) return enter(Place::shape);
    if (place_ == Place::offsets_key) return offsets_.clear(), enter(Place::offsets);
    refuse("an array where none is allowed");
  }
  bool end_array() override {
    if (place_ == Place::offsets) {
      if (offsets_.size() != 2)
        refuse_tensor("data_offsets has " + std::to_string(offsets_.size()) + " numbers, not 2");
      if (offsets_[0] > offsets_[1] || offsets_[1] > data_bytes_) {
        refuse_tensor("data_offsets [" + std::to_string(offsets_[0]) + ", " + std::to_string(offsets_[1]) +
                      "] do not lie in the " + std::to_string(data_bytes_) + " bytes behind the header");
      }
      current_->offset = offsets_[0];
      current_->bytes = offsets_[1] - offsets_[0];
    }
    return enter(Place::tensor);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      if (current_->shape.size() == most_dimensions) {
        refuse_tensor("has more than " + std::to_string(most_dimensions) + " dimensions");
      }
      if (value > static_cast<std::uint64_t>((std::numeric_limits<Index>::max)())) {
        refuse_tensor("has a dimension of " + std::to_string(value));
      }
      current_->shape.push_back(static_cast<Index>(value));
    } else if (place_ == Place::offsets) {
      if (offsets_.size() == 2) refuse_tensor("data_offsets has more than 2 numbers");
      offsets_.push_back(value);
    } else {
      refuse("a number where none is allowed");
    }
    return true;
  }
  bool string(string_t& text) override {
    if (place_ == Place::text) {
      *metadata_value_ = text;
      return enter(Place::metadata);
    }
    if (place_ != Place::type) refuse("a string where none is allowed");
    current_->type = DType::other;
    for (int i = 0; i < static_cast<int>(DType::other); ++i) {
      if (text == info_of(static_cast<DType>(i)).name) current_->type = static_cast<DType>(i);
    }
    if (current_->type == DType::other) current_->other_type = std::make_shared<const std::string>(text);
    return enter(Place::tensor);
  }
  bool null() override { refuse("null where none is allowed"); }
  bool boolean(bool) override { refuse("true or false where none is allowed"); }
  bool number_integer(number_integer_t value) override { refuse("the negative number " + std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override {
    refuse("the number " + in_quotes(text) + ", which is not an integer below 2^64");
  }
  bool binary(binary_t&) override { refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    refuse("is not JSON at byte " + std::to_string(position));
  }

 private:
  enum class Place { start, file, entry, metadata, text, tensor, type, shape_key, shape, offsets_key, offsets, end };

  bool enter(Place place) { return place_ = place, true; }
  [[noreturn]] void refuse(const std::string& reason) const {
    throw FileError(path_, "header: " + reason +
                               (place_ == Place::text ? ": __metadata__ has no text for " + in_quotes(name_) : ""));
  }
  [[noreturn]] void refuse_tensor(const std::string& reason) const { fail_tensor(path_, name_, ": " + reason); }

  const std::filesystem::path& path_;
  std::uint64_t data_bytes_;
  Place place_ = Place::start;
  bool is_metadata_ = false, has_metadata_ = false, has_type_ = false, has_shape_ = false, has_offsets_ = false;
  TensorEntry* current_ = nullptr;
  std::string* metadata_value_ = nullptr;
  std::string name_;
  std::vector<std::uint64_t> offsets_;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
