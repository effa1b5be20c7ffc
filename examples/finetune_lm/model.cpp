// SPDX-License-Identifier: MIT
#include "model.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <set>
#include <stdexcept>

#include "hydralora/interop/gguf_adapter.hpp"
#include "hydralora/interop/gguf_checkpoint.hpp"
#include "hydralora/interop/gguf_model.hpp"
#include "hydralora/interop/peft_model.hpp"
#if defined(HYDRALORA_ONEDNN)
#include "hydralora/interop/onednn.hpp"
#endif

namespace finetune_lm {

using hydralora::FileError;

nlohmann::json read_json(const std::filesystem::path& path) {
  nlohmann::json json = nlohmann::json::parse(hydralora::read_text(path), nullptr, false);
  if (json.is_discarded()) throw FileError(path, "is not JSON");
  return json;
}

std::vector<bool> meets(const lm::Encoding& encoding, const std::vector<std::pair<std::size_t, std::size_t>>& spans) {
  std::vector<bool> all;
  for (const auto& token : encoding.spans) {
    all.push_back(std::any_of(spans.begin(), spans.end(),
                              [&](const auto& s) { return token.first < s.second && token.second > s.first; }));
  }
  return all;
}

const lm::Tokenizer& Text::tokenizer() {
  if (!tokenizer_ && options_.is_gguf()) {
    tokenizer_.emplace(hydralora::gguf_tokenizer(hydralora::GgufFile(options_.folder)));
  } else if (!tokenizer_) {
    const std::filesystem::path folder = options_.folder;
    if (!std::filesystem::exists(folder / "tokenizer.json") && std::filesystem::exists(folder / "tokenizer.model")) {
      throw FileError(folder / "tokenizer.model",
                      "is not read. Convert it in Python: AutoTokenizer.from_pretrained(\"" + options_.folder +
                          "\").save_pretrained(\"" + options_.folder + "\")");
    }
    tokenizer_.emplace(folder / "tokenizer.json");
  }
  return *tokenizer_;
}

const lm::ChatTemplate& Text::chat_template() {
  if (template_) return *template_;
  if (options_.chat_template == "chatml") {
    template_ = lm::ChatTemplate::chatml();
  } else if (bytes()) {
    template_.emplace(
        "{% for m in messages %}{{ m['content'] }}{{ '\x04' if m['role'] == 'assistant' else '\x03' }}"
        "{% endfor %}",
        "the template of bytes");
  } else if (!options_.chat_template.empty()) {
    template_.emplace(hydralora::read_text(options_.chat_template), options_.chat_template);
  } else {
    template_ = options_.is_gguf() ? hydralora::gguf_chat_template(hydralora::GgufFile(options_.folder))
                                   : lm::ChatTemplate::of_model(options_.folder);
    if (!template_) {
      throw FileError(options_.folder, "has no chat template: name one with --chat-template FILE, or chatml");
    }
  }
  return *template_;
}

std::vector<int> Text::encode(const std::string& text, bool begins) {
  if (bytes())
    return {reinterpret_cast<const unsigned char*>(text.data()),
            reinterpret_cast<const unsigned char*>(text.data()) + text.size()};
  return tokenizer().encode(text, begins, lm::SpecialTokens::as_words).ids;
}

std::string Text::decode(const std::vector<int>& ids, bool skip_special_tokens) {
  if (!bytes()) return tokenizer().decode(ids, skip_special_tokens);
  std::string text;
  for (const int id : ids) {
    if (id != byte_end_token) text += static_cast<char>(id);
  }
  return text;
}

/// Where the text of special tokens stands in the rendered conversation because a content has it: it is words there.
/// Found by rendering once more, with a number in the place of each of them. All are parsed where the template does
/// more with contents than write them, so that the numbers cannot be found.
lm::SpecialTokens Text::special_tokens_in(const nlohmann::ordered_json& messages, const std::string& rendered) {
  if (options_.parse_special_tokens) return lm::SpecialTokens::parsed;
  constexpr std::size_t digits = 9;
  const std::vector<std::string> special = tokenizer().special_tokens();
  std::string marker = "8263540917";  // it does not overlap itself
  const std::string all = rendered + messages.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  while (all.find(marker) != std::string::npos) marker += '0';
  std::vector<std::string> found;
  nlohmann::ordered_json marked = messages;
  for (auto& message : marked) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_string()) continue;
    const std::string content = message["content"];
    std::string numbered;
    for (std::size_t at = 0; at < content.size();) {
      std::string longest;
      for (const std::string& token : special) {
        if (token.size() > longest.size() && content.compare(at, token.size(), token) == 0) longest = token;
      }
      if (longest.empty()) {
        numbered += content[at++];
        continue;
      }
      const std::string number = std::to_string(found.size());
      numbered += marker + std::string(digits - number.size(), '0') + number;
      found.push_back(longest);
      at += longest.size();
    }
    message["content"] = numbered;
  }
  if (found.empty()) return lm::SpecialTokens::parsed;
  lm::SpecialTokens words;
  std::string restored;
  try {
    const std::string text = chat_template().render(marked, false);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t next = std::min(text.find(marker, at), text.size());
      restored.append(text, at, next - at);
      at = next + marker.size() + digits;
      if (next == text.size()) break;
      const std::string& token = found.at(std::stoul(text.substr(next + marker.size(), digits)));
      words.words.emplace_back(restored.size(), restored.size() + token.size());
      restored += token;
    }
  } catch (const std::exception&) {  // the template refuses or cuts the numbers
    return lm::SpecialTokens::parsed;
  }
  return restored == rendered ? words : lm::SpecialTokens::parsed;
}

