// SPDX-License-Identifier: MIT
// Training examples from JSON lines.
//
//   {"messages": [{"role": …, "content": …}, …]}   {"conversations": [{"from": "human", "value": …}, …]} (ShareGPT)
//   {"instruction": …, "input": …, "output": …} (Alpaca)   {"prompt": …, "completion": …}   {"text": …}
//   {"input_ids": […], "labels": […]}: labels as in transformers
//
// Conversations: the template writes all special tokens; an answer's end token is trained. In prompt/completion, which
// are tokenised apart, and in text, an end token is added and trained. A line may have a "group".
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/io/file.hpp"
#include "hydralora/lm/decoder.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// One document of training data.
struct Example {
  std::vector<int> ids, labels;
  int group = 0;  ///< index into ExampleFile::groups
};

/// What examples need of a model's text side. Each function throws std::invalid_argument or FileError on bad input.
struct TextFunctions {
  /// A conversation's ids, and its labels: the assistant's words and the end token behind them.
  std::function<Example(const nlohmann::ordered_json& messages)> conversation;
  /// A text's ids. @param begins  whether the tokenizer's own special tokens are added.
  std::function<std::vector<int>(const std::string& text, bool begins)> encode;
  int end_token = -1;  ///< −1: none is added
};

namespace detail {

[[noreturn]] inline void refuse_line(const std::filesystem::path& path, std::size_t line, const std::string& reason) {
  throw FileError(path, "line " + std::to_string(line) + ": " + reason);
}

/// Reads one line of a data file.
class LineReader {
 public:
  LineReader(const TextFunctions& text, const std::filesystem::path& path, std::size_t line)
      : text_(text), path_(path), line_(line) {}

  [[noreturn]] void refuse(const std::string& reason) const { refuse_line(path_, line_, reason); }
  template <class Function>
  auto call(Function&& f) const {
    try {
      return f();
    } catch (const std::exception& error) {
      refuse(error.what());
    }
  }
  Example read(const nlohmann::ordered_json& json) const {
    if (!json.is_object()) refuse("is not a JSON object");
    if (json.contains("input_ids")) return ready(json);
    if (json.contains("messages")) return conversation(messages(json["messages"], "role", "content"));
    if (json.contains("conversations")) return conversation(messages(json["conversations"], "from", "value"));
    if (json.contains("instruction") || json.contains("output")) {
      const std::string input = json.contains("input") ? string(json, "input") : "";
      const std::string question = string(json, "instruction") + (input.empty() ? "" : "\n\n" + input);
      return conversation(
          {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", string(json, "output")}}});
    }
    if (json.contains("prompt") || json.contains("completion")) {
      Example example;
      append(example, call([&] { return text_.encode(string(json, "prompt"), true); }), false);
      append(example, call([&] { return text_.encode(string(json, "completion"), false); }), true);
      return ended(std::move(example));
    }
    if (json.contains("text")) {
      Example example;
      append(example, call([&] { return text_.encode(string(json, "text"), true); }), true);
      return ended(std::move(example));
    }
    refuse("has none of the keys messages, conversations, instruction, prompt, text, input_ids");
  }

 private:
  std::string string(const nlohmann::ordered_json& json, const char* key) const {
    if (!json.contains(key) || !json[key].is_string()) refuse("\"" + std::string(key) + "\" is not a text");
    return json[key].get<std::string>();
  }
  Example conversation(const nlohmann::ordered_json& messages) const {
    return call([&] { return text_.conversation(messages); });
  }
  static void append(Example& example, const std::vector<int>& ids, bool trained) {
    for (const int id : ids) {
      example.ids.push_back(id);
      example.labels.push_back(trained ? id : not_scored);
    }
  }
  Example ended(Example example) const {
    if (text_.end_token >= 0) append(example, {text_.end_token}, true);
    return example;
  }
  Example ready(const nlohmann::ordered_json& json) const {
    const auto numbers = [&](const char* key) {
      const auto& list = json[key];
      const auto fits = [](const auto& n) { return n.is_number_integer() && n >= not_scored && n <= (1 << 30); };
      if (!list.is_array() || !std::all_of(list.begin(), list.end(), fits)) {
        refuse("\"" + std::string(key) + "\" is not a list of whole numbers");
      }
      return list.template get<std::vector<int>>();
    };
    Example example;
    example.ids = numbers("input_ids");
    example.labels = json.contains("labels") ? numbers("labels") : example.ids;
    if (example.labels.size() != example.ids.size()) {
      refuse("has " + std::to_string(example.ids.size()) + " input_ids and " + std::to_string(example.labels.size()) +
             " labels");
    }
    return example;
  }
  /// The roles and contents of a conversation; ShareGPT's names for the roles become the usual ones.
  nlohmann::ordered_json messages(const nlohmann::ordered_json& list, const char* role, const char* content) const {
    if (!list.is_array() || list.empty()) refuse("the conversation is not a list of messages");
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const auto& message : list) {
      if (!message.is_object()) refuse("a message is not an object");
      if (message.contains("tool_calls") && !message["tool_calls"].is_null()) refuse("tool calls are not supported");
      const std::string found = string(message, role);
      if (found == "tool" || found == "function" || found == "function_call") refuse("tool calls are not supported");
      const bool answers = found == "gpt" || found == "chatgpt" || found == "bot" || found == "model";
      nlohmann::ordered_json one = {{"role", found == "human" ? "user" : answers ? "assistant" : found}};
      if (message.contains(content) && message[content].is_array()) {  // parts, of which only texts are supported
        std::string joined;
        for (const auto& part : message[content]) {
          if (!part.is_object() || part.value("type", nlohmann::ordered_json()) != "text") {
            refuse("a content's part is not a text");
          }
          joined += string(part, "text");
        }
        one["content"] = joined;
      } else {
        one["content"] = string(message, content);
      }
      all.push_back(std::move(one));
    }
    return all;
  }

  const TextFunctions& text_;
  const std::filesystem::path& path_;
  std::size_t line_;
};

}  // namespace detail

/// All examples of some files, and what was left out.
struct ExampleFile {
  std::vector<Example> examples;
  std::vector<std::string> groups;  ///< names, in the order in which they appear; "" for lines without
  std::size_t too_long = 0, unlabelled = 0;

