// SPDX-License-Identifier: MIT
#include "commands.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <map>
#include <stdexcept>

#include "evaluation.hpp"

namespace finetune_lm {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// f(one) for all of the array in a file.
template <class Function>
void for_each_in(const std::string& path, Function&& f) {
  const ordered_json all = read_json(path);
  if (!all.is_array()) throw hydralora::FileError(path, "is not a JSON array");
  for (std::size_t i = 0; i < all.size(); ++i) {
    try {
      f(all[i]);
    } catch (const std::exception& error) {
      throw hydralora::FileError(path, "entry " + std::to_string(i + 1) + ": " + error.what());
    }
  }
}

/// Of a group's name, or of its number as text.
int group_number(const std::string& group, const lm::Adapters<float>* adapters) {
  if (group.empty()) return 0;
  const std::vector<std::string> names = adapters != nullptr ? adapters->groups : std::vector<std::string>();
  const auto named = std::find(names.begin(), names.end(), group);
  if (named != names.end()) return static_cast<int>(named - names.begin());
  if (group.size() < 9 && group.find_first_not_of("0123456789") == std::string::npos) return std::stoi(group);
  throw std::invalid_argument("--group " + group + " is not a group of the adapter, nor a number");
}

}  // namespace

void evaluate(EvaluateOptions o) {
  Text text(o.model);
  const auto model = load_model(o.model);
  const auto adapters = load_adapters(*model, o.model);
  const lm::ExampleFile file = read_examples(o.data, text, std::min(o.max_length, model->config.positions),
                                             adapters ? adapters->groups : std::vector<std::string>());
  const std::map<std::string, GroupResult> groups = evaluate_examples(*model, text, file, o.max_tokens);
  ordered_json result;
  for (const auto& [name, s] : groups) {
    if (name.empty()) continue;
    ordered_json one = {{"loss", s.loss / s.scored}, {"tokens", s.scored}};
    if (s.bytes > 0) one["bits_per_byte"] = s.loss / std::log(2.0) / s.bytes;
    if (s.answers > 0) one["accuracy"] = s.right / s.answers, one["answers"] = s.answers;
    if (o.per_example) one["losses"] = s.losses, one["rights"] = s.rights;
    result[name] = one;
  }
  if (o.json || o.per_example) {
    std::cout << result.dump(o.per_example ? -1 : 2) << '\n';
    return;
  }
  std::cout << std::left << std::setw(24) << "group"
            << "  loss/token  bits/byte  right\n"
            << std::fixed;
  for (const auto& [name, one] : result.items()) {
    std::cout << std::setw(24) << name << "  " << std::setw(10) << std::setprecision(4) << one["loss"].get<double>()
              << "  " << std::setw(9) << one.value("bits_per_byte", 0.0) << "  " << std::setprecision(1)
              << 100 * one.value("accuracy", 0.0) << " %\n";
  }
}

void generate(GenerateOptions o) {
  if (o.prompt.empty() == o.messages.empty()) throw std::invalid_argument("generate: give --prompt or --messages");
  Text text(o.model);
  std::vector<int> ids;
  if (!o.messages.empty() || o.chat) {
    ordered_json messages = {{{"role", "user"}, {"content", o.prompt}}};
    if (!o.messages.empty()) {
      messages = read_json(o.messages);
      if (messages.is_object() && messages.contains("messages")) messages = ordered_json(messages["messages"]);
      const auto has_role = [](const auto& m) { return m.is_object() && m.contains("role") && m["role"].is_string(); };
      if (!messages.is_array() || !std::all_of(messages.begin(), messages.end(), has_role)) {
        throw hydralora::FileError(o.messages, "is not a list of messages with a role");
      }
    }
    const std::string rendered = text.rendered(messages);
    ids = text.bytes() ? text.encode(rendered, false) : text.tokenizer().encode(rendered).ids;
  } else {
    ids = text.bytes() ? text.encode(o.prompt, false) : text.tokenizer().encode(o.prompt, true).ids;
  }
  const auto model = load_model(o.model);
  const auto adapters = load_adapters(*model, o.model);
  if (!o.ignore_eos) o.generation.end_tokens = text.end_tokens();
  o.generation.group = group_number(o.group, adapters.get());
  const std::vector<int> made = lm::Generator<float>(*model).generate(ids, o.generation);
  const std::string said = text.decode(made, true);
  if (o.json) {
    std::cout << ordered_json{{"prompt_ids", ids}, {"ids", made}, {"text", said}}.dump(
                     -1, ' ', false, ordered_json::error_handler_t::replace)
              << '\n';
  } else {
    std::cout << said << '\n';
  }
}

