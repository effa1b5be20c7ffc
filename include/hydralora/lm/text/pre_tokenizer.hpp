// SPDX-License-Identifier: MIT
// The pre-tokenizers of tokenizer.json: they cut the text into the pieces that the model merges on its own.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/lm/text/normalizer.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

using PreTokenizer = std::function<void(std::vector<AlignedText>&)>;

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

/// The byte that a character stands for; -1 where it is none of the 256.
inline int byte_of(char32_t code) {
  static const std::array<int, 0x144> bytes = [] {
    std::array<int, 0x144> result{};
    result.fill(-1);
    for (std::size_t byte = 0; byte < 256; ++byte) result[byte_characters()[byte]] = static_cast<int>(byte);
    return result;
  }();
  return code < bytes.size() ? bytes[code] : -1;
}

inline PreTokenizer byte_level(const Section& place) {
  static const nlohmann::json gpt2 = {
      {"Regex", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"}};
  const bool prefix = place["add_prefix_space"].flag();
  Finder find;
  if (place["use_regex"].flag(true)) find = find_pattern(Section(place.file(), place.place() + ".use_regex", gpt2));
  return [prefix, find](std::vector<AlignedText>& pieces) {
    for (AlignedText& piece : pieces) {
      if (prefix && piece.text[0] != ' ') piece.prepend(" ");
    }
    if (find) split(pieces, find, SplitBehavior::isolated);
    for (AlignedText& piece : pieces) {
      AlignedText bytes;
      bytes.begin = piece.begin;
      for (std::size_t i = 0; i < piece.text.size(); ++i) {
        bytes.append(byte_characters()[static_cast<unsigned char>(piece.text[i])], piece.spans[i]);
      }
      piece = std::move(bytes);
    }
  };
}

/// What Metaspace and its decoder share.
struct MetaspaceSettings {
  std::string replacement;
  char32_t code;
  bool always, never;  // where the replacement is put in front of a piece; else only at the start of the text

  explicit MetaspaceSettings(const Section& place) : replacement(place["replacement"].text()) {
    const std::u32string codes = to_characters(replacement);
    if (codes.size() != 1) place["replacement"].refuse("is not one character");
    code = codes[0];
    const Section scheme = place["prepend_scheme"];
    const std::size_t choice = scheme.is_nothing() ? 0 : scheme.choice({"always", "never", "first"});
    const bool has_prefix = place["add_prefix_space"].flag(true);
    if (!has_prefix && !scheme.is_nothing() && choice != 1) scheme.refuse("contradicts add_prefix_space");
    never = choice == 1 || !has_prefix;
    always = choice == 0 && !never;
  }
};

inline PreTokenizer metaspace(const Section& place) {
  const MetaspaceSettings settings(place);
  const bool splits = place["split"].flag(true);
  return [settings, splits](std::vector<AlignedText>& pieces) {
    const Finder spaces = each_character([](char32_t c) { return c == ' '; });
    for (AlignedText& piece : pieces) {
      replace(piece, spaces, settings.replacement);
      if (settings.never || (!settings.always && piece.begin > 0)) continue;
      if (piece.text.rfind(settings.replacement, 0) != 0) piece.prepend(settings.replacement);
    }
    const auto is_replacement = [code = settings.code](char32_t c) { return c == code; };
    if (splits) split(pieces, each_character(is_replacement), SplitBehavior::merged_with_next);
  };
}

inline SplitBehavior split_behavior(const Section& place) {
  return static_cast<SplitBehavior>(
      place.choice({"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}));
}

/// The pre-tokenizer that a part of tokenizer.json describes; none for null.
/// @throws FileError  if it is not supported.
inline PreTokenizer make_pre_tokenizer(const Section& place) {
  if (place.is_nothing()) return [](std::vector<AlignedText>&) {};
  const auto cut = [](Finder find, SplitBehavior behavior, bool invert = false) -> PreTokenizer {
    return [=](std::vector<AlignedText>& pieces) { split(pieces, find, behavior, invert); };
  };
  switch (place["type"].choice(
      {"ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "Sequence"})) {
    case 0:
      return byte_level(place);
    case 1:
      return metaspace(place);
    case 2:
      return cut(find_pattern(place["pattern"]), split_behavior(place["behavior"]), place["invert"].flag());
    case 3:
      return cut(each_character(is_numeric),
                 place["individual_digits"].flag() ? SplitBehavior::isolated : SplitBehavior::contiguous);
    case 4:
      return cut(each_character(is_punctuation),
                 place.has("behavior") ? split_behavior(place["behavior"]) : SplitBehavior::isolated);
    case 5: {
      // Runs of word characters, and runs of others; blanks are dropped.
      const PreTokenizer words = cut(each_character(is_space), SplitBehavior::removed);
      const PreTokenizer kinds = cut(each_character(is_word), SplitBehavior::contiguous);
      return [=](std::vector<AlignedText>& pieces) {
        words(pieces);
        kinds(pieces);
      };
    }
    case 6:
      return cut(each_character(is_space), SplitBehavior::removed);
    default: {
      std::vector<PreTokenizer> steps;
      for (const Section& step : place["pretokenizers"].steps()) steps.push_back(make_pre_tokenizer(step));
      return [steps](std::vector<AlignedText>& pieces) {
        for (const PreTokenizer& step : steps) step(pieces);
      };
    }
  }
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
