// SPDX-License-Identifier: MIT
// The small files of a Hugging Face checkpoint, made of a GGUF: config.json and the tokenizer with its chat template.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "hydralora/core/config.hpp"
#include "hydralora/interop/gguf_model.hpp"
#include "hydralora/interop/gguf_tokenizer.hpp"
#include "hydralora/io/file.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// config.json as transformers writes it, without the type of the weights.
/// @throws FileError  where rope_freqs scales the frequencies: config.json has no list of them.
inline nlohmann::ordered_json config_json(const GgufModel& model) {
  const lm::ModelConfig& c = model.config();
  if (!c.rope.divisors.empty()) {
    fail_tensor(model.file().path(), "rope_freqs.weight",
                " scales the rotary embeddings: config.json cannot say how. Take the model's own Hugging Face folder");
  }
  const std::string name = c.model_type == "llama" ? "Llama" : c.model_type == "qwen2" ? "Qwen2" : "Qwen3";
  nlohmann::ordered_json json = {{"architectures", {name + "ForCausalLM"}},
                                 {"model_type", c.model_type},
                                 {"vocab_size", c.vocabulary},
                                 {"hidden_size", c.hidden},
                                 {"intermediate_size", c.intermediate},
                                 {"num_hidden_layers", c.layers},
                                 {"num_attention_heads", c.heads},
                                 {"num_key_value_heads", c.kv_heads},
                                 {"head_dim", c.head_dim},
                                 {"hidden_act", "silu"},
                                 {"max_position_embeddings", c.positions},
                                 {"rms_norm_eps", c.epsilon},
                                 {"rope_theta", c.rope.theta},
                                 {"tie_word_embeddings", c.tied},
                                 {"attention_bias", c.qkv_bias},
                                 {"mlp_bias", c.mlp_bias}};
  if (c.rope.type == lm::RopeConfig::Type::linear) {
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", c.rope.factor}};
  }
  if (!c.end_tokens.empty()) json["eos_token_id"] = c.end_tokens;
  return json;
}

}  // namespace detail

/// Writes config.json, tokenizer.json and tokenizer_config.json, which has the chat template. It creates the folder.
/// Beside them the weights of lm::save_model() make a checkpoint that transformers loads.
/// @throws FileError  what cannot be written, or cannot be said in these files
inline void write_model_files(const GgufModel& model, const std::filesystem::path& folder) {
  const nlohmann::ordered_json config = detail::config_json(model);
  const detail::GgufTokenizer tokenizer(model.file());
  nlohmann::ordered_json settings = tokenizer.special_tokens();
  settings["tokenizer_class"] = "PreTrainedTokenizerFast";
  settings["model_max_length"] = model.config().positions;
  settings["clean_up_tokenization_spaces"] = false;
  const nlohmann::json chat = model.file().metadata().value("tokenizer.chat_template", nlohmann::json());
  if (chat.is_string()) settings["chat_template"] = chat;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(folder, "cannot create the folder: " + error.message());
  const auto write = [&](const char* name, const std::string& content) {
    write_file_atomically(folder / name, content.data(), content.size());
  };
  write("config.json", config.dump(2));
  write("tokenizer.json", tokenizer.json().dump());
  write("tokenizer_config.json", settings.dump(2));
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