  /// Adds the examples of a file. Empty lines are skipped.
  /// @param max_length  longer examples are left out, or cut where `truncate`.
  /// @throws FileError  with the number of the line: it is broken, or has no form that is known.
  void read(const std::filesystem::path& path, const TextFunctions& text, Index max_length, bool truncate) {
    const std::string content = read_text(path);
    std::size_t line = 0;
    for (std::size_t begin = 0; begin < content.size(); ++line) {
      const std::size_t end = (std::min)(content.find('\n', begin), content.size());
      const std::string one = content.substr(begin, end - begin);
      begin = end + 1;
      if (one.find_first_not_of(" \t\r") == std::string::npos) continue;
      const nlohmann::ordered_json json = nlohmann::ordered_json::parse(one, nullptr, false);
      if (json.is_discarded()) detail::refuse_line(path, line + 1, "is not JSON");
      Example example = detail::LineReader(text, path, line + 1).read(json);
      example.group = group(json, path, line + 1);
      add(std::move(example), max_length, truncate);
    }
  }

 private:
  int group(const nlohmann::ordered_json& json, const std::filesystem::path& path, std::size_t line) {
    std::string name;
    if (json.contains("group")) {
      const auto& found = json["group"];
      if (!found.is_string() && !found.is_number_integer()) detail::refuse_line(path, line, "\"group\" is not a name");
      name = found.is_string() ? found.get<std::string>() : found.dump();
    }
    const auto place = std::find(groups.begin(), groups.end(), name) - groups.begin();
    if (place == static_cast<std::ptrdiff_t>(groups.size())) groups.push_back(name);
    return static_cast<int>(place);
  }
  void add(Example example, Index max_length, bool truncate) {
    if (static_cast<Index>(example.ids.size()) > max_length) {
      if (!truncate) {
        ++too_long;
        return;
      }
      example.ids.resize(static_cast<std::size_t>(max_length));
      example.labels.resize(static_cast<std::size_t>(max_length));
    }
    const bool scored = example.labels.size() > 1 && std::any_of(example.labels.begin() + 1, example.labels.end(),
                                                                 [](int label) { return label != not_scored; });
    if (!scored) {
      ++unlabelled;
      return;
    }
    examples.push_back(std::move(example));
  }
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