lm::Example Text::conversation(const nlohmann::ordered_json& messages) {
  const std::vector<std::string> special = bytes() ? std::vector<std::string>{"\x04"} : tokenizer().special_tokens();
  const auto rendered = chat_template().render_with_answers(messages, special);
  lm::Encoding encoding;
  if (bytes()) {
    encoding.ids = encode(rendered.text, false);
    for (std::size_t i = 0; i < rendered.text.size(); ++i) encoding.spans.emplace_back(i, i + 1);
  } else {
    encoding = tokenizer().encode(rendered.text, false, special_tokens_in(messages, rendered.text));
  }
  lm::Example example;
  example.ids = encoding.ids;
  const std::vector<bool> trained = meets(encoding, rendered.answers);
  for (std::size_t i = 0; i < trained.size(); ++i) {
    example.labels.push_back(trained[i] ? encoding.ids[i] : lm::not_scored);
  }
  return example;
}

std::string Text::rendered(const nlohmann::ordered_json& messages) { return chat_template().render(messages, true); }

const std::vector<int>& Text::end_tokens() {
  if (end_tokens_) return *end_tokens_;
  if (bytes()) return end_tokens_.emplace(1, byte_end_token);
  std::set<int> all;
  const std::filesystem::path folder = options_.folder;
  for (const int token : config_of(options_).end_tokens) all.insert(token);
  if (std::filesystem::exists(folder / "generation_config.json")) {
    const nlohmann::json json = read_json(folder / "generation_config.json");
    const nlohmann::json ends = json.value("eos_token_id", nlohmann::json());
    for (const auto& token : ends.is_array() ? ends : nlohmann::json::array({ends})) {
      if (token.is_number_integer()) all.insert(token.get<int>());
    }
  }
  // The template's own: the token behind an answer.
  try {
    const lm::Example one =
        conversation({{{"role", "user"}, {"content", "a"}}, {{"role", "assistant"}, {"content", "b"}}});
    int last = -1;
    for (std::size_t i = 0; i < one.ids.size(); ++i) {
      if (one.labels[i] != lm::not_scored) last = one.labels[i];
    }
    if (last >= 0 && tokenizer().is_special(last)) all.insert(last);
  } catch (const std::exception&) {  // no template, or none for such a conversation
  }
  return end_tokens_.emplace(all.begin(), all.end());
}

lm::TextFunctions Text::functions() {
  lm::TextFunctions f;
  f.conversation = [this](const nlohmann::ordered_json& messages) { return conversation(messages); };
  f.encode = [this](const std::string& text, bool begins) { return encode(text, begins); };
  if (bytes()) {
    f.end_token = byte_end_token;
  } else {
    const std::vector<int> ends = config_of(options_).end_tokens;
    if (!ends.empty()) f.end_token = ends[0];
  }
  return f;
}

lm::ModelConfig config_of(const ModelOptions& options) {
  if (options.is_gguf()) return hydralora::GgufModel(options.folder).config();
  if (!options.folder.empty()) return lm::read_model_config(std::filesystem::path(options.folder) / "config.json");
  lm::ModelConfig c;
  c.model_type = "llama";
  c.vocabulary = 256;
  c.hidden = 64;
  c.intermediate = 192;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.positions = 512;
  c.tied = true;
  c.windows.assign(2, 0);
  c.end_tokens = {byte_end_token};
  return c;
}

