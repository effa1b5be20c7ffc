// SPDX-License-Identifier: MIT
// UTF-8, classes of characters and the four normal forms, over utf8proc.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

constexpr char32_t replacement_character = 0xFFFD;

struct Character {
  char32_t code;
  std::size_t bytes;
};

/// The character at byte `at` of the text. Where the bytes are not UTF-8, U+FFFD for the longest start of a character
/// that they are, or for one byte: as Python does with errors="replace".
inline Character character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(at);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return {replacement_character, 1};
  char32_t code = first & (0xFFU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    if (at + i >= text.size()) return {replacement_character, i};
    const unsigned next = byte(at + i);
    // The second byte decides on overlong forms, surrogates and codes above U+10FFFF.
    const unsigned lowest = i > 1 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned highest = i > 1 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (next < lowest || next > highest) return {replacement_character, i};
    code = (code << 6U) | (next & 0x3FU);
  }
  return {code, bytes};
}

inline void append_utf8(std::string& text, char32_t code) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes.data());
  for (utf8proc_ssize_t i = 0; i < count; ++i) text += static_cast<char>(bytes[static_cast<std::size_t>(i)]);
}

/// The characters of a text; each invalid part of it becomes U+FFFD.
inline std::u32string to_characters(std::string_view text) {
  std::u32string result;
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    result += c.code;
    at += c.bytes;
  }
  return result;
}

/// The text with U+FFFD for each invalid part.
inline std::string to_valid_utf8(std::string_view text) {
  std::string result;
  for (const char32_t code : to_characters(text)) append_utf8(result, code);
  return result;
}

inline utf8proc_category_t category(char32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }

/// Nd, Nl and No: digits, and ½, ², Ⅷ too.
inline bool is_numeric(char32_t code) {
  const auto kind = category(code);
  return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

/// The categories P, and all of ASCII's marks ($ + < = > ^ ` | ~ are symbols in Unicode).
inline bool is_punctuation(char32_t code) {
  if (code < 0x80) {
    const char32_t lower = code | 0x20U;
    return code > 0x20 && code < 0x7F && !(code >= '0' && code <= '9') && !(lower >= 'a' && lower <= 'z');
  }
  const auto kind = category(code);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

/// The property White_Space.
inline bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

/// The start of the character that ends at byte `end`, which is not 0, of valid UTF-8.
inline std::size_t start_of_last(std::string_view text, std::size_t end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80);
  return end;
}

/// The end of the run of blanks that begins at `from`.
inline std::size_t end_of_blanks(std::string_view text, std::size_t from) {
  while (from < text.size() && is_space(character_at(text, from).code)) from += character_at(text, from).bytes;
  return from;
}

/// The start of the run of blanks that ends at `to`, but not before `least`.
inline std::size_t start_of_blanks(std::string_view text, std::size_t to, std::size_t least) {
  while (to > least && is_space(character_at(text, start_of_last(text, to)).code)) to = start_of_last(text, to);
  return std::max(to, least);
}

/// A word character of Rust's regular expressions: letters, marks, digits, connectors and the joiners.
inline bool is_word(char32_t code) {
  const auto kind = category(code);
  const bool circled = (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
                       (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) || kind == UTF8PROC_CATEGORY_PC || circled ||
         code == 0x200C || code == 0x200D;
}

/// The lower-case form of a character, without its context.
inline std::u32string to_lower(char32_t code) {
  if (code == 0x130) return U"i\u0307";  // the only one with two characters
  return {static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)))};
}

/// A character of a normal form, and how many characters of the text it stands for: 1 - `change`.
struct NormalizedCharacter {
  char32_t code;
  int change;
};

/// The character that two make together; 0 where there is none.
inline char32_t compose(char32_t first, char32_t second) {
  std::array<utf8proc_int32_t, 2> pair{static_cast<utf8proc_int32_t>(first), static_cast<utf8proc_int32_t>(second)};
  const utf8proc_ssize_t left =
      utf8proc_normalize_utf32(pair.data(), 2, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  return left == 1 ? static_cast<char32_t>(pair[0]) : 0;
}

/// Unicode's normal forms: NFD; composes: NFC; compatible: NFKD; both: NFKC.
/// `change` is 0 where a character replaces one, 1 where it is added, -n where it also takes in the n behind.
/// Cost  n log n for n characters.
inline std::vector<NormalizedCharacter> normal_form(const std::u32string& text, bool composes, bool compatible) {
  struct Part {
    NormalizedCharacter character;
    int combining;
  };
  const int options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  std::vector<Part> parts;
  for (const char32_t code : text) {
    std::array<utf8proc_int32_t, 32> decomposed{};  // 18 is the longest
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), decomposed.data(), decomposed.size(),
                                static_cast<utf8proc_option_t>(options), nullptr);
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      const utf8proc_int32_t c = decomposed[static_cast<std::size_t>(i)];
      parts.push_back({{static_cast<char32_t>(c), i > 0 ? 1 : 0}, utf8proc_get_property(c)->combining_class});
    }
  }
  for (auto begin = parts.begin(); begin != parts.end();) {
    if (begin->combining == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, parts.end(), [](const Part& part) { return part.combining == 0; });
    std::stable_sort(begin, end, [](const Part& a, const Part& b) { return a.combining < b.combining; });
    begin = end;
  }
  std::vector<NormalizedCharacter> result;
  std::size_t starter = 0;
  bool has_starter = false;
  int previous = 0;  // combining class of the last character of the result
  for (const Part& part : parts) {
    if (composes && has_starter) {
      if (result.size() == starter + 1 || previous < part.combining) {
        if (const char32_t composed = compose(result[starter].code, part.character.code)) {
          result[starter] = {composed, result[starter].change + part.character.change - 1};
          continue;
        }
      }
    }
    if (part.combining == 0) {
      starter = result.size();
      has_starter = true;
    }
    previous = part.combining;
    result.push_back(part.character);
  }
  return result;
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
