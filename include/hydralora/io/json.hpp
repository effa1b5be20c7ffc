// SPDX-License-Identifier: MIT
// JSON from files that are not trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Checks that the parser does not make: nesting, duplicate keys, objects in arrays. Stores only keys of open objects.
class JsonChecks final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonChecks(const std::filesystem::path& path) : path_(path) {}

  /// The keys of every object in the outermost one, in the order of the file, which nlohmann::json does not have.
  std::map<std::string, std::vector<std::string>> order;

  bool start_object(std::size_t) override {
    // It needs the most memory per byte.
    if (arrays_ > 0)
      throw FileError(path_, in_quotes(outer_) + " has an object inside an array, which is not supported");
    keys_.emplace_back();
    return deeper();
  }
  bool end_object() override { return keys_.pop_back(), --depth_, true; }
  bool start_array(std::size_t) override { return ++arrays_, deeper(); }
  bool end_array() override { return --arrays_, --depth_, true; }
  bool key(string_t& text) override {
    if (!keys_.back().insert(text).second) throw FileError(path_, in_quotes(text) + " appears twice");
    if (depth_ == 1) outer_ = text;
    if (depth_ == 2) order[outer_].push_back(text);
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw FileError(path_, "is not JSON, or has a number too large for double, at byte " + std::to_string(position));
  }

 private:
  bool deeper() {
    constexpr int most_depth = 8;
    if (++depth_ > most_depth) throw FileError(path_, "is nested deeper than " + std::to_string(most_depth));
    return true;
  }
  const std::filesystem::path& path_;
  std::vector<std::set<std::string>> keys_;
  std::string outer_;
  int depth_ = 0, arrays_ = 0;
};

/// Parses a JSON object of an untrusted file. @param checks  has the order of the keys afterwards.
inline nlohmann::json parse_json_object(const std::filesystem::path& path, const std::string& text,
                                        JsonChecks& checks) {
  nlohmann::json::sax_parse(text, &checks);
  nlohmann::json json = nlohmann::json::parse(text);  // a callback here would make it quadratic in the text
  if (!json.is_object()) throw FileError(path, "is not a JSON object");
  return json;
}

/// Reads a JSON object from an untrusted file.
inline nlohmann::json read_json_object(const std::filesystem::path& path,
                                       std::uint64_t most_bytes = std::uint64_t{1} << 20U) {
  JsonChecks checks(path);
  return parse_json_object(path, read_text(path, most_bytes), checks);
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
