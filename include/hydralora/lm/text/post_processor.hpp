// SPDX-License-Identifier: MIT
// The post-processors of tokenizer.json: they add the special tokens around a text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/lm/text/added_tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

/// Changes the tokens of a text. Special tokens are only added if the last argument is true.
using PostProcessor = std::function<void(std::vector<Token>&, std::string_view text, bool)>;

/// Takes the blanks at the ends of tokens out of their spans, in characters of the text.
inline void trim_spans(std::vector<Token>& tokens, std::string_view text, bool keeps_first) {
  std::vector<std::size_t> starts;  // of each character, and the end
  for (std::size_t at = 0; at < text.size(); at += character_at(text, at).bytes) starts.push_back(at);
  starts.push_back(text.size());
  const auto number = [&](std::size_t byte) {
    return static_cast<std::size_t>(std::lower_bound(starts.begin(), starts.end(), byte) - starts.begin());
  };
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::size_t begin = number(tokens[i].span.first), end = number(tokens[i].span.second);
    std::size_t leading = tokens[i].leading;
    // One blank at the start is the one that add_prefix_space has put there.
    if ((i == 0 || begin == 0) && keeps_first && leading == 1) leading = 0;
    begin = std::min(begin + leading, end);
    if (end >= tokens[i].trailing) end = std::max(end - tokens[i].trailing, begin);
    tokens[i].span = {starts[begin], starts[end]};
  }
}

inline PostProcessor template_processing(const Section& place) {
  constexpr int text_itself = -1;
  std::vector<int> order;
  for (const Section& item : place["single"].list()) {
    if (item.has("Sequence")) {
      item["Sequence"]["id"].choice({"A"});
      order.push_back(text_itself);
      continue;
    }
    if (!item.has("SpecialToken")) item.refuse("is neither a Sequence nor a SpecialToken");
    for (const Section& id : place["special_tokens"][item["SpecialToken"]["id"].text()]["ids"].list()) {
      order.push_back(id.integer());
    }
  }
  if (std::count(order.begin(), order.end(), text_itself) > 1) place["single"].refuse("has the text twice");
  return [order](std::vector<Token>& tokens, std::string_view, bool adds_special) {
    if (!adds_special) return;
    std::vector<Token> result;
    for (const int id : order) {
      if (id == text_itself) {
        result.insert(result.end(), tokens.begin(), tokens.end());
      } else {
        result.push_back({id, {0, 0}});
      }
    }
    tokens = std::move(result);
  };
}

/// The post-processor that a part of tokenizer.json describes; none for null.
/// @throws FileError  if it is not supported.
inline PostProcessor make_post_processor(const Section& place) {
  if (place.is_nothing()) return [](std::vector<Token>&, std::string_view, bool) {};
  switch (place["type"].choice({"ByteLevel", "TemplateProcessing", "Sequence"})) {
    case 0:
      return [trims = place["trim_offsets"].flag(), prefix = place["add_prefix_space"].flag()](
                 std::vector<Token>& tokens, std::string_view text, bool) {
        if (trims) trim_spans(tokens, text, prefix);
      };
    case 1:
      return template_processing(place);
    default: {
      std::vector<PostProcessor> steps;
      for (const Section& step : place["processors"].steps()) steps.push_back(make_post_processor(step));
      return [steps](std::vector<Token>& tokens, std::string_view text, bool adds_special) {
        for (const PostProcessor& step : steps) step(tokens, text, adds_special);
      };
    }
  }
}

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
