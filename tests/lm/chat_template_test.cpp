// SPDX-License-Identifier: MIT
#include "hydralora/lm/text/chat_template.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/files.hpp"

namespace {

using hydralora::lm::ChatTemplate, hydralora::lm::TemplateError;
using OrderedJson = nlohmann::ordered_json;

OrderedJson read(const std::filesystem::path& path) { return OrderedJson::parse(std::ifstream(path)); }

std::vector<std::string> special_tokens(const std::filesystem::path& folder) {
  std::vector<std::string> tokens;
  const OrderedJson config = read(folder / "tokenizer_config.json");
  for (const OrderedJson& token : config["added_tokens_decoder"]) {
    if (token["special"].get<bool>()) tokens.push_back(token["content"]);
  }
  return tokens;
}

/// Spans in bytes as spans in code points.
OrderedJson in_code_points(const ChatTemplate::Rendered& rendered) {
  const auto count = [&](std::size_t bytes) { return hydralora::lm::jinja::length(rendered.text.substr(0, bytes)); };
  OrderedJson spans = OrderedJson::array();
  for (const auto& [begin, end] : rendered.answers) spans.push_back({count(begin), count(end)});
  return spans;
}

std::string rendered(const std::string& text) {
  const OrderedJson messages = {{{"role", "user"}, {"content", " hi\n"}}, {{"role", "assistant"}, {"content", "yo"}}};
  return ChatTemplate(text, "T").render(messages, false);
}

OrderedJson conversation(const std::vector<std::string>& contents) {
  OrderedJson messages = OrderedJson::array();
  for (std::size_t i = 0; i < contents.size(); ++i) {
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", contents[i]}});
  }
  return messages;
}

std::vector<std::string> answers(const ChatTemplate& chat, const OrderedJson& messages) {
  const ChatTemplate::Rendered result = chat.render_with_answers(messages, {"<|im_start|>", "<|im_end|>", "</s>"});
  std::vector<std::string> words;
  for (const auto& [begin, end] : result.answers) words.push_back(result.text.substr(begin, end - begin));
  return words;
}

}  // namespace

TEST_CASE("chat templates: text and trained spans are those of transformers") {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HYDRALORA_LM_CASES)) {
    const std::filesystem::path& folder = entry.path();
    if (folder.filename().string()[0] != 'D') continue;
    CAPTURE(folder.string());
    const auto chat = ChatTemplate::of_model(folder);
    REQUIRE(chat);
    const OrderedJson expected = read(folder / "expected.json");
    for (const OrderedJson& one : expected["cases"]) {
      CAPTURE(one.dump());
      CHECK(chat->render(one["messages"], one["add_generation_prompt"]) == one["text"]);
      const auto result = chat->render_with_answers(one["messages"], special_tokens(folder));
      CHECK(in_code_points(result) == one["assistant_spans"]);
      ++count;
    }
    for (const OrderedJson& one : expected.value("must_fail", OrderedJson::array())) {
      CHECK_THROWS_WITH_AS(chat->render(one["messages"], false),
                           doctest::Contains(one["message"].get<std::string>().c_str()), TemplateError);
    }
  }
  CHECK(count >= 45);
}

TEST_CASE("chat templates: of_model takes the default of a list, tokens as objects, and nothing where nothing is") {
  const support::TemporaryFolder folder;
  CHECK_FALSE(ChatTemplate::of_model(folder.path()));
  std::ofstream(folder("tokenizer_config.json")) << R"({"bos_token": {"content": "<s>"}, "eos_token": null,
      "chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "{{ bos_token }}b"}]})";
  CHECK(ChatTemplate::of_model(folder.path())->render(OrderedJson::array(), false) == "<s>b");
  std::ofstream(folder("chat_template.jinja")) << "c{{ bos_token }}{{ eos_token }}\n";
  CHECK(ChatTemplate::of_model(folder.path())->render(OrderedJson::array(), false) == "c<s>");
  std::ofstream(folder("tokenizer_config.json")) << "[";
  CHECK_THROWS_AS(ChatTemplate::of_model(folder.path()), hydralora::FileError);
}

