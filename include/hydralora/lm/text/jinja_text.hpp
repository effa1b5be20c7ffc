// SPDX-License-Identifier: MIT
// What Python's str does, on UTF-8: code points, white space, case, trimming, splitting.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// An error without its place. The lexer's, the parser's and the interpreter's caller adds name and line.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr std::size_t most_bytes = std::size_t{1} << 26U;  ///< of any string that a template makes

inline std::size_t within_limit(std::size_t bytes) {
  if (bytes > most_bytes) throw Fault("the template makes a text of more than 64 MiB");
  return bytes;
}

/// The code point at byte `at`, which is moved behind it. A byte that is not UTF-8 counts alone.
inline std::uint32_t code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const std::uint32_t first = byte(at);
  const std::size_t more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
  std::uint32_t code = more == 0 ? first : first & (0x3FU >> more);
  bool good = first < 0xF8 && at + more < text.size();
  for (std::size_t i = 1; good && i <= more; ++i) {
    good = (byte(at + i) & 0xC0U) == 0x80;
    code = code << 6U | (byte(at + i) & 0x3FU);
  }
  at += good ? more + 1 : 1;
  return good ? code : first;
}

inline void append(std::string& text, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0U | code >> 6U);
  } else if (code < 0x10000) {
    put(0xE0U | code >> 12U);
    put(0x80U | (code >> 6U & 0x3FU));
  } else {
    put(0xF0U | code >> 18U);
    put(0x80U | (code >> 12U & 0x3FU));
    put(0x80U | (code >> 6U & 0x3FU));
  }
  put(0x80U | (code & 0x3FU));
}

/// Where each code point begins, and the end of the text.
inline std::vector<std::size_t> code_points(std::string_view text) {
  std::vector<std::size_t> starts;
  for (std::size_t at = 0; at < text.size(); code_point(text, at)) starts.push_back(at);
  starts.push_back(text.size());
  return starts;
}

inline bool is_space(std::uint32_t c) {
  return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}
inline bool is_line_end(std::uint32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

// Case of Latin, Greek, Cyrillic and Armenian letters, one letter for one. Other scripts stay as they are.
inline std::uint32_t to_upper(std::uint32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  if (c == 0xB5) return 0x39C;
  if (c == 0xFF) return 0x178;
  if (c >= 0xE0 && c <= 0xFE && c != 0xF7) return c - 32;
  if (c == 0x131) return 'I';
  if (c == 0x17F) return 'S';
  if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) return c % 2 == 0 ? c - 1 : c;
  if ((c >= 0x100 && c <= 0x137 && c != 0x130) || (c >= 0x14A && c <= 0x177)) return c % 2 == 1 ? c - 1 : c;
  if (c == 0x3AC) return 0x386;
  if (c >= 0x3AD && c <= 0x3AF) return c - 37;
  if (c == 0x3C2) return 0x3A3;
  if (c >= 0x3B1 && c <= 0x3CB) return c - 32;
  if (c == 0x3CC) return 0x38C;
  if (c == 0x3CD || c == 0x3CE) return c - 63;
  if (c >= 0x430 && c <= 0x44F) return c - 32;
  if (c >= 0x450 && c <= 0x45F) return c - 80;
  if ((c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF) || (c >= 0x4D0 && c <= 0x52F)) {
    return c % 2 == 1 ? c - 1 : c;
  }
  if (c >= 0x561 && c <= 0x586) return c - 48;
  if (c >= 0x1E00 && c <= 0x1EFF && !(c >= 0x1E96 && c <= 0x1E9F)) return c % 2 == 1 ? c - 1 : c;
  return c;
}
inline std::uint32_t to_lower(std::uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c == 0x178) return 0xFF;
  if (c == 0x1E9E) return 0xDF;
  // The rules above are one to one for capitals: the small letter is one of these.
  for (const std::uint32_t step : {1U, 32U, 37U, 38U, 48U, 63U, 64U, 80U}) {
    if (to_upper(c + step) == c && to_upper(c) == c && c + step != 0x3C2 && c >= 0xC0) return c + step;
  }
  return c;
}
inline bool is_cased(std::uint32_t c) { return to_lower(c) != c || to_upper(c) != c || c == 0xDF; }
/// Letters. Outside ASCII: all but spaces, punctuation and symbols of the common blocks; not exact.
inline bool is_alpha(std::uint32_t c) {
  if (c < 0x80) return is_cased(c);
  if (c < 0xC0) return c == 0xAA || c == 0xB5 || c == 0xBA;
  return c != 0xD7 && c != 0xF7 && !(c >= 0x2000 && c <= 0x2BFF) && !(c >= 0x3000 && c <= 0x3004) &&
         !(c >= 0x3008 && c <= 0x3020) && !(c >= 0xFE00 && c <= 0xFE0F) && !(c >= 0x1F000 && c <= 0x1FFFF);
}

enum class Case { upper, lower, title, capitalize };

