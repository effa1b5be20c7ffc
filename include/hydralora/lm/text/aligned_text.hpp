// SPDX-License-Identifier: MIT
// Characters, a piece of text that knows where it comes from, and the normalizers of tokenizer.json.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/lm/text/section.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::detail {

struct Character {
  char32_t code;
  std::size_t bytes;
};

/// The character at byte `at` of the text. Where the bytes are not UTF-8, U+FFFD for the longest start of a character
/// that they are, or for one byte: as Python does with errors="replace".
inline Character character_at(std::string_view text, std::size_t at) {
  constexpr char32_t replacement = 0xFFFD;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(at);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return {replacement, 1};
  char32_t code = first & (0xFFU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    if (at + i >= text.size()) return {replacement, i};
    const unsigned next = byte(at + i);
    // The second byte decides on overlong forms, surrogates and codes above U+10FFFF.
    const unsigned lowest = i > 1 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned highest = i > 1 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (next < lowest || next > highest) return {replacement, i};
    code = (code << 6U) | (next & 0x3FU);
  }
  return {code, bytes};
}

/// The character that ends at byte `end`, which is not 0, of valid UTF-8.
inline Character character_before(std::string_view text, std::size_t end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80);
  return character_at(text, end);
}

inline void append_utf8(std::string& text, char32_t code) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes.data());
  text.append(bytes.begin(), bytes.begin() + count);
}

/// The characters of a text; each invalid part of it becomes U+FFFD.
inline std::u32string to_characters(std::string_view text) {
  std::u32string result;
  for (std::size_t at = 0; at < text.size(); at += character_at(text, at).bytes) result += character_at(text, at).code;
  return result;
}

inline bool has_category(char32_t code, utf8proc_category_t first, utf8proc_category_t last) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= first && category <= last;
}

/// The property White_Space.
inline bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x85 ||
         has_category(code, UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZP);
}

/// The end of the run of blanks that begins at `from`.
inline std::size_t end_of_blanks(std::string_view text, std::size_t from) {
  while (from < text.size() && is_space(character_at(text, from).code)) from += character_at(text, from).bytes;
  return from;
}

/// The start of the run of blanks that ends at `to`, but not before `least`, in valid UTF-8.
inline std::size_t start_of_blanks(std::string_view text, std::size_t to, std::size_t least) {
  while (to > least && is_space(character_before(text, to).code)) to -= character_before(text, to).bytes;
  return (std::max)(to, least);
}

/// A word character of Rust's regular expressions: letters, marks, digits, connectors, circled letters and the joiners.
inline bool is_word(char32_t code) {
  const bool circled = (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
                       (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
  return has_category(code, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) ||
         has_category(code, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PC) || circled || code == 0x200C || code == 0x200D;
}

/// Whether Unicode may compose a character with the one before it, or change their order: marks, letters of Hangul.
inline bool joins_the_one_before(char32_t code) {
  return has_category(code, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME) || (code >= 0x1160 && code <= 0x11FF);
}

/// GPT-2's character for each byte: itself where it is printable, else the next free one from U+0100.
inline const std::array<char32_t, 256>& byte_characters() {
  static const std::array<char32_t, 256> characters = [] {
    std::array<char32_t, 256> result{};
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      result[byte] = printable ? byte : next++;
    }
    return result;
  }();
  return characters;
}

using Span = std::pair<std::size_t, std::size_t>;  // bytes [first, second) of the original text

struct AlignedText {
  std::string text;         // valid UTF-8
  std::vector<Span> spans;  // of each byte; all bytes of a character have the same
  std::size_t begin = 0;    // of the piece in the original text

  void append(char32_t code, Span span) {
    append_utf8(text, code);
    spans.resize(text.size(), span);
  }
  AlignedText slice(std::size_t from, std::size_t to) const {
    return {text.substr(from, to - from), {spans.data() + from, spans.data() + to}, spans[from].first};
  }
  /// The bytes of the original text that bytes [from, to) come from. Not empty: from < to.
  Span span_of(std::size_t from, std::size_t to) const { return {spans[from].first, spans[to - 1].second}; }
  /// A file that is not trusted may replace each character by many, again and again.
  /// @throws std::length_error  if there are more than 64 bytes for each of the original text.
  void check_growth() const {
    const std::size_t original = text.empty() ? 0 : spans.back().second - (std::min)(begin, spans.back().second);
    if (text.size() / 64 <= original + 1024) return;
    throw std::length_error("Tokenizer::encode: the normalized text is too long");
  }
  void prepend(std::string_view prefix) {
    if (text.empty()) return;
    text.insert(0, prefix);
    spans.insert(spans.begin(), prefix.size(), Span(spans.front()));
    check_growth();
  }
  /// Replaces the matches. What comes in their place comes from the last character of the match.
  void replace(const Regex& pattern, const std::string& content) {
    AlignedText result{"", {}, begin};
    for (const Match& part : pattern.find_all(text)) {
      if (part.is_match) {
        result.check_growth();
        result.text += content;
        result.spans.resize(result.text.size(), part.end > 0 ? spans[part.end - 1] : Span(begin, begin));
      } else {
        result.text.append(text, part.begin, part.end - part.begin);
        result.spans.insert(result.spans.end(), spans.data() + part.begin, spans.data() + part.end);
      }
    }
    *this = std::move(result);
  }
};

/// The text with U+FFFD for what is not UTF-8.
inline AlignedText align(std::string_view text) {
  AlignedText result;
  result.text.reserve(text.size());
  result.spans.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    result.append(c.code, {at, at + c.bytes});
    at += c.bytes;
  }
  return result;
}

