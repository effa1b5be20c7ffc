// SPDX-License-Identifier: MIT
// What tokenizer.json has around the model: pre-tokenizers, which cut a text into pieces, decoders, post-processors.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/lm/text/aligned_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::detail {

using Pieces = std::vector<AlignedText>;

/// What happens to the matches: they are dropped, stay alone, or join the part before or behind or other matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Cuts every piece at the matches. Empty pieces vanish. Cost: a copy of the text.
struct Split {
  Regex pattern;
  SplitBehavior behavior;
  bool invert = false;

  void operator()(Pieces& pieces) const {
    Pieces result;
    for (const AlignedText& piece : pieces) {
      std::vector<Match> parts;
      bool previous = false;
      for (Match part : pattern.find_all(piece.text)) {
        if (invert) part.is_match = !part.is_match;
        const bool joins = behavior == SplitBehavior::contiguous             ? part.is_match == previous
                           : behavior == SplitBehavior::merged_with_previous ? part.is_match && !previous
                           : behavior == SplitBehavior::merged_with_next     ? previous && !part.is_match
                                                                             : false;
        previous = part.is_match;
        if (joins && !parts.empty()) {
          parts.back().end = part.end;
        } else if (behavior != SplitBehavior::removed || !part.is_match) {
          parts.push_back(part);
        }
      }
      for (const Match& part : parts) {
        if (part.begin < part.end) result.push_back(piece.slice(part.begin, part.end));
      }
    }
    pieces = std::move(result);
  }
};

inline Step<Pieces> byte_level(const Section& place) {
  constexpr const char* gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  const Split split{Regex(place["use_regex"], gpt2, Syntax::pcre2), SplitBehavior::isolated};
  return [split, has_prefix = place["add_prefix_space"].flag(), cuts = place["use_regex"].flag(true)](Pieces& pieces) {
    for (AlignedText& piece : pieces) {
      if (has_prefix && piece.text[0] != ' ') piece.prepend(" ");
    }
    if (cuts) split(pieces);
    for (AlignedText& piece : pieces) {
      AlignedText bytes{"", {}, piece.begin};
      for (std::size_t i = 0; i < piece.text.size(); ++i) {
        bytes.append(byte_characters()[static_cast<unsigned char>(piece.text[i])], piece.spans[i]);
      }
      piece = std::move(bytes);
    }
  };
}

inline Step<Pieces> metaspace(const Section& place) {
  const MetaspaceSettings settings(place);
  const Regex spaces(place, " ", Syntax::literal);
  const Split split{Regex(place, settings.replacement, Syntax::literal), SplitBehavior::merged_with_next};
  return [settings, spaces, split, cuts = place["split"].flag(true)](Pieces& pieces) {
    for (AlignedText& piece : pieces) {
      piece.replace(spaces, settings.replacement);
      if (settings.never || (settings.first && piece.begin > 0)) continue;
      if (piece.text.rfind(settings.replacement, 0) != 0) piece.prepend(settings.replacement);
    }
    if (cuts) split(pieces);
  };
}

inline Step<Pieces> split_step(const Section& place) {
  const std::size_t behavior =
      place["behavior"].choice({"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"});
  return Split{Regex(place["pattern"]), static_cast<SplitBehavior>(behavior), place["invert"].flag()};
}

inline Step<Pieces> digits(const Section& place) {
  // Digits that are newer than PCRE2 10.42 are named.
  constexpr const char* digit = R"([\p{N}\x{11f50}-\x{11f59}\x{1d2c0}-\x{1d2d3}\x{1e4f0}-\x{1e4f9}])";
  const bool individual = place["individual_digits"].flag();
  return Split{Regex(place, digit, Syntax::pcre2), individual ? SplitBehavior::isolated : SplitBehavior::contiguous};
}

inline Step<Pieces> make_pre_tokenizer(const Section& section) {
  return make_step<Pieces>(
      section, "pretokenizers",
      {{"ByteLevel", byte_level}, {"Metaspace", metaspace}, {"Split", split_step}, {"Digits", digits}});
}

using TokenTexts = std::vector<std::string>;

inline std::string join(const TokenTexts& tokens, const char* between = "") {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) text += (i > 0 ? between : "") + tokens[i];
  return text;
}

/// The bytes behind the characters. A token with a character that stands for no byte is taken as it is.
inline void decode_byte_level(TokenTexts& tokens) {
  const auto& characters = byte_characters();
  std::string text;
  for (const std::string& token : tokens) {
    std::string bytes;
    for (const char32_t code : to_characters(token)) {
      const auto* first = code < characters.size() ? &characters[code] : characters.data();  // most are their own byte
      const auto* end = characters.data() + characters.size();
      const auto* found = std::find(first, end, code);
      if (found == end) {
        bytes = token;
        break;
      }
      bytes += static_cast<char>(found - characters.data());
    }
    text += bytes;
  }
  tokens = {align(text).text};
}

/// Joins runs of tokens like <0x0A>. If a run is no UTF-8, all of it becomes U+FFFD, one for each byte.
inline void decode_byte_fallback(TokenTexts& tokens) {
  TokenTexts result;
  std::string run;
  const auto end_run = [&] {
    const bool valid = align(run).text == run;
    for (std::size_t i = 0; !valid && i < run.size(); ++i) result.emplace_back("\xEF\xBF\xBD");
    if (valid && !run.empty()) result.push_back(run);
    run.clear();
  };
  for (std::string& token : tokens) {
    unsigned byte = 0;
    const char* end = token.data() + 5;
    if (token.size() == 6 && token.compare(0, 3, "<0x") == 0 && token[5] == '>' &&
        std::from_chars(end - 2, end, byte, 16).ptr == end) {
      run += static_cast<char>(byte);
    } else {
      end_run();
      result.push_back(std::move(token));
    }
  }
  end_run();
  tokens = std::move(result);
}