void chat(ChatOptions o) {
  Text text(o.model);
  text.chat_template();
  const auto model = load_model(o.model);
  auto adapters = load_adapters(*model, o.model);
  o.generation.end_tokens = text.end_tokens();
  o.generation.group = group_number(o.group, adapters.get());
  std::cout << "/new forgets the conversation" << (adapters ? ", /adapter switches the adapter on and off" : "")
            << ", /quit ends\n";
  ordered_json messages = ordered_json::array();
  for (std::string line; std::cout << "> " << std::flush && std::getline(std::cin, line) && line != "/quit";) {
    if (line == "/new") messages.clear();
    if (line == "/adapter" && !o.model.adapter.empty()) {
      adapters = adapters ? nullptr : load_adapters(*model, o.model);
      std::cout << "the adapter is " << (adapters ? "on" : "off") << '\n';
    }
    if (stripped(line).empty() || line[0] == '/') continue;
    messages.push_back({{"role", "user"}, {"content", line}});
    const std::string rendered = text.rendered(messages);
    const std::vector<int> ids = text.bytes() ? text.encode(rendered, false) : text.tokenizer().encode(rendered).ids;
    if (static_cast<Index>(ids.size()) >= model->config.positions) {
      std::cout << "the conversation fills the model's context: /new begins another\n";
      messages.erase(messages.size() - 1);
      continue;
    }
    std::vector<int> made;
    std::string said;
    o.generation.receive = [&](int token) {
      made.push_back(token);
      const std::string now = text.decode(made, true);
      // The bytes of a character may come in several tokens.
      if (now.size() >= 3 && now.compare(now.size() - 3, 3, "\xEF\xBF\xBD") == 0) return;
      if (now.size() > said.size()) std::cout << now.substr(said.size()) << std::flush;
      said = now;
    };
    lm::Generator<float>(*model).generate(ids, o.generation);
    ++o.generation.seed;
    std::cout << '\n';
    messages.push_back({{"role", "assistant"}, {"content", text.decode(made, true)}});
  }
}

void tokenize(TokenizeOptions o) {
  if (o.model.folder.empty()) throw std::invalid_argument("tokenize: --model is missing");
  Text text(o.model);
  const lm::Tokenizer& tokenizer = text.tokenizer();
  ordered_json result = ordered_json::array();
  if (!o.texts.empty()) {
    for_each_in(o.texts, [&](const ordered_json& one) {
      const auto ids = tokenizer.encode(one.get<std::string>()).ids;
      result.push_back({{"ids", ids},
                        {"ids_with_special", tokenizer.encode(one.get<std::string>(), true).ids},
                        {"decoded", tokenizer.decode(ids)},
                        {"decoded_skip_special", tokenizer.decode(ids, true)}});
    });
  } else if (!o.ids.empty()) {
    for_each_in(o.ids,
                [&](const ordered_json& one) { result.push_back(tokenizer.decode(one.get<std::vector<int>>())); });
  } else if (!o.chats.empty()) {
    for_each_in(o.chats, [&](const ordered_json& one) {
      const bool prompts = one.value("add_generation_prompt", false);
      const ordered_json messages = one.at("messages");
      const std::string rendered = text.chat_template().render(messages, prompts);
      const lm::Encoding encoding = tokenizer.encode(rendered);
      const auto spans = text.chat_template().render_with_answers(messages, tokenizer.special_tokens()).answers;
      const std::vector<bool> trained = meets(encoding, spans);
      const std::vector<int> mask(trained.begin(), trained.end());  // 0 and 1 in JSON
      result.push_back({{"text", rendered}, {"ids", encoding.ids}, {"assistant_mask", mask}});
    });
  } else {
    throw std::invalid_argument("tokenize: give --texts, --ids or --chats");
  }
  std::cout << result.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << '\n';
}

void logits(LogitsOptions o) {
  const json input = read_json(o.batch);
  if (!input.contains("documents") || !input["documents"].is_array() || input["documents"].empty()) {
    throw hydralora::FileError(o.batch, "\"documents\" is not a list of objects with ids and labels");
  }
  lm::Batch batch;
  try {
    for (const auto& d : input["documents"]) {
      const auto ids = d.at("ids").get<std::vector<int>>();
      batch.add(ids, d.value("labels", std::vector<int>(ids.size(), lm::not_scored)), d.value("group", 0));
    }
  } catch (const json::exception& error) {
    throw hydralora::FileError(o.batch, std::string("a document has no list of ids and labels: ") + error.what());
  }
  const auto model = load_model(o.model);
  const auto adapters = load_adapters(*model, o.model);
  hydralora::SafetensorsWriter file;
  lm::Matrix<float> all(model->config.vocabulary, batch.tokens());
  model->logits(batch,
                [&](Index first, hydralora::ConstTokens<float> z) { all.middleCols(first, z.tokens()) = z.matrix(); });
  file.add("logits", all.transpose());
  if (o.gradients) {
    const auto scored = static_cast<float>(batch.scored().size());
    if (scored == 0) throw std::invalid_argument("logits: no token has a label");
    if (o.method == "full") {
      hydralora::AlignedVector<float> gradients(model->weights.size(), 0.0F);
      lm::connect_gradients(*model, gradients.data());
      model->loss_and_gradients(batch, 1 / scored);
      lm::for_each_tensor_in(model->config, gradients.data(),
                             [&](const std::string& name, const auto& numbers, bool vector) {
                               file.add("grad." + name, numbers, {}, vector);
                             });
    } else {
      if (!adapters) throw std::invalid_argument("logits: --gradients needs --adapter or --method full");
      model->loss_and_gradients(batch, 1 / scored);
      adapters->for_each_gradient([&](const std::string& name, auto matrix) { file.add("grad." + name, matrix); });
    }
  }
  file.save(o.out);
}

}  // namespace finetune_lm
