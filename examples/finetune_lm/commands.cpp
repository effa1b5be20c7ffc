// SPDX-License-Identifier: MIT
#include "commands.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <map>
#include <stdexcept>

#include "forecast.hpp"
#include "sha256.hpp"

namespace finetune_lm {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::string stripped(const std::string& text) {
  const char* blanks = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(blanks);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

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

}  // namespace

void evaluate(EvaluateOptions o) {
  Text text(o.model);
  const auto model = load_model(o.model);
  const auto adapters = load_adapters(*model, o.model);
  lm::ExampleFile file;
  for (const std::string& path : o.data)
    file.read(path, text.functions(), std::min(o.max_length, model->config.positions), false);
  if (file.examples.empty()) throw std::invalid_argument("evaluate: the data has no example with a trained token");
  struct Sums {
    double loss = 0, scored = 0, bytes = 0, right = 0, answers = 0;
  };
  std::map<std::string, Sums> groups;
  const std::vector<int> ends = text.end_tokens();
  const bool decodes =
      text.bytes() || std::filesystem::exists(std::filesystem::path(o.model.folder) / "tokenizer.json");
  for (const lm::Example& e : file.examples) {
    lm::Batch batch;
    batch.add(e.ids, e.labels, e.group);
    Sums s;
    s.loss = model->loss(batch);
    s.scored = static_cast<double>(batch.scored().size());
    // The first answer, and what greedy decoding says in its place.
    const auto scored = [&](std::size_t t) { return e.labels[t] != lm::not_scored; };
    std::size_t begin = 1;
    while (begin < e.ids.size() && !scored(begin)) ++begin;
    std::size_t end = begin;
    while (end < e.ids.size() && scored(end)) ++end;
    if (decodes) {
      std::vector<int> all_scored;
      for (std::size_t t = 1; t < e.ids.size(); ++t) {
        if (scored(t)) all_scored.push_back(e.ids[t]);
      }
      s.bytes = static_cast<double>(text.decode(all_scored, true).size());
    }
    if (decodes && begin > 1) {
      std::vector<int> answer(e.ids.begin() + static_cast<std::ptrdiff_t>(begin),
                              e.ids.begin() + static_cast<std::ptrdiff_t>(end));
      lm::GenerationOptions g;
      g.max_tokens = std::max<Index>(o.max_tokens, static_cast<Index>(answer.size()) + 1);
      g.end_tokens = ends;
      g.group = e.group;
      const std::vector<int> prompt(e.ids.begin(), e.ids.begin() + static_cast<std::ptrdiff_t>(begin));
      const std::vector<int> said = lm::Generator<float>(*model).generate(prompt, g);
      s.answers = 1;
      s.right = stripped(text.decode(said, true)) == stripped(text.decode(answer, true)) ? 1 : 0;
    }
    for (const std::string& name : {std::string("all"), file.groups[static_cast<std::size_t>(e.group)]}) {
      Sums& to = groups[name];
      to.loss += s.loss, to.scored += s.scored, to.bytes += s.bytes, to.right += s.right, to.answers += s.answers;
    }
  }
  ordered_json result;
  for (const auto& [name, s] : groups) {
    if (name.empty()) continue;
    ordered_json one = {{"loss", s.loss / s.scored}, {"tokens", s.scored}};
    if (s.bytes > 0) one["bits_per_byte"] = s.loss / std::log(2.0) / s.bytes;
    if (s.answers > 0) one["accuracy"] = s.right / s.answers, one["answers"] = s.answers;
    result[name] = one;
  }
  if (o.json) {
    std::cout << result.dump(2) << '\n';
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

namespace {

/// Flop per second of a product as a decoder has them, on all threads; the best of a tenth of a second.
double product_speed() {
  constexpr Index in = 576, out = 1536, tokens = 512;
  const lm::Matrix<float> w = lm::Matrix<float>::Constant(in, out, 0.5F), x = lm::Matrix<float>::Ones(in, tokens);
  lm::Matrix<float> y(out, tokens);
  const hydralora::DenseView<float> view(w.data(), out, in);
  double best = 0;
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()); };
  for (const double begin = now().count(); now().count() < begin + 0.1;) {
    const double start = now().count();
    view.forward(hydralora::ConstTokens<float>(x), hydralora::Tokens<float>(y), hydralora::Write::overwrite);
    best = std::max(best, 2.0 * in * out * tokens / (now().count() - start));
  }
  return best;
}

}  // namespace

void info(InfoOptions o) {
  const lm::ModelConfig c = config_of(o.model);
  const auto million = [](double n) { return n / 1e6; };
  std::cout << c.model_type << ": " << c.layers << " blocks, " << c.hidden << " features, " << c.heads << " heads of "
            << c.head_dim << " (" << c.kv_heads << " for keys), feed-forward " << c.intermediate << ", vocabulary "
            << c.vocabulary << ", context " << c.positions << (c.tied ? ", lm_head tied" : "") << '\n'
            << std::fixed << std::setprecision(1) << million(static_cast<double>(lm::weight_count(c)))
            << " million weights\nlinears of every block:\n";
  lm::for_each_tensor(c, [&](const std::string& name, Index rows, Index columns) {
    if (columns > 0 && name.rfind("model.layers.0.", 0) == 0) {
      std::cout << "  " << name.substr(15) << "  " << rows << " x " << columns << '\n';
    }
  });
  constexpr double beside_products = 1.4;  // measured: a step of 135 million weights against its flop at this speed
  const double product = product_speed(), speed = product / beside_products;
  const lm::BaseType base = base_type_of(o.model);
  std::cout << "rank " << o.rank << ", " << o.heads << " heads, " << o.tokens << " tokens a step, base " << o.model.base
            << " (" << std::setprecision(2) << weight_bytes(c, base) / static_cast<double>(lm::weight_count(c))
            << " bytes a weight); with gradient checkpointing in brackets:\n"
            << "  method  million trained     memory GB     seconds a step\n";
  for (const char* name : {"lora", "split", "hydra", "full"}) {
    const bool full = std::string(name) == "full";
    const auto of = [&](bool checkpointing) {
      return forecast(c, name, o.rank, o.heads, o.tokens, checkpointing, full ? lm::BaseType::float32 : base);
    };
    const Forecast plain = of(false), less = of(true);
    std::cout << "  " << std::left << std::setw(6) << name << std::right << std::setw(17) << million(plain.trained)
              << std::setw(8) << plain.bytes / 1e9 << " (" << less.bytes / 1e9 << ")" << std::setw(10)
              << plain.flop / speed << " (" << less.flop / speed << ")\n";
  }
  std::cout << "seconds: 1.4 times the flop of a step at the speed of a product here, now " << std::setprecision(0)
            << product / 1e9 << " GFLOP/s\n";
  const std::filesystem::path folder = o.model.folder;
  if (o.model.folder.empty()) return;
  if (!std::filesystem::exists(folder / "model.safetensors") &&
      !std::filesystem::exists(folder / "model.safetensors.index.json")) {
    std::cout << "there are no weights in " << o.model.folder << '\n';
    return;
  }
  if (!o.tensors) return;
  const lm::Checkpoint checkpoint(folder);
  for (const auto& [name, file] : checkpoint.files()) {
    const hydralora::TensorEntry& entry = file->entry(name);
    const Index rows = entry.shape.empty() ? 1 : entry.shape[0];
    const Index columns = entry.shape.size() < 2 ? 1 : entry.shape[1];
    Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> numbers(rows, columns);
    file->read(name, numbers, false);
    std::cout << name << ' ' << hydralora::info_of(entry.type).name << ' ' << hydralora::shape_text(entry.shape) << ' '
              << sha256(reinterpret_cast<const unsigned char*>(numbers.data()),
                        static_cast<std::size_t>(numbers.size()) * sizeof(float))
              << '\n';
  }
}

}  // namespace finetune_lm
