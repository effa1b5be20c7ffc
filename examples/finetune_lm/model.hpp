// SPDX-License-Identifier: MIT
// A model as the commands use it: weights, tokenizer, chat template, adapters.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/lm/adapters.hpp"
#include "hydralora/lm/data/examples.hpp"
#include "hydralora/lm/load.hpp"
#include "hydralora/lm/text/chat_template.hpp"
#include "hydralora/lm/text/tokenizer.hpp"

namespace finetune_lm {

namespace lm = hydralora::lm;
using hydralora::Index;

/// Where a model comes from.
struct ModelOptions {
  std::string folder;                 ///< or a GGUF; empty: a tiny random model whose tokens are bytes
  std::string adapter;                ///< a directory, a GGUF, or empty
  std::string chat_template;          ///< a file, "chatml", or empty for the model's own
  std::string base;                   ///< one of lm::base_names; empty: float32, a GGUF's own blocks
  std::string engine = "eigen";       ///< eigen or onednn
  int bf16_terms = 2;                 ///< of the activations, where oneDNN multiplies bfloat16
  bool parse_special_tokens = false;  ///< whether special tokens in the contents of training data are no words

  bool is_gguf() const { return std::filesystem::is_regular_file(folder); }
  bool has_own_blocks() const { return is_gguf() && base.empty(); }
};

/// The text side of a model. Both parts are read when they are first needed.
class Text {
 public:
  explicit Text(ModelOptions options) : options_(std::move(options)) {}

  const lm::Tokenizer& tokenizer();
  const lm::ChatTemplate& chat_template();
  std::vector<int> encode(const std::string& text, bool begins);
  std::string decode(const std::vector<int>& ids, bool skip_special_tokens);
  /// A conversation's ids and labels. Special tokens are those that the template writes.
  lm::Example conversation(const nlohmann::ordered_json& messages);
  std::string rendered(const nlohmann::ordered_json& messages);  ///< with the generation prompt
  /// config.json's, generation_config.json's and the template's end tokens.
  const std::vector<int>& end_tokens();
  lm::TextFunctions functions();
  bool bytes() const { return options_.folder.empty(); }  ///< whether tokens are bytes
  bool decodes() const {                                  ///< whether there is a tokenizer
    return bytes() || options_.is_gguf() ||
           std::filesystem::exists(std::filesystem::path(options_.folder) / "tokenizer.json");
  }

 private:
  lm::SpecialTokens special_tokens_in(const nlohmann::ordered_json& messages, const std::string& rendered);

  ModelOptions options_;
  std::optional<lm::Tokenizer> tokenizer_;
  std::optional<lm::ChatTemplate> template_;
  std::optional<std::vector<int>> end_tokens_;
};

constexpr int byte_end_token = 4;  // ASCII's end of transmission

lm::ModelConfig config_of(const ModelOptions& options);
lm::BaseType base_type_of(const ModelOptions& options);
/// The base that the options ask for. What cannot be had on this machine is printed or refused.
lm::Base<float> base_of(const ModelOptions& options);
/// Copies the model's small files into a folder, or makes them of a GGUF: config, tokenizer, chat template.
void copy_model_files(const ModelOptions& options, const std::filesystem::path& folder);
/// The weights; spare tensors are listed on stderr.
std::unique_ptr<lm::Decoder<float>> load_model(const ModelOptions& options);
/// The adapter of the options. A GGUF is read by way of a directory in a temporary folder.
/// @param allow_others  whether it may hold other tensors than adapters.
hydralora::PeftDirectory open_adapter(const ModelOptions& options, bool allow_others = false);
/// The adapters of options.adapter, or null without one. What else the directory holds (DoRA, biases, saved modules) is
/// part of the model's weights as long as they live.
std::shared_ptr<lm::Adapters<float>> load_adapters(lm::Decoder<float>& model, const ModelOptions& options);

/// For every token, whether it meets one of these bytes of the text.
std::vector<bool> meets(const lm::Encoding& encoding, const std::vector<std::pair<std::size_t, std::size_t>>& spans);

nlohmann::json read_json(const std::filesystem::path& path);

}  // namespace finetune_lm