/// str.upper, lower, title, capitalize.
inline std::string with_case(std::string_view text, Case wanted) {
  std::string result;
  bool in_word = false;
  std::uint32_t before = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::uint32_t c = code_point(text, at);
    const bool big = wanted == Case::upper || (wanted != Case::lower && !in_word);
    if (big && c == 0xDF) {
      result += wanted == Case::upper ? "SS" : "Ss";
    } else if (big) {
      append(result, to_upper(c));
    } else if (c == 0x3A3) {  // a sigma at the end of a word has its own form
      std::size_t next = at;
      const bool last = at == text.size() || !is_cased(code_point(text, next));
      append(result, last && is_cased(before) ? 0x3C2 : 0x3C3);
    } else {
      append(result, to_lower(c));
    }
    before = c;
    in_word = wanted == Case::capitalize || is_cased(c);
  }
  return result;
}

/// str.strip, lstrip, rstrip. `chars` null: white space.
inline std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right) {
  std::vector<std::uint32_t> set;
  for (std::size_t at = 0; chars != nullptr && at < chars->size();) set.push_back(code_point(*chars, at));
  const auto goes = [&](std::uint32_t c) {
    return chars == nullptr ? is_space(c) : std::find(set.begin(), set.end(), c) != set.end();
  };
  std::size_t begin = 0;
  for (std::size_t next = 0; left && begin < text.size() && goes(code_point(text, next));) begin = next;
  std::size_t end = text.size();
  while (right && end > begin) {
    std::size_t start = end - 1;
    while (start > begin && end - start < 4 && (static_cast<unsigned char>(text[start]) & 0xC0U) == 0x80) --start;
    std::size_t next = start;
    if (!goes(code_point(text, next))) break;
    end = start;
  }
  return text.substr(begin, end - begin);
}

/// str.split and rsplit: at `separator`, or at white space where it is null; at most `most` cuts, all where negative.
inline std::vector<std::string> split(std::string_view text, const std::string* separator, std::int64_t most,
                                      bool from_right) {
  std::vector<std::string> parts;
  if (separator != nullptr && separator->empty()) throw Fault("empty separator");
  if (separator != nullptr) {
    while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
      const std::size_t cut = from_right ? text.rfind(*separator) : text.find(*separator);
      if (cut == std::string_view::npos) break;
      const std::string_view behind = text.substr(cut + separator->size());
      parts.emplace_back(from_right ? behind : text.substr(0, cut));
      text = from_right ? text.substr(0, cut) : behind;
    }
    parts.emplace_back(text);
  } else {
    for (text = strip(text, nullptr, !from_right, from_right); !text.empty();) {
      std::size_t cut = std::string_view::npos, behind = 0;  // a run of white space: [cut, behind)
      const bool more = most < 0 || static_cast<std::int64_t>(parts.size()) < most;
      for (std::size_t at = 0; more && at < text.size();) {
        const std::size_t start = at;
        if (!is_space(code_point(text, at))) {
          if (cut != std::string_view::npos && behind == start && !from_right) break;
          continue;
        }
        if (cut == std::string_view::npos || behind != start) cut = start;
        behind = at;
      }
      if (cut == std::string_view::npos) {
        parts.emplace_back(text);
        break;
      }
      parts.emplace_back(from_right ? text.substr(behind) : text.substr(0, cut));
      text = from_right ? text.substr(0, cut) : text.substr(behind);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

inline std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  for (std::size_t start = 0, at = 0; at < text.size();) {
    const std::size_t end = at;
    const std::uint32_t c = code_point(text, at);
    const bool ends = is_line_end(c);
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    if (!ends && at < text.size()) continue;
    lines.emplace_back(text.substr(start, (keep_ends || !ends ? at : end) - start));
    start = at;
  }
  return lines;
}

/// str.replace: at most `most` times, always where negative.
inline std::string replace(std::string_view text, std::string_view old, std::string_view by, std::int64_t most) {
  std::string result;
  for (std::size_t at = 0; most != 0; --most) {
    const std::size_t found = text.find(old, at);
    if (found == std::string_view::npos) return result.append(text.substr(at));
    within_limit(result.size() + by.size() + text.size());
    result.append(text.substr(at, found - at)).append(by);
    at = found + old.size();
    if (old.empty()) {  // between all code points
      if (found == text.size()) return result;
      const std::size_t start = at;
      code_point(text, at);
      result.append(text.substr(start, at - start));
    }
    if (most == 1) return result.append(text.substr(at));
  }
  return std::string(text);
}

/// The number that a text is, as Python's float() reads it. @return  false where it is none.
inline bool read_number(const std::string& text, double& number) {
  std::string digits(strip(text, nullptr, true, true));
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  const std::string word =
      with_case(digits.substr(!digits.empty() && (digits[0] == '-' || digits[0] == '+') ? 1 : 0), Case::lower);
  if (word == "inf" || word == "infinity" || word == "nan") {
    number = word == "nan" ? std::nan("") : HUGE_VAL;
    if (digits[0] == '-') number = -number;
    return true;
  }
  if (word.empty() || word.find_first_not_of("0123456789.e+-") != std::string::npos) return false;
  std::istringstream stream(digits);
  stream.imbue(std::locale::classic());
  stream >> number;
  if (stream.fail() && std::abs(number) > 1) number = std::copysign(HUGE_VAL, number);  // it is too large
  return (!stream.fail() || std::isinf(number)) && stream.peek() == std::istringstream::traits_type::eof();
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