/// Replaces the matches in every token; the first token has a content of its own.
inline Step<TokenTexts> replace_in_tokens(const Regex& pattern, const std::string& content,
                                          const std::string& in_first) {
  return [pattern, content, in_first](TokenTexts& tokens) {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string result;
      for (const Match& part : pattern.find_all(tokens[i])) {
        const std::string found = tokens[i].substr(part.begin, part.end - part.begin);
        result += !part.is_match ? found : i == 0 ? in_first : content;
      }
      tokens[i] = std::move(result);
      bytes += tokens[i].size();
      if (bytes >> 30U > 0) throw std::length_error("Tokenizer::decode: the text is longer than 1 GiB");
    }
  };
}

/// Takes up to `start` and `stop` characters from the ends of each token.
inline Step<TokenTexts> decode_strip(const Section& place) {
  const std::string content = place["content"].text();
  place["content"].require(to_characters(content).size() == 1, "one character");
  return [content, start = place["start"].integer(), stop = place["stop"].integer()](TokenTexts& tokens) {
    const std::size_t bytes = content.size();
    for (std::string& token : tokens) {
      std::size_t from = 0, to = token.size();
      for (int i = 0; i < start && token.compare(from, bytes, content) == 0; ++i) from += bytes;
      for (int i = 0; i < stop && to >= from + bytes && token.compare(to - bytes, bytes, content) == 0; ++i)
        to -= bytes;
      token = token.substr(from, to - from);
    }
  };
}

inline Step<TokenTexts> decode_metaspace(const Section& place) {
  const MetaspaceSettings settings(place);
  return replace_in_tokens(Regex(place, settings.replacement, Syntax::literal), " ", settings.never ? " " : "");
}

/// Without a decoder, tokens are joined with spaces.
inline Step<TokenTexts> make_decoder(const Section& section) {
  if (section.is_nothing()) return [](TokenTexts& tokens) { tokens = {join(tokens, " ")}; };
  return make_step<TokenTexts>(
      section, "decoders",
      {{"ByteLevel", [](const Section&) -> Step<TokenTexts> { return decode_byte_level; }},
       {"ByteFallback", [](const Section&) -> Step<TokenTexts> { return decode_byte_fallback; }},
       {"Fuse", [](const Section&) -> Step<TokenTexts> { return [](TokenTexts& t) { t = {join(t)}; }; }},
       {"Replace",
        [](const Section& s) {
          const std::string& content = s["content"].text(1024);
          return replace_in_tokens(Regex(s["pattern"]), content, content);
        }},
       {"Strip", decode_strip},
       {"Metaspace", decode_metaspace}});
}

/// A text and its tokens, while the post-processors work on them.
struct EncodedText {
  std::string_view original;
  bool adds_special_tokens;
  std::vector<int> ids;
  std::vector<Span> spans;
};

/// Takes blanks at the ends of tokens out of their spans, but not the one that add_prefix_space may have put there.
inline Step<EncodedText> process_byte_level(const Section& place) {
  const bool trims = place["trim_offsets"].flag(), has_prefix = place["add_prefix_space"].flag();
  return [trims, has_prefix](EncodedText& text) {
    for (std::size_t i = 0; trims && i < text.spans.size(); ++i) {
      auto& [first, last] = text.spans[i];
      const std::string_view token = text.original.substr(first, last - first);
      const std::size_t leading = (std::min)(token.find_first_not_of(' '), token.size());
      const std::size_t words_end = first + token.find_last_not_of(' ') + 1;
      if (!has_prefix || leading != 1 || (i > 0 && first > 0)) first += leading;
      last = (std::max)(first, words_end);
    }
  };
}

inline Step<EncodedText> process_template(const Section& place) {
  std::vector<int> before, after;  // special tokens
  bool has_text = false;
  for (const Section& item : place["single"].list()) {
    if (item.has("Sequence")) {
      item["Sequence"]["id"].choice({"A"});
      if (has_text) item.refuse("has the text for the second time");
      has_text = true;
      continue;
    }
    const std::string& name = item["SpecialToken"]["id"].text();
    for (const Section& id : place["special_tokens"][name]["ids"].list()) {
      (has_text ? after : before).push_back(id.integer());
    }
  }
  return [before, after, has_text](EncodedText& text) {
    if (!text.adds_special_tokens) return;
    if (!has_text) text.ids.clear(), text.spans.clear();
    text.ids.insert(text.ids.begin(), before.begin(), before.end());
    text.ids.insert(text.ids.end(), after.begin(), after.end());
    text.spans.insert(text.spans.begin(), before.size(), Span(0, 0));
    text.spans.resize(text.ids.size(), Span(0, 0));
  };
}

inline Step<EncodedText> make_post_processor(const Section& section) {
  return make_step<EncodedText>(section, "processors",
                                {{"ByteLevel", process_byte_level}, {"TemplateProcessing", process_template}});
}

}  // namespace lm::detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
