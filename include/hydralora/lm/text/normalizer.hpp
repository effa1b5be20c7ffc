// SPDX-License-Identifier: MIT
// The normalizers of tokenizer.json.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/lm/text/aligned_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

using Normalizer = std::function<void(AlignedText&)>;

inline Finder find_pattern(const Section& place) {
  return [regex = Regex(place)](const std::string& text) { return regex.find_all(text); };
}

/// A composed character comes from the first of its characters, an added one from the character before it.
inline void to_normal_form(AlignedText& piece, bool composes, bool compatible) {
  const std::u32string before = to_characters(piece.text);
  if (std::all_of(before.begin(), before.end(), [](char32_t code) { return code < 0x80; })) return;
  AlignedText result;
  result.begin = piece.begin;
  std::size_t next = 0, at = 0;  // the next character that is not yet stood for: its number and its first byte
  for (const NormalizedCharacter& c : normal_form(before, composes, compatible)) {
    const bool is_added = c.change > 0;
    result.append(c.code, !is_added ? piece.spans[at] : at > 0 ? piece.spans[at - 1] : Span(piece.begin, piece.begin));
    for (int i = c.change; i <= 0 && next < before.size(); ++i, ++next) at += character_at(piece.text, at).bytes;
  }
  piece = std::move(result);
}

inline void to_lower(AlignedText& piece) {
  AlignedText result;
  result.begin = piece.begin;
  for (std::size_t at = 0; at < piece.text.size();) {
    const Character c = character_at(piece.text, at);
    for (const char32_t lower : to_lower(c.code)) result.append(lower, piece.spans[at]);
    at += c.bytes;
  }
  piece = std::move(result);
}

inline void strip(AlignedText& piece, bool left, bool right) {
  const std::size_t from = left ? end_of_blanks(piece.text, 0) : 0;
  const std::size_t to = right ? start_of_blanks(piece.text, piece.text.size(), from) : piece.text.size();
  if (from == to) {
    piece = AlignedText{"", {}, piece.begin};
  } else if (from > 0 || to < piece.text.size()) {
    piece = piece.slice(from, to);
  }
}

/// The normalizer that a part of tokenizer.json describes; none for null.
/// @throws FileError  if it is not supported.
inline Normalizer make_normalizer(const Section& place) {
  if (place.is_nothing()) return [](AlignedText&) {};
  const std::size_t kind =
      place["type"].choice({"NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Lowercase", "Strip", "Sequence"});
  switch (kind) {
    case 4:
      return [prefix = place["prepend"].short_text()](AlignedText& piece) { piece.prepend(prefix); };
    case 5:
      return [find = find_pattern(place["pattern"]), content = place["content"].short_text()](AlignedText& piece) {
        replace(piece, find, content);
      };
    case 6:
      return [](AlignedText& piece) { to_lower(piece); };
    case 7:
      return [left = place["strip_left"].flag(), right = place["strip_right"].flag()](AlignedText& piece) {
        strip(piece, left, right);
      };
    case 8: {
      std::vector<Normalizer> steps;
      for (const Section& step : place["normalizers"].steps()) steps.push_back(make_normalizer(step));
      return [steps](AlignedText& piece) {
        for (const Normalizer& step : steps) step(piece);
      };
    }
    default:
      return [kind](AlignedText& piece) { to_normal_form(piece, kind == 0 || kind == 2, kind >= 2); };
  }
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
