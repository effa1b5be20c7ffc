// SPDX-License-Identifier: MIT
// What is changed in a conversation's messages before a chat template sees them.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// As transformers does: keys without a value are dropped, and reasoning gets all the names that templates read.
inline nlohmann::ordered_json normalized_message(const nlohmann::ordered_json& message) {
  if (!message.is_object()) throw std::invalid_argument("ChatTemplate: a message is not an object");
  nlohmann::ordered_json kept = nlohmann::ordered_json::object(), reasoning;
  for (const char* key : {"reasoning", "thinking", "reasoning_content"}) {
    if (message.contains(key) && !message[key].is_null()) reasoning = message[key];
  }
  if (!reasoning.is_null()) kept["thinking"] = reasoning;
  for (const auto& [key, value] : message.items()) {
    if (!value.is_null()) kept[key] = value;
  }
  if (!reasoning.is_null()) kept["reasoning_content"] = reasoning;
  return kept;
}

/// Puts markers in the place of the content, or of the names of the tools that are called.
/// @return  whether there is something to replace.
inline bool mark_answer(nlohmann::ordered_json& message, bool calls, const std::string& marker) {
  const auto place = message.find(calls ? "tool_calls" : "content");
  if (place == message.end()) return false;
  if (!calls && place->is_string()) return *place = marker, true;
  if (!place->is_array()) return false;
  bool marked = false;
  const char* const key = calls ? "name" : "text";
  for (nlohmann::ordered_json& one : *place) {
    nlohmann::ordered_json& piece = calls && one.contains("function") ? one["function"] : one;
    if (piece.is_object() && piece.contains(key)) marked = (piece[key] = marker, true);
  }
  return marked;
}

inline bool has_calls(const nlohmann::ordered_json& message) {
  return message.contains("tool_calls") && !message["tool_calls"].empty();
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
