// SPDX-License-Identifier: MIT
// What Python's str does, on UTF-8.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// An error without its place, which the template adds.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr std::size_t most_bytes = std::size_t{1} << 26U;  ///< of any string that a template makes

inline std::size_t within_limit(std::size_t bytes) {
  if (bytes > most_bytes) throw Fault("the template makes a text of more than 64 MiB");
  return bytes;
}

/// The code point at byte `at`, which is moved behind it. A byte that is not UTF-8 counts alone.
inline utf8proc_int32_t code_point(std::string_view text, std::size_t& at) {
  const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
  utf8proc_int32_t code = 0;
  const utf8proc_ssize_t count = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &code);
  at += count > 0 ? static_cast<std::size_t>(count) : 1;
  return count > 0 ? code : *bytes;
}
inline void append(std::string& text, utf8proc_int32_t code) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t count = utf8proc_encode_char(code, bytes.data());
  text.append(bytes.begin(), bytes.begin() + count);
}

inline std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> all;
  for (std::size_t at = 0, start = 0; at < text.size(); start = at) {
    code_point(text, at);
    all.push_back(text.substr(start, at - start));
  }
  return all;
}
inline std::int64_t length(std::string_view text) {
  std::int64_t count = 0;
  for (std::size_t at = 0; at < text.size(); ++count) code_point(text, at);
  return count;
}

inline bool is_space(utf8proc_int32_t c) {
  return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// str.isalpha and so on: whether the text has characters, and all of them fit.
inline bool all_are(std::string_view text, std::string_view name) {
  bool cased = false;
  for (std::size_t at = 0; at < text.size();) {
    const utf8proc_int32_t c = code_point(text, at);
    const std::string_view category = utf8proc_category_string(c);
    cased = cased || category == "Ll" || category == "Lu";
    if (name == "isspace"   ? !is_space(c)
        : name == "isupper" ? category == "Ll"
        : name == "islower" ? category == "Lu"
        : name == "isalpha" ? category[0] != 'L'
        : name == "isalnum" ? category[0] != 'L' && category[0] != 'N'
                            : category != "Nd") {
      return false;
    }
  }
  return name == "isupper" || name == "islower" ? cased : !text.empty();
}

/// str.upper, lower, capitalize and title, letter for letter. "words" is Jinja's own title: there a word begins behind
/// white space, - and an opening bracket, not behind an apostrophe.
inline std::string with_case(std::string_view text, std::string_view wanted) {
  std::string result;
  bool begins = true;
  for (std::size_t at = 0; at < text.size();) {
    const utf8proc_int32_t c = code_point(text, at);
    append(result, wanted == "upper" || (wanted != "lower" && begins) ? utf8proc_toupper(c) : utf8proc_tolower(c));
    begins = wanted == "title"   ? utf8proc_category_string(c)[0] != 'L'
             : wanted == "words" ? is_space(c) || c == '-' || c == '(' || c == '[' || c == '{' || c == '<'
                                 : false;
  }
  return result;
}

inline bool begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
inline bool ends(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

/// str.strip, lstrip, rstrip. `set` null: white space.
inline std::string_view strip(std::string_view text, const std::string* set, bool left, bool right) {
  const auto goes = [&](std::string_view one) {
    std::size_t at = 0;
    return set != nullptr ? set->find(one) != std::string::npos : is_space(code_point(one, at));
  };
  while (left && !text.empty()) {
    std::size_t next = 0;
    code_point(text, next);
    if (!goes(text.substr(0, next))) break;
    text.remove_prefix(next);
  }
  while (right && !text.empty()) {
    std::size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0U) == 0x80) --start;
    if (!goes(text.substr(start))) break;
    text = text.substr(0, start);
  }
  return text;
}

/// str.split and rsplit: at `separator`, or at white space where it is null; at most `most` cuts, all where negative.
inline std::vector<std::string> split(std::string_view text, const std::string* separator, std::int64_t most = -1,
                                      bool from_right = false) {
  std::vector<std::pair<std::size_t, std::size_t>> cuts;  // [begin, end)
  if (separator != nullptr) {
    if (separator->empty()) throw Fault("empty separator");
    for (std::size_t at = 0; (at = text.find(*separator, at)) != std::string_view::npos; at += separator->size()) {
      cuts.emplace_back(at, at + separator->size());
    }
  } else {
    text = strip(text, nullptr, most < 0 || !from_right, most < 0 || from_right);
    if (text.empty()) return {};
    for (std::size_t at = 0, start = 0; at < text.size(); start = at) {
      if (!is_space(code_point(text, at))) continue;
      if (cuts.empty() || cuts.back().second < start) cuts.emplace_back(start, at);
      cuts.back().second = at;
    }
  }
  const std::size_t count = most < 0 ? cuts.size() : std::min(cuts.size(), static_cast<std::size_t>(most));
  const std::size_t first = from_right ? cuts.size() - count : 0;
  std::vector<std::string> parts;
  std::size_t start = 0;
  for (std::size_t i = first; i < first + count; start = cuts[i++].second) {
    parts.emplace_back(text.substr(start, cuts[i].first - start));
  }
  parts.emplace_back(text.substr(start));
  return parts;
}

inline std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  for (std::size_t start = 0, at = 0; at < text.size();) {
    const std::size_t end = at;
    const utf8proc_int32_t c = code_point(text, at);
    const bool ends = (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    if (!ends && at < text.size()) continue;
    lines.emplace_back(text.substr(start, (keep_ends || !ends ? at : end) - start));
    start = at;
  }
  return lines;
}

/// str.replace: at most `most` times, always where negative.
inline std::string replace(std::string_view text, std::string_view old, std::string_view by, std::int64_t most) {
  if (old.empty()) throw Fault("replace needs a text that is not empty");
  std::string result;
  for (; most != 0; --most) {
    const std::size_t found = text.find(old);
    if (found == std::string_view::npos) break;
    within_limit(result.size() + by.size() + text.size());
    result.append(text.substr(0, found)).append(by);
    text.remove_prefix(found + old.size());
  }
  return result.append(text);
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
