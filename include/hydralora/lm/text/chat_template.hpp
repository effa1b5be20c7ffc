// SPDX-License-Identifier: MIT
// The chat templates that models carry, and which bytes of a rendered conversation are trained.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/file.hpp"
#include "hydralora/lm/text/jinja.hpp"
#include "hydralora/lm/text/jinja_parser.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// A template that is wrong, or that raises an error. what() begins with the template's name and the line.
class TemplateError : public std::runtime_error {
 public:
  TemplateError(const std::string& name, int line, const std::string& reason)
      : std::runtime_error(name + ", line " + std::to_string(line) + ": " + reason), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

/// What transformers' apply_chat_template(tokenize=False) gives. A copy shares the parsed template.
class ChatTemplate {
 public:
  using Json = nlohmann::ordered_json;

  /// @param text  a Jinja template
  /// @param name  appears in errors
  /// @throws TemplateError  on a syntax error, with its line.
  ChatTemplate(const std::string& text, std::string name) : name_(std::move(name)) {
    int line = 1;
    try {
      nodes_ = std::make_shared<const jinja::Nodes>(jinja::parse(text, line));
    } catch (const jinja::Fault& fault) {
      throw TemplateError(name_, line, fault.what());
    }
  }

  /// The ChatML form, for a model without a template.
  static ChatTemplate chatml() {
    return {
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>"
        "\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "ChatML"};
  }

  /// The template of a model's folder: chat_template.jinja, else chat_template in tokenizer_config.json (a string, or a
  /// list of names and templates, of which "default" is taken). tokenizer_config.json also gives the variables
  /// bos_token, eos_token and so on.
  /// @return  std::nullopt where the model has no template.
  /// @throws FileError      where a file cannot be read or is not what it should be.
  /// @throws TemplateError  on a syntax error.
  static std::optional<ChatTemplate> of_model(const std::filesystem::path& folder) {
    const std::filesystem::path own = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
    Json settings = Json::object();
    if (std::filesystem::exists(config)) settings = Json::parse(read(config), nullptr, false);
    if (!settings.is_object()) throw FileError(config, "is not a JSON object");
    std::optional<ChatTemplate> result;
    if (std::filesystem::exists(own)) {
      result.emplace(read(own), own.string());
    } else if (const auto found = settings.find("chat_template"); found != settings.end() && !found->is_null()) {
      Json text = *found;
      for (std::size_t i = 0; found->is_array() && i < found->size(); ++i) {
        const Json& choice = (*found)[i];
        if (choice.is_object() && choice.value("name", Json()) == "default") text = choice.value("template", Json());
      }
      if (!text.is_string()) throw FileError(config, "has a chat_template that is no text and has no \"default\"");
      result.emplace(text.get<std::string>(), config.string());
    }
    for (const char* key :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
      const auto found = settings.find(key);
      if (!result || found == settings.end()) continue;
      const Json token = found->is_object() ? found->value("content", Json()) : *found;
      if (token.is_string()) result->variables_[key] = token;
    }
    return result;
  }

  /// @param messages   an array of objects with role and content
  /// @param variables  an object: what the template sees besides, such as tools; replaces variables of the same name
  /// @throws std::invalid_argument  where messages or variables have another form.
  /// @throws TemplateError          where the template raises an error, or makes more than 64 MiB or 20 million steps.
  std::string render(const Json& messages, bool add_generation_prompt, const Json& variables = {}) const {
    if (!messages.is_array()) throw std::invalid_argument("ChatTemplate: the messages are not an array");
    if (!variables.is_object() && !variables.is_null()) {
      throw std::invalid_argument("ChatTemplate: the variables are not an object");
    }
    Json all = variables_;
    all["tools"] = all["documents"] = nullptr;
    if (variables.is_object()) all.update(variables);
    all["messages"] = Json::array();
    all["add_generation_prompt"] = add_generation_prompt;
    for (const Json& message : messages) all["messages"].push_back(normalized(message));
    int line = 1;
    try {
      return jinja::Interpreter(jinja::Value(all).dict(), line).run(*nodes_);
    } catch (const jinja::Fault& fault) {
      throw TemplateError(name_, line, fault.what());
    }
  }

  struct Rendered {
    std::string text;
    std::vector<std::pair<std::size_t, std::size_t>> answers;  ///< [begin, end) in bytes of text
  };

  /// The text, and which bytes of it are trained: each assistant's words and the end-of-turn token behind them.
  /// The words are found by rendering the conversation once more for each answer, with a marker in the place of the
  /// answer's content: they are what lies between that which stands before and behind the marker. So they may be empty,
  /// repeated elsewhere, trimmed or changed by the template. Where the rest of the text differs, the names of called
  /// tools are marked instead, and the words begin behind the generation prompt. Where that fails as well, the answer
  /// is what its turn appends to the generation prompt, up to the turn's last special token.
  /// An answer that changes nothing in the text has been left out by the template, and has no span.
  /// @param special_tokens  the tokenizer's, the end of a turn among them. White space before that is trained as well.
  /// @throws std::invalid_argument  where an answer is in the text but is not found in these ways, or where none is.
  /// @throws TemplateError          as render().
  /// Cost     2 to 6 renderings for each answer, 2 for the last one.
  Rendered render_with_answers(const Json& messages, const std::vector<std::string>& special_tokens) const {
    Rendered result{render(messages, false), {}};
    std::size_t count = 0;
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (!messages[i].is_object() || messages[i].value("role", Json()) != "assistant") continue;
      ++count;
      const auto span = answer(messages, i, result.text, special_tokens);
      if (span) result.answers.push_back(*span);
    }
    if (count > 0 && result.answers.empty()) {
      throw std::invalid_argument(name_ + ": none of the conversation's answers is in the rendered text");
    }
    return result;
  }

