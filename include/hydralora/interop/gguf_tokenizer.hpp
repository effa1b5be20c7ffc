// SPDX-License-Identifier: MIT
// The tokenizer and the chat template inside a GGUF. It is written as the tokenizer.json that the model had, and read
// as one. The chat template's own variables come along.
#pragma once

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydralora/io/gguf.hpp"
#include "hydralora/lm/text/chat_template.hpp"
#include "hydralora/lm/text/tokenizer.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Makes tokenizer.json of a GGUF's metadata.
class GgufTokenizer {
 public:
  explicit GgufTokenizer(const GgufFile& file) : top_(file.path(), "", file.metadata()) {
    const bool is_sentence_piece = key("model").choice({"gpt2", "llama"}) == 1;
    const auto tokens = key("tokens").list();
    const auto types = key("token_type").is_nothing() ? std::vector<lm::detail::Section>() : key("token_type").list();
    key("token_type").require(types.empty() || types.size() == tokens.size(), "a list with a number per token");
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens_.push_back(tokens[i].text());
      if (!types.empty()) types[i].require(types[i].json().is_number_integer(), "a whole number");
      types_.push_back(types.empty() ? normal : types[i].json().get<int>());
    }
    is_sentence_piece ? write_sentence_piece() : write_byte_level();
    write_vocabulary();
    // llama.cpp's defaults.
    const bool adds_bos = key("add_bos_token").flag(is_sentence_piece || ignores_merges_);
    write_post_processor(adds_bos, key("add_eos_token").flag(false));
  }

  const nlohmann::json& json() const { return json_; }
  /// The texts of the special tokens, by the names of tokenizer_config.json.
  nlohmann::ordered_json special_tokens() const {
    nlohmann::ordered_json all = nlohmann::ordered_json::object();
    for (const auto& [name, theirs] :
         {std::pair("bos_token", "bos_token_id"), std::pair("eos_token", "eos_token_id"),
          std::pair("pad_token", "padding_token_id"), std::pair("unk_token", "unknown_token_id")}) {
      const lm::detail::Section id = key(theirs);
      if (!id.is_nothing()) all[name] = token_at(id);
    }
    return all;
  }

 private:
  enum Type { normal = 1, unknown = 2, control = 3, user_defined = 4 };

  lm::detail::Section key(const char* name) const { return top_[std::string("tokenizer.ggml.") + name]; }
  const std::string& token_at(const lm::detail::Section& id) const {
    const auto place = static_cast<std::size_t>(id.integer());
    if (place >= tokens_.size())
      id.refuse("is " + id.json().dump() + ", there are " + std::to_string(tokens_.size()) + " tokens");
    return tokens_[place];
  }

  void write_byte_level() {
    const char* const llama3 =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    const char* const qwen2 =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    const std::vector<std::string> names = {"default",   "gpt-2",  "smollm",   "refact", "starcoder",
                                            "llama-bpe", "llama3", "llama-v3", "qwen2",  "deepseek-r1-qwen"};
    const std::size_t name = key("pre").is_nothing() ? 0 : key("pre").choice(names);
    const bool digits_apart = name >= 2 && name <= 4, is_llama3 = name >= 5 && name <= 7, is_qwen = name >= 8;
    nlohmann::json steps = nlohmann::json::array();
    if (digits_apart) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    if (is_llama3 || is_qwen) {
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", is_qwen ? qwen2 : llama3}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
    }
    steps.push_back({{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", true},
                     {"use_regex", !is_llama3 && !is_qwen}});
    json_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
    if (is_qwen) json_["normalizer"] = {{"type", "NFC"}};
    json_["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
    ignores_merges_ = is_llama3;
    json_["model"] = {{"type", "BPE"}, {"ignore_merges", is_llama3}, {"merges", key("merges").json()}};
  }

  /// SentencePiece merges the pair whose token has the highest score. As a list of merges: as transformers makes it.
  void write_sentence_piece() {
    const std::vector<lm::detail::Section> scores = key("scores").list();
    key("scores").require(scores.size() == tokens_.size(), "a list with a number per token");
    std::unordered_map<std::string, std::size_t> ids;
    for (std::size_t i = 0; i < tokens_.size(); ++i) ids.emplace(tokens_[i], i);
    // Highest scores first; of one token, the longest left part.
    std::vector<std::tuple<double, long, std::size_t, std::size_t, std::size_t>> merges;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      scores[i].require(scores[i].json().is_number(), "a number");
      const std::string& token = tokens_[i];
      if (types_[i] != normal || token.size() > most_token_bytes) continue;
      long characters = 0;
      for (std::size_t cut = 1; cut < token.size(); ++cut) {
        if ((static_cast<unsigned char>(token[cut]) & 0xc0U) == 0x80U) continue;  // inside a character
        ++characters;
        const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
        if (left == ids.end() || right == ids.end()) continue;
        merges.emplace_back(-scores[i].json().get<double>(), -characters, i, left->second, right->second);
      }
    }
    std::sort(merges.begin(), merges.end());
    nlohmann::json list = nlohmann::json::array();
    for (const auto& merge : merges) list.push_back({tokens_[std::get<3>(merge)], tokens_[std::get<4>(merge)]});
    const bool has_prefix = key("add_space_prefix").flag(true);
    const nlohmann::json to_mark = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
    const nlohmann::json from_mark = {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
    nlohmann::json normalizers = {to_mark};
    nlohmann::json decoders = {from_mark, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
    if (has_prefix) {
      normalizers.insert(normalizers.begin(), nlohmann::json{{"type", "Prepend"}, {"prepend", "\u2581"}});
      decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1U}, {"stop", 0U}});
    }
    json_["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
    json_["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
    json_["model"] = {{"type", "BPE"}, {"byte_fallback", true}, {"fuse_unk", true}, {"merges", std::move(list)}};
    const auto first_unknown = std::find(types_.begin(), types_.end(), static_cast<int>(unknown));
    if (first_unknown != types_.end()) {
      json_["model"]["unk_token"] = tokens_[static_cast<std::size_t>(first_unknown - types_.begin())];
    }
  }

  void write_vocabulary() {
    nlohmann::json vocabulary = nlohmann::json::object(), added = nlohmann::json::array();
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const bool is_new = vocabulary.emplace(tokens_[i], i).second;
      key("tokens").require(is_new, "a list of tokens that differ");
      if (types_[i] != control && types_[i] != user_defined && types_[i] != unknown) continue;
      added.push_back({{"id", i},
                       {"content", tokens_[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", types_[i] != user_defined}});
    }
    json_["model"]["vocab"] = std::move(vocabulary);
    json_["added_tokens"] = std::move(added);
  }

  void write_post_processor(bool adds_bos, bool adds_eos) {
    nlohmann::json single = {{{"Sequence", {{"id", "A"}, {"type_id", 0U}}}}}, tokens = nlohmann::json::object();
    const auto add = [&](const char* name, bool at_the_start) {
      const lm::detail::Section id = key(name);
      if (id.is_nothing()) return;
      const std::string& token = token_at(id);
      tokens[token] = {{"id", token}, {"ids", {id.json()}}, {"tokens", {token}}};
      single.insert(at_the_start ? single.begin() : single.end(),
                    nlohmann::json{{"SpecialToken", {{"id", token}, {"type_id", 0U}}}});
    };
    if (adds_bos) add("bos_token_id", true);
    if (adds_eos) add("eos_token_id", false);
    if (tokens.empty()) return;
    json_["post_processor"] = {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", tokens}};
  }

  static constexpr std::size_t most_token_bytes = 256;  // longer ones are not made of merges

  lm::detail::Section top_;
  std::vector<std::string> tokens_;
  std::vector<int> types_;
  bool ignores_merges_ = false;
  nlohmann::json json_ = nlohmann::json::object();
};

}  // namespace detail

/// The tokenizer of a GGUF: byte-level BPE ("gpt2") with the pre-tokenizers of GPT-2, SmolLM, Llama 3 and Qwen 2, or
/// SentencePiece ("llama"). Encodes as the tokenizers library does with the model's own tokenizer.json.
/// @throws FileError  on what is not supported, with the key, the value and what is.
inline lm::Tokenizer gguf_tokenizer(const GgufFile& file) {
  return lm::Tokenizer(file.path(), detail::GgufTokenizer(file).json());
}

/// The chat template of a GGUF, or none.
inline std::optional<lm::ChatTemplate> gguf_chat_template(const GgufFile& file) {
  const nlohmann::json text = file.metadata().value("tokenizer.chat_template", nlohmann::json());
  if (!text.is_string()) return std::nullopt;
  return lm::ChatTemplate(text.get<std::string>(), file.path().string(), detail::GgufTokenizer(file).special_tokens());
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
