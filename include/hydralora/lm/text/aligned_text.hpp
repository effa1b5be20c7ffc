// SPDX-License-Identifier: MIT
// A piece of text that knows which bytes of the original text each of its bytes comes from, and how to cut it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/lm/text/regex.hpp"
#include "hydralora/lm/text/unicode.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

using Span = std::pair<std::size_t, std::size_t>;  // bytes [first, second) of the original text

struct AlignedText {
  std::string text;         // valid UTF-8
  std::vector<Span> spans;  // of each byte; all bytes of a character have the same
  std::size_t begin = 0;    // of the piece in the original text

  void append(std::string_view bytes, Span span) {
    text += bytes;
    spans.insert(spans.end(), bytes.size(), span);
  }
  void append(char32_t code, Span span) {
    append_utf8(text, code);
    spans.resize(text.size(), span);
  }
  AlignedText slice(std::size_t from, std::size_t to) const {
    const auto at = [&](std::size_t i) { return spans.begin() + static_cast<std::ptrdiff_t>(i); };
    return {text.substr(from, to - from), {at(from), at(to)}, spans[from].first};
  }
  /// The bytes of the original text that bytes [from, to) come from. Not empty: from < to.
  Span span_of(std::size_t from, std::size_t to) const { return {spans[from].first, spans[to - 1].second}; }
  void prepend(std::string_view prefix) {
    if (text.empty()) return;
    text.insert(0, prefix);
    spans.insert(spans.begin(), prefix.size(), Span(spans.front()));
    check_growth();
  }
  /// A file that is not trusted may replace each character by many, again and again.
  /// @throws std::length_error  if there are more than 64 bytes for each of the original text.
  void check_growth() const {
    const std::size_t original = text.empty() ? 0 : spans.back().second - std::min(begin, spans.back().second);
    if (text.size() / 64 <= original + 1024) return;
    throw std::length_error("Tokenizer::encode: the normalized text is too long");
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

/// Finds the parts of a text at which it is cut.
using Finder = std::function<std::vector<Match>(const std::string&)>;

/// Each character that fulfils the condition is a match.
template <class Condition>
Finder each_character(Condition condition) {
  return [condition](const std::string& text) {
    std::vector<Match> found;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const Character c = character_at(text, at);
      if (condition(c.code)) {
        if (done < at) found.push_back({done, at, false});
        found.push_back({at, at + c.bytes, true});
        done = at + c.bytes;
      }
      at += c.bytes;
    }
    if (done < text.size()) found.push_back({done, text.size(), false});
    return found;
  };
}

/// What happens to the matches: they are dropped, stay alone, or join the part before or behind or other matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

inline std::vector<Match> arrange(std::vector<Match> parts, SplitBehavior behavior) {
  if (behavior == SplitBehavior::isolated) return parts;
  std::vector<Match> result;
  if (behavior == SplitBehavior::removed) {
    std::copy_if(parts.begin(), parts.end(), std::back_inserter(result), [](const Match& m) { return !m.is_match; });
    return result;
  }
  const bool from_behind = behavior == SplitBehavior::merged_with_next;
  if (from_behind) std::reverse(parts.begin(), parts.end());
  bool previous = false;
  for (const Match& part : parts) {
    const bool joins = behavior == SplitBehavior::contiguous ? part.is_match == previous : part.is_match && !previous;
    previous = part.is_match;
    if (!joins || result.empty()) {
      result.push_back(part);
    } else if (from_behind) {
      result.back().begin = part.begin;
    } else {
      result.back().end = part.end;
    }
  }
  if (from_behind) std::reverse(result.begin(), result.end());
  return result;
}

/// Cuts every piece. Empty pieces vanish. Cost: a copy of the text.
inline void split(std::vector<AlignedText>& pieces, const Finder& find, SplitBehavior behavior, bool invert = false) {
  std::vector<AlignedText> result;
  for (AlignedText& piece : pieces) {
    std::vector<Match> parts = find(piece.text);
    if (invert) {
      for (Match& part : parts) part.is_match = !part.is_match;
    }
    for (const Match& part : arrange(std::move(parts), behavior)) {
      if (part.begin == part.end) continue;
      const bool whole = part.begin == 0 && part.end == piece.text.size();
      result.push_back(whole ? std::move(piece) : piece.slice(part.begin, part.end));
    }
  }
  pieces = std::move(result);
}

/// Replaces the matches. What comes in their place comes from the last character of the match.
inline void replace(AlignedText& piece, const Finder& find, const std::string& content) {
  AlignedText result;
  result.begin = piece.begin;
  for (const Match& part : find(piece.text)) {
    if (part.is_match) {
      result.check_growth();
      result.append(content, part.end > 0 ? piece.spans[part.end - 1] : Span(piece.begin, piece.begin));
      continue;
    }
    result.text.append(piece.text, part.begin, part.end - part.begin);
    const auto at = [&](std::size_t i) { return piece.spans.begin() + static_cast<std::ptrdiff_t>(i); };
    result.spans.insert(result.spans.end(), at(part.begin), at(part.end));
  }
  piece = std::move(result);
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
