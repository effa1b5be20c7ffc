// SPDX-License-Identifier: MIT
// The decoders of tokenizer.json: they turn tokens back into text.
#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/lm/text/pre_tokenizer.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

using Tokens = std::vector<std::string>;
using Decoder = std::function<void(Tokens&)>;

inline std::string join(const Tokens& tokens, const char* between = "") {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) text += (i > 0 ? between : "") + tokens[i];
  return text;
}

/// The bytes behind the characters. A token with a character that stands for no byte is taken as it is.
inline void decode_byte_level(Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) {
    std::string bytes;
    for (const char32_t code : to_characters(token)) {
      const int byte = byte_of(code);
      if (byte < 0) {
        bytes = token;
        break;
      }
      bytes += static_cast<char>(byte);
    }
    text += bytes;
  }
  tokens = {to_valid_utf8(text)};
}

/// The byte of a token <0x..>; -1 where it is none. As in the library, a sign may stand for the first digit.
inline int fallback_byte(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
  const auto digit = [&](std::size_t i) {
    const std::size_t found = std::string("0123456789abcdefABCDEF").find(token[i]);
    return found == std::string::npos ? -1 : static_cast<int>(found < 16 ? found : found - 6);
  };
  const int high = token[3] == '+' ? 0 : digit(3), low = digit(4);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/// Joins runs of byte tokens. If a run is no UTF-8, all of it becomes U+FFFD, one for each byte.
inline void decode_byte_fallback(Tokens& tokens) {
  Tokens result;
  std::string run;
  const auto end_run = [&] {
    if (run.empty()) return;
    if (to_valid_utf8(run) == run) {
      result.push_back(run);
    } else {
      for (std::size_t i = 0; i < run.size(); ++i) result.emplace_back("\xEF\xBF\xBD");
    }
    run.clear();
  };
  for (std::string& token : tokens) {
    const int byte = fallback_byte(token);
    if (byte >= 0) {
      run += static_cast<char>(byte);
      continue;
    }
    end_run();
    result.push_back(std::move(token));
  }
  end_run();
  tokens = std::move(result);
}

inline Decoder decode_replace(const Section& place) {
  return [find = find_pattern(place["pattern"]), content = place["content"].short_text()](Tokens& tokens) {
    std::size_t bytes = 0;
    for (std::string& token : tokens) {
      std::string result;
      for (const Match& part : find(token)) {
        result += part.is_match ? content : token.substr(part.begin, part.end - part.begin);
      }
      token = std::move(result);
      bytes += token.size();
      if (bytes >> 30U > 0) throw std::length_error("Tokenizer::decode: the text is longer than 1 GiB");
    }
  };
}

/// Takes up to `start` and `stop` characters from the ends of each token.
inline Decoder decode_strip(const Section& place) {
  const std::string content = place["content"].text();
  if (to_characters(content).size() != 1) place["content"].refuse("is not one character");
  const int start = place["start"].integer(), stop = place["stop"].integer();
  return [content, start, stop](Tokens& tokens) {
    for (std::string& token : tokens) {
      std::size_t from = 0, to = token.size();
      for (int i = 0; i < start && token.compare(from, content.size(), content) == 0; ++i) from += content.size();
      for (int i = 0; i < stop && to >= from + content.size(); ++i) {
        if (token.compare(to - content.size(), content.size(), content) != 0) break;
        to -= content.size();
      }
      token = token.substr(from, to - from);
    }
  };
}

inline Decoder decode_metaspace(const Section& place) {
  return [settings = MetaspaceSettings(place)](Tokens& tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string result;
      for (const char32_t code : to_characters(tokens[i])) {
        if (code != settings.code) {
          append_utf8(result, code);
        } else if (i > 0 || settings.never) {
          result += ' ';
        }
      }
      tokens[i] = std::move(result);
    }
  };
}

/// The decoder that a part of tokenizer.json describes. Without one, tokens are joined with spaces.
/// @throws FileError  if it is not supported.
inline Decoder make_decoder(const Section& place) {
  if (place.is_nothing()) return [](Tokens& tokens) { tokens = {join(tokens, " ")}; };
  switch (place["type"].choice({"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "Sequence"})) {
    case 0:
      return decode_byte_level;
    case 1:
      return decode_replace(place);
    case 2:
      return decode_byte_fallback;
    case 3:
      return [](Tokens& tokens) { tokens = {join(tokens)}; };
    case 4:
      return decode_strip(place);
    case 5:
      return decode_metaspace(place);
    default: {
      std::vector<Decoder> steps;
      for (const Section& step : place["decoders"].steps()) steps.push_back(make_decoder(step));
      return [steps](Tokens& tokens) {
        for (const Decoder& step : steps) step(tokens);
      };
    }
  }
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