/// Unicode's form NFC. Of a character with marks, the first comes from the character, the others from the last marks.
inline void compose(AlignedText& piece) {
  const auto& [text, spans, begin] = piece;
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return;
  constexpr std::size_t most_bytes = 4096;  // sorting n marks takes n² steps
  constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  AlignedText result{"", {}, begin};
  std::vector<utf8proc_int32_t> codes;
  for (std::size_t start = 0, end = 0; start < text.size(); start = end) {
    do end += character_at(text, end).bytes;
    while (end < text.size() && end < start + most_bytes && joins_the_one_before(character_at(text, end).code));
    codes.resize(4 * (end - start));  // a character becomes up to four
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + start;
    const utf8proc_ssize_t count = utf8proc_decompose(bytes, static_cast<utf8proc_ssize_t>(end - start), codes.data(),
                                                      static_cast<utf8proc_ssize_t>(codes.size()), options);
    codes.resize(static_cast<std::size_t>(utf8proc_normalize_utf32(codes.data(), count, options)));
    std::vector<Span> sources(codes.size(), spans[start]);
    for (std::size_t i = codes.size() - 1, at = end; i > 0 && at > start; --i) {
      at -= character_before(text, at).bytes;
      sources[i] = spans[at];
    }
    for (std::size_t i = 0; i < codes.size(); ++i) result.append(static_cast<char32_t>(codes[i]), sources[i]);
  }
  piece = std::move(result);
}

inline Step<AlignedText> prepend(const Section& place) {
  return [prefix = place["prepend"].text(1024)](AlignedText& text) { text.prepend(prefix); };
}

inline Step<AlignedText> replace(const Section& place) {
  return [pattern = Regex(place["pattern"]), content = place["content"].text(1024)](AlignedText& text) {
    text.replace(pattern, content);
  };
}

inline Step<AlignedText> make_normalizer(const Section& section) {
  return make_step<AlignedText>(section, "normalizers",
                                {{"NFC", [](const Section&) -> Step<AlignedText> { return compose; }},
                                 {"Prepend", prepend},
                                 {"Replace", replace}});
}

/// What Metaspace and its decoder share.
struct MetaspaceSettings {
  std::string replacement;    // one character
  bool never, first = false;  // where the replacement is put in front of a piece: never, or only of the first one

  explicit MetaspaceSettings(const Section& place) : replacement(place["replacement"].text()) {
    place["replacement"].require(to_characters(replacement).size() == 1, "one character");
    never = !place["add_prefix_space"].flag(true);
    if (const Section scheme = place["prepend_scheme"]; !scheme.is_nothing()) {
      const std::size_t choice = scheme.choice({"always", "never", "first"});
      scheme.require(!never || choice == 1, "in agreement with add_prefix_space");
      never = choice == 1;
      first = choice == 2;
    }
  }
};

}  // namespace lm::detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