TEST_CASE("chat templates: small templates print what jinja2 prints") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"  {% if 1 %}\n  a\n  {%- endif %}\n{{ 'b' }}\n\n", "  ab\n"},
      {"{{ 'a' + 'b' | upper }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 + 3 * 2 }}", "aB -4 2 3.5 8"},
      {"{{ 1 < 2 }} {{ 0 or 'x' }} {{ 'a' ~ 1 ~ none }} {{ 3 not in [1, 2] }}", "True x a1None True"},
      {"{{ 'Γειά'[::-1] }} {{ [1, 2, 3][-2:] }} {{ (1,) }} {{ {'a': [1.0, 0.5, \"it's\"]} }}",
       "άιεΓ [2, 3] (1,) {'a': [1.0, 0.5, \"it's\"]}"},
      {"{% for x in [3, 1] if x > 1 %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/1"},
      {"{% set x = 1 %}{% set n = namespace(x=1) %}{% for i in range(9) %}{% if i == 4 %}{% break %}{% endif %}"
       "{% set x = i %}{% set n.x = n.x + i %}{% endfor %}{{ x }}{{ n.x }}",
       "17"},
      {"{% macro f(a, b='q') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(b=2, a=3) }}", "[1q][32]"},
      {"{{ {'b': [true, none, 'é<']} | tojson }}{{ [1] | tojson(indent=2) }}", R"({"b": [true, null, "é<"]})"
                                                                               "[\n  1\n]"},
      {"{{ messages | map(attribute='role') | join(',') }}{{ tools }}", "user,assistantNone"},
      {"{{ '{{ x }}' }}{# c #}{% generation %}y{% endgeneration %}", "{{ x }}y"}};
  for (const auto& [text, expected] : cases) CHECK(rendered(text) == expected);
}

TEST_CASE("chat templates: errors have the template's name and line") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"a\n{{ zz.x }}", "T, line 2: 'zz' is undefined"},
      {"{{ messages.append(1) }}", "T, line 1: 'list object' has no attribute 'append'"},
      {"{{ 2 ** 3 }}", "T, line 1: expected an expression, got '* 3 }}'"},
      {"\n{{ 1 < 2 < 3 }}", "T, line 2: expected no second comparison"},
      {"\n{% raw %}{% endraw %}", "T, line 2: Encountered unknown tag 'raw'"},
      {"{{ '%s' % 1 }}", "T, line 1: unsupported operand type(s) for %: 'str' and 'int'"},
      {"\n\n{% if 1 %}", "T, line 3: expected {% endif %}"},
      {"{{ 1 | urlencode }}", "T, line 1: No filter named 'urlencode'."},
      {"\n{{ raise_exception('no ' ~ 1) }}", "T, line 2: no 1"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deep"},
      {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"},
      {"{{ 'x' * 999999999 }}", "64 MiB"},
      {"{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "64 MiB"},
      {"{% set n = namespace(x=0) %}{% for i in range(999) %}{% set n.x = [n.x] %}{% endfor %}", "deeper than 200"},
      {"{% set n = namespace() %}{% set n.n = n %}{{ n }}", "deeper than 200"}};
  for (const auto& [text, part] : cases) CHECK_THROWS_WITH_AS(rendered(text), doctest::Contains(part), TemplateError);
  CHECK_THROWS_AS(rendered("{{ " + std::string(100000, '(')), TemplateError);
}

TEST_CASE("chat templates: an answer is found where its text is empty, repeated, changed or left out") {
  const ChatTemplate chatml = ChatTemplate::chatml();
  using Words = std::vector<std::string>;
  CHECK(answers(chatml, conversation({"a", "a", "b", ""})) == Words{"a<|im_end|>", "<|im_end|>"});
  const ChatTemplate changing("{% for m in messages %}{{ m.role ~ m.content | trim | upper ~ ' </s>' }}{% endfor %}",
                              "T");
  CHECK(answers(changing, conversation({"a", " b\n"})) == Words{"B </s>"});
  const ChatTemplate last("{% for m in messages[-2:] %}{{ m.content }}{% endfor %}", "T");
  CHECK(answers(last, conversation({"a", "b", "c", "d"})) == Words{"d"});
  const ChatTemplate thinking(
      "{% for m in messages %}{{ m.role }}:{% set c = m.content.split('</think>') %}"
      "{% if c | length > 1 and loop.last %}{{ c[0] }}</think>{% endif %}{{ c[-1] }}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}assistant:{% endif %}",
      "T");
  CHECK(answers(thinking, conversation({"q", "x</think>y", "r", "z</think>w"})) ==
        Words{"y<|im_end|>", "z</think>w<|im_end|>"});
  CHECK_THROWS_AS(answers({"{{ messages[0].content }}", "T"}, conversation({"a", "b"})), std::invalid_argument);
}