 private:
  using Span = std::optional<std::pair<std::size_t, std::size_t>>;

  static std::string read(const std::filesystem::path& path) { return read_text(path, std::uint64_t{1} << 26U); }

  /// As transformers does: keys without a value are dropped, and reasoning gets all the names that templates read.
  static Json normalized(const Json& message) {
    if (!message.is_object()) throw std::invalid_argument("ChatTemplate: a message is not an object");
    Json kept = Json::object(), reasoning;
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
  static bool mark(Json& message, bool calls, const std::string& marker) {
    const auto place = message.find(calls ? "tool_calls" : "content");
    if (place == message.end()) return false;
    if (!calls && place->is_string()) return *place = marker, true;
    bool marked = false;
    const char* const key = calls ? "name" : "text";
    for (std::size_t i = 0; place->is_array() && i < place->size(); ++i) {
      Json& one = (*place)[i];
      Json& piece = calls && one.contains("function") ? one["function"] : one;
      if (piece.is_object() && piece.contains(key)) marked = (piece[key] = marker, true);
    }
    return marked;
  }
  static bool has_calls(const Json& one) { return one.contains("tool_calls") && !one["tool_calls"].empty(); }

  /// The rendering of the first `count` messages; nothing where the template refuses them.
  std::optional<std::string> part(const Json& messages, std::size_t count, bool add_generation_prompt) const {
    Json first = Json::array();
    for (std::size_t i = 0; i < count; ++i) first.push_back(messages[i]);
    try {
      return render(first, add_generation_prompt);
    } catch (const TemplateError&) {
      return std::nullopt;
    }
  }

  Span answer(const Json& messages, std::size_t i, std::string_view text,
              const std::vector<std::string>& special) const {
    std::string marker = "9081726354";  // digits have no case, need no escape, and these do not overlap themselves
    while (text.find(marker) != std::string_view::npos) marker += '0';
    for (const bool calls : {false, true}) {
      Json marked = messages;
      if (!mark(marked[i], calls, marker)) continue;
      const std::optional<std::string> other = part(marked, marked.size(), false);
      if (other && *other == text && !has_calls(messages[i])) return std::nullopt;  // left out
      const std::size_t first = other ? other->find(marker) : std::string::npos;
      if (first == std::string::npos) continue;
      const std::string_view behind = std::string_view(*other).substr(other->rfind(marker) + marker.size());
      const std::size_t end = text.size() - std::min(text.size(), behind.size());
      if (first > end || !jinja::begins(text, std::string_view(*other).substr(0, first)) || text.substr(end) != behind)
        continue;
      const std::size_t begin = begin_of_answer(messages, i, text, first, calls);
      if (begin == std::string::npos) continue;
      return std::make_pair(begin, end + end_of_turn(marked, i, behind, marker, special));
    }
    return whole_turn(messages, i, text, special);
  }

  /// Where an answer begins whose content, or whose calls, begin at `first`; npos where that cannot be told.
  std::size_t begin_of_answer(const Json& messages, std::size_t i, std::string_view text, std::size_t first,
                              bool calls) const {
    const std::optional<std::string> prompt = part(messages, i, true), without = part(messages, i, false);
    const std::string_view before = text.substr(0, first);
    if (calls) {  // behind what the template adds as a generation prompt
      if (!prompt || !without || !jinja::begins(*prompt, *without)) return std::string::npos;
      const std::string_view added = std::string_view(*prompt).substr(without->size());
      const std::size_t at = added.empty() ? std::string_view::npos : before.rfind(added);
      return at == std::string_view::npos ? at : at + added.size();
    }
    // White space behind the end of the generation prompt is the answer's: the model has to write it. The prompt's last
    // word shows where it ends, for the text before it can differ from the text of the whole conversation.
    const auto trimmed = [](std::string_view all) { return jinja::strip(all, nullptr, false, true); };
    const auto last_word = [](std::string_view all) { return all.substr(all.find_last_of(" \t\r\n") + 1); };
    if (!prompt) return first;
    const std::string_view own = trimmed(before), others = trimmed(*prompt);
    const std::string_view space = before.substr(own.size()), given = std::string_view(*prompt).substr(others.size());
    const bool same = last_word(own) == last_word(others) && jinja::begins(space, given);
    return same ? own.size() + given.size() : first;
  }

  /// How many bytes of `behind`, which stands behind an answer, belong to it. The conversation that ends with this
  /// answer shows what the turn itself writes: a special token that only the next turn writes does not end this one.
  std::size_t end_of_turn(const Json& marked, std::size_t i, std::string_view behind, const std::string& marker,
                          const std::vector<std::string>& special) const {
    std::string_view own = behind;
    const std::string shorter = i + 1 < marked.size() ? part(marked, i + 1, false).value_or("") : "";
    if (const std::size_t at = shorter.rfind(marker); at != std::string::npos) {
      const auto tail = shorter.begin() + static_cast<std::ptrdiff_t>(at + marker.size());
      const auto differ = std::mismatch(tail, shorter.end(), behind.begin(), behind.end());
      own = behind.substr(0, static_cast<std::size_t>(differ.second - behind.begin()));
    }
    if (has_calls(marked[i])) return last_special(own, special).value_or(0);
    const std::size_t space = own.size() - jinja::strip(own, nullptr, true, false).size();
    std::size_t end = 0;
    for (const std::string& token : special) {
      if (!token.empty() && jinja::begins(own.substr(space), token)) end = std::max(end, space + token.size());
    }
    return end;
  }

  /// Behind the last special token of a text.
  static std::optional<std::size_t> last_special(std::string_view text, const std::vector<std::string>& special) {
    std::optional<std::size_t> end;
    for (const std::string& token : special) {
      const std::size_t at = token.empty() ? std::string_view::npos : text.rfind(token);
      if (at != std::string_view::npos) end = std::max(end.value_or(0), at + token.size());
    }
    return end;
  }

  Span whole_turn(const Json& messages, std::size_t i, std::string_view text,
                  const std::vector<std::string>& special) const {
    const std::optional<std::string> prompt = part(messages, i, true), turn = part(messages, i + 1, false);
    if (!prompt || !turn || prompt->size() >= turn->size() || !jinja::begins(*turn, *prompt) ||
        !jinja::begins(text, *turn)) {
      throw std::invalid_argument(name_ + ": the answer in message " + std::to_string(i) +
                                  " cannot be found in the rendered text");
    }
    const std::string_view words = text.substr(prompt->size(), turn->size() - prompt->size());
    return std::make_pair(prompt->size(), prompt->size() + last_special(words, special).value_or(words.size()));
  }

  std::string name_;
  std::shared_ptr<const jinja::Nodes> nodes_;
  Json variables_ = Json::object();
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
