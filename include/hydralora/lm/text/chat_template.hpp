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
  /// @param variables  what every rendering sees: bos_token, for example
  /// @throws TemplateError  on a syntax error, with its line.
  ChatTemplate(const std::string& text, std::string name, Json variables = Json::object())
      : name_(std::move(name)), variables_(std::move(variables)) {
    const auto interpreter = std::make_shared<jinja::Interpreter>(text);
    located(*interpreter, [&] { return interpreter->check(), ""; });
    checked_ = interpreter;
  }

  /// The ChatML form, for a model without a template.
  static ChatTemplate chatml() {
    return {
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>"
        "\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "ChatML"};
  }

  /// The template of a model's folder: chat_template.jinja, else chat_template in tokenizer_config.json (a string, or a
  /// list of names and templates, of which "default" is taken), which also gives bos_token, eos_token and so on.
  /// @return  std::nullopt where the model has no template.
  /// @throws FileError      where a file cannot be read or is not what it should be.
  /// @throws TemplateError  on a syntax error.
  static std::optional<ChatTemplate> of_model(const std::filesystem::path& folder) {
    const std::filesystem::path own = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
    Json settings = Json::object();
    if (std::filesystem::exists(config)) settings = Json::parse(read(config), nullptr, false);
    if (!settings.is_object()) throw FileError(config, "is not a JSON object");
    Json text = settings.value("chat_template", Json());
    const Json choices = text.is_array() ? text : Json::array();
    for (const Json& choice : choices) {
      if (choice.is_object() && choice.value("name", Json()) == "default") text = choice.value("template", Json());
    }
    const bool has_own = std::filesystem::exists(own);
    if (!has_own && text.is_null() && choices.empty()) return std::nullopt;
    if (!has_own && !text.is_string()) throw FileError(config, "has no text as chat_template and no \"default\"");
    ChatTemplate result(has_own ? read(own) : text.get<std::string>(), (has_own ? own : config).string());
    for (const auto key :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
      Json token = settings.value(key, Json());
      if (token.is_object()) token = token.value("content", Json());
      if (token.is_string()) result.variables_[key] = token;
    }
    return result;
  }

  /// @param messages   an array of objects with role and content
  /// @param variables  an object: what the template sees besides, such as tools; replaces variables of the same name
  /// @throws std::invalid_argument  where messages or variables have another form.
  /// @throws TemplateError          where the template raises an error, or makes more than 64 MiB or 5 million steps.
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
    jinja::Interpreter interpreter = *checked_;
    return located(interpreter, [&] { return interpreter.run(jinja::Value(all).dict()); });
  }

  struct Rendered {
    std::string text;
    std::vector<std::pair<std::size_t, std::size_t>> answers;  ///< [begin, end) in bytes of text
  };

  /// The text, and which bytes of it are trained: each assistant's words and the end-of-turn token behind them.
  /// The words are what lies between that which stands before and behind a marker, where the conversation is rendered
  /// once more with the marker as the answer's content. Where the rest of the text differs, or an answer has tool calls
  /// only, they are what its turn appends to the generation prompt, up to the last special token. What the template
  /// leaves out has no span.
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

  /// Does `work`, and gives the line of what the interpreter read last to an error.
  template <typename Work>
  std::string located(const jinja::Interpreter& interpreter, const Work& work) const {
    try {
      return work();
    } catch (const jinja::Fault& fault) {
      throw TemplateError(name_, interpreter.line(), fault.what());
    }
  }
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

  /// Puts a marker in the place of the content. @return  whether there is any.
  static bool mark(Json& message, const std::string& marker) {
    Json& content = message["content"];
    bool marked = content.is_string();
    if (marked) content = marker;
    for (std::size_t i = 0; content.is_array() && i < content.size(); ++i) {
      if (content[i].is_object() && content[i].contains("text")) marked = (content[i]["text"] = marker, true);
    }
    return marked;
  }

  /// The rendering of the first `count` messages; nothing where the template refuses them.
  std::string part(const Json& messages, std::size_t count, bool add_generation_prompt) const {
    try {
      return render(Json(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count)),
                    add_generation_prompt);
    } catch (const TemplateError&) {
      return {};
    }
  }

  Span answer(const Json& messages, std::size_t i, std::string_view text,
              const std::vector<std::string>& special) const {
    std::string marker = "9081726354";  // digits have no case, need no escape, and these do not overlap themselves
    while (text.find(marker) != std::string_view::npos) marker += '0';
    Json marked = messages;
    const bool calls = !messages[i].value("tool_calls", Json()).empty();
    if (mark(marked[i], marker)) {
      const std::string all = part(marked, marked.size(), false);
      if (all == text && !calls) return std::nullopt;  // left out
      const std::size_t first = all.find(marker);
      const bool shown = first != std::string::npos;
      const std::string before = all.substr(0, first),
                        behind = shown ? all.substr(all.rfind(marker) + marker.size()) : "";
      const bool fits = jinja::begins(text, before) && jinja::ends(text, behind);
      if (shown && fits && first + behind.size() <= text.size()) {
        const std::size_t end = text.size() - behind.size() + end_of_turn(marked, i, behind, marker, special, calls);
        return {{begin_of_answer(part(messages, i, true), before), end}};
      }
    }
    const std::string prompt = part(messages, i, true), turn = part(messages, i + 1, false);  // the whole turn
    if (prompt.empty() || prompt.size() >= turn.size() || !jinja::begins(turn, prompt) || !jinja::begins(text, turn)) {
      throw std::invalid_argument(name_ + ": the answer in message " + std::to_string(i) +
                                  " cannot be found in the rendered text");
    }
    const std::size_t end = last_special(turn.substr(prompt.size()), special);
    return {{prompt.size(), end > 0 ? prompt.size() + end : turn.size()}};
  }

  /// Where an answer begins whose content stands behind `before`, in bytes.
  /// White space behind the end of the generation prompt is the answer's: the model has to write it. The prompt's last
  /// word shows where it ends, for the text before it can differ from the text of the whole conversation.
  static std::size_t begin_of_answer(std::string_view prompt, std::string_view before) {
    const auto words = [](std::string_view all) { return all.substr(0, detail::start_of_blanks(all, all.size(), 0)); };
    const auto last_word = [](std::string_view all) { return all.substr(all.find_last_of(" \t\r\n") + 1); };
    const std::string_view own = words(before), others = words(prompt), given = prompt.substr(others.size());
    const bool same = last_word(own) == last_word(others) && jinja::begins(before.substr(own.size()), given);
    return same ? own.size() + given.size() : before.size();
  }

  /// How many bytes of `behind`, which stands behind an answer, belong to it. The conversation that ends with this
  /// answer shows what the turn itself writes: a special token that only the next turn writes does not end this one.
  std::size_t end_of_turn(const Json& marked, std::size_t i, std::string_view behind, const std::string& marker,
                          const std::vector<std::string>& special, bool calls) const {
    const std::string turn = i + 1 < marked.size() ? part(marked, i + 1, false) : "";
    if (const std::size_t at = turn.rfind(marker); at != std::string::npos) {
      const auto tail = turn.begin() + static_cast<std::ptrdiff_t>(at + marker.size());
      const auto differ = std::mismatch(tail, turn.end(), behind.begin(), behind.end()).second;
      behind = behind.substr(0, static_cast<std::size_t>(differ - behind.begin()));
    }
    if (calls) return last_special(behind, special);
    const std::string_view first = behind.substr(detail::end_of_blanks(behind, 0));
    std::size_t length = 0;
    for (const std::string& token : special)
      length = (std::max)(length, jinja::begins(first, token) ? token.size() : 0);
    return length > 0 ? behind.size() - first.size() + length : 0;
  }

  /// Behind the last special token of a text; 0 where it has none.
  static std::size_t last_special(std::string_view text, const std::vector<std::string>& special) {
    std::size_t end = 0;
    for (const std::string& token : special) {
      const std::size_t at = token.empty() ? std::string_view::npos : text.rfind(token);
      if (at != std::string_view::npos) end = (std::max)(end, at + token.size());
    }
    return end;
  }

  std::string name_;
  std::shared_ptr<const jinja::Interpreter> checked_;  // renderings work on copies
  Json variables_ = Json::object();
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