void copy_model_files(const ModelOptions& options, const std::filesystem::path& folder) {
  if (options.is_gguf()) return write_model_files(hydralora::GgufModel(options.folder), folder);
  lm::copy_model_files(options.folder, folder);
}

lm::BaseType base_type_of(const ModelOptions& options) {
  if (options.base.empty()) return lm::BaseType::float32;
  const auto name = std::find(std::begin(lm::base_names), std::end(lm::base_names), options.base);
  return static_cast<lm::BaseType>(name - std::begin(lm::base_names));
}

lm::Base<float> base_of(const ModelOptions& options) {
  const lm::BaseType type = base_type_of(options);
  if (options.engine == "eigen") return lm::base_of<float>(type);
#if defined(HYDRALORA_ONEDNN)
  using hydralora::OneDnnBFloat16Linear;
  using View = hydralora::DenseView<float>;
  if (type == lm::BaseType::float32) {
    return {[](const std::string&, View w) { return lm::make_weight<float>(hydralora::OneDnnLinear(w)); }, false};
  }
  if (type == lm::BaseType::bfloat16 && OneDnnBFloat16Linear::supported()) {
    const int terms = options.bf16_terms;
    return {[terms](const std::string&, View w) { return lm::make_weight<float>(OneDnnBFloat16Linear(w, terms)); },
            true};
  }
  std::cerr << "--engine onednn: Eigen multiplies " << options.base << " on this processor\n";
  return lm::base_of<float>(type);
#else
  throw std::invalid_argument("--engine onednn: the program was built without oneDNN (Debian: libdnnl-dev)");
#endif
}

std::unique_ptr<lm::Decoder<float>> load_model(const ModelOptions& options) {
  const lm::Base<float> base = base_of(options);
  if (options.folder.empty()) {
    constexpr double deviation = 0.125;  // large enough for adapters to move its frozen logits
    return lm::random_decoder<float>(config_of(options), 1, deviation, base);
  }
  if (options.is_gguf()) {
    const hydralora::GgufModel file(options.folder);
    for (const std::string& name : file.spare()) std::cerr << "not used: tensor " << name << '\n';
    return options.has_own_blocks() ? file.load<float>() : file.load<float>(&base);
  }
  lm::ModelConfig config = config_of(options);
  const lm::Checkpoint checkpoint(options.folder);
  auto model = lm::load_decoder<float>(checkpoint, std::move(config), base);
  if (base_type_of(options) != lm::BaseType::float32 &&
      checkpoint.file_of("model.embed_tokens.weight").entry("model.embed_tokens.weight").type !=
          hydralora::DType::BF16) {
    std::cerr << "--base " << options.base << ": the checkpoint is not in BF16, its weights are rounded\n";
  }
  for (const std::string& name : checkpoint.spare()) std::cerr << "not used: tensor " << name << '\n';
  return model;
}

hydralora::PeftDirectory open_adapter(const ModelOptions& options, bool allow_others) {
  namespace fs = std::filesystem;
  const auto opened = [&](const fs::path& path) {
    hydralora::PeftOptions how;
    how.allow_others = allow_others;
    return hydralora::PeftDirectory(path, how);
  };
  if (!fs::is_regular_file(options.adapter) || fs::path(options.adapter).extension() == ".safetensors") {
    return opened(options.adapter);
  }
  const hydralora::GgufFile file(options.adapter);
  std::string folder = (fs::temp_directory_path() / "finetune_lm-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) throw FileError(folder, "cannot create the folder");
  const std::shared_ptr<void> removed(nullptr, [&](void*) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  });
  hydralora::write_peft_directory(file, config_of(options), folder);
  return opened(folder);  // it stays readable when the folder is gone
}

std::shared_ptr<lm::Adapters<float>> load_adapters(lm::Decoder<float>& model, const ModelOptions& options) {
  if (options.adapter.empty()) return nullptr;
  const auto directory =
      std::shared_ptr<hydralora::PeftDirectory>(new hydralora::PeftDirectory(open_adapter(options, true)));
  const auto merged = std::make_shared<hydralora::MergedModules<float>>(model, *directory);
  // The deleter holds what the adapters stand on.
  return std::shared_ptr<lm::Adapters<float>>(new lm::Adapters<float>(model, *directory, 0, merged->modules()),
                                              [directory, merged](lm::Adapters<float>* adapters) { delete adapters; });
}

}  // namespace finetune_lm
