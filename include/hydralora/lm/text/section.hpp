// SPDX-License-Identifier: MIT
// A part of a JSON file that knows its place: for messages with the file and the key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/io/file.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

/// A value in a JSON file. The file's path and the JSON must outlive it.
class Section {
 public:
  Section(const std::filesystem::path& file, std::string place, const nlohmann::json& json)
      : file_(&file), place_(std::move(place)), json_(&json) {}

  const std::filesystem::path& file() const { return *file_; }
  const std::string& place() const { return place_; }
  [[noreturn]] void refuse(const std::string& reason) const { throw FileError(*file_, place_ + " " + reason); }

  bool is_nothing() const { return json_->is_null(); }
  bool is_text() const { return json_->is_string(); }
  bool has(const char* key) const { return json_->is_object() && json_->contains(key); }
  /// The value of a key; null where there is none.
  Section operator[](const std::string& key) const {
    static const nlohmann::json null;
    if (!json_->is_object()) refuse("is not an object");
    const auto found = json_->find(key);
    return {*file_, place_.empty() ? key : place_ + "." + key, found == json_->end() ? null : *found};
  }
  std::vector<Section> list() const {
    if (!json_->is_array()) refuse("is not a list");
    std::vector<Section> sections;
    for (std::size_t i = 0; i < json_->size(); ++i) {
      sections.emplace_back(*file_, place_ + "[" + std::to_string(i) + "]", (*json_)[i]);
    }
    return sections;
  }
  /// The steps of a sequence.
  std::vector<Section> steps() const {
    constexpr std::size_t most = 32;
    if (json_->is_array() && json_->size() > most) refuse("has more than 32 steps");
    return list();
  }
  const nlohmann::json::object_t& members() const {
    if (!json_->is_object()) refuse("is not an object");
    return json_->get_ref<const nlohmann::json::object_t&>();
  }
  const std::string& text() const {
    if (!json_->is_string()) refuse("is not a string");
    return json_->get_ref<const std::string&>();
  }
  /// What a file may put in the place of one character.
  const std::string& short_text() const {
    if (text().size() > 1024) refuse("has more than 1024 bytes");
    return text();
  }
  bool flag() const {
    if (!json_->is_boolean()) refuse("is neither true nor false");
    return json_->get<bool>();
  }
  bool flag(bool otherwise) const { return is_nothing() ? otherwise : flag(); }
  double number() const {
    if (!json_->is_number()) refuse("is not a number");
    return json_->get<double>();
  }
  /// A whole number that has a successor in int: a token's id, for example.
  int integer() const {
    if (!json_->is_number_unsigned() || json_->get<std::uint64_t>() >= 0x7fffffffU) {
      refuse("is not a whole number from 0 to 2147483646");
    }
    return static_cast<int>(json_->get<std::uint64_t>());
  }
  /// The place of the value in the list of choices.
  std::size_t choice(std::initializer_list<const char*> choices) const {
    std::string names;
    std::size_t i = 0;
    for (const char* name : choices) {
      if (json_->is_string() && text() == name) return i;
      ++i;
      names += (names.empty() ? "" : ", ") + std::string(name);
    }
    const std::string found = json_->is_string() ? in_quotes(text()) : is_nothing() ? "missing" : "no string";
    refuse("is " + found + ", supported are " + names);
  }

 private:
  const std::filesystem::path* file_;
  std::string place_;
  const nlohmann::json* json_;
};

/// Reads a JSON file that is not trusted: limits its size and its depth.
inline nlohmann::json read_json_text(const std::filesystem::path& path) {
  constexpr std::uint64_t most_bytes = std::uint64_t{64} << 20U;
  constexpr int most_depth = 32;
  const std::string text = read_text(path, most_bytes);
  bool in_string = false;
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string && (text[i] == '[' || text[i] == '{')) {
      if (++depth > most_depth) throw FileError(path, "is nested deeper than " + std::to_string(most_depth));
    } else if (!in_string && (text[i] == ']' || text[i] == '}')) {
      --depth;
    }
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    throw FileError(path, std::string("is not JSON: ") + error.what());
  }
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
