// SPDX-License-Identifier: MIT
// config.json of a Hugging Face model: Llama (with SmolLM and TinyLlama), Mistral, Qwen2, Qwen2.5 and Qwen3.
#pragma once

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/io/json.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// How rotary embeddings scale their frequencies.
struct RopeConfig {
  enum class Type { standard, linear, llama3 };
  Type type = Type::standard;
  double theta = 10000;  ///< base of the frequencies
  double factor = 1;     ///< linear, llama3: positions, or long wavelengths, are divided by it
  double low_frequency_factor = 1, high_frequency_factor = 4;  ///< llama3
  double original_positions = 0;                               ///< llama3: the context before it was extended
  std::vector<float> divisors;                                 ///< of each frequency, or empty
};

/// The sizes and settings of a decoder.
struct ModelConfig {
  std::string model_type;              ///< llama, mistral, qwen2 or qwen3
  Index vocabulary = 0;                ///< rows of the embedding
  Index hidden = 0, intermediate = 0;  ///< features between the blocks, and inside a feed-forward network
  Index layers = 0;                    ///< blocks
  Index heads = 0, kv_heads = 0;       ///< of queries; of keys and values
  Index head_dim = 0;                  ///< features of a head, even
  Index positions = 0;                 ///< max_position_embeddings
  double epsilon = 1e-6;               ///< of RMSNorm
  RopeConfig rope;
  bool tied = false;                      ///< whether lm_head is the embedding, unless the file has a lm_head
  bool qkv_bias = false, o_bias = false;  ///< biases of attention's products
  bool mlp_bias = false;                  ///< biases of the feed-forward network's products
  bool qk_norm = false;                   ///< RMSNorm of every head's query and key (Qwen3)
  std::vector<Index> windows;             ///< per block: a token sees so many tokens, itself included; 0 = all before
  std::vector<int> end_tokens;            ///< eos_token_id, a number or a list

  Index q_features() const { return heads * head_dim; }
  Index kv_features() const { return kv_heads * head_dim; }
};

namespace detail {

using hydralora::detail::read_json_object;

/// Typed access to the keys of config.json. A missing key, or null, is the default.
class ConfigReader {
 public:
  ConfigReader(const std::filesystem::path& path, const nlohmann::json& json) : path_(path), json_(json) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& supported) const {
    const std::string found = json_.contains(key) ? json_[key].dump() : "missing";
    throw FileError(path_, in_quotes(key) + " is " + found.substr(0, 200) + ", supported: " + supported);
  }
  bool has(const std::string& key) const { return json_.contains(key) && !json_[key].is_null(); }
  bool is_null(const std::string& key) const { return json_.contains(key) && json_[key].is_null(); }
  ConfigReader object(const std::string& key) const {
    if (!json_[key].is_object()) refuse(key, "an object");
    return {path_, json_[key]};
  }
  /// The limit keeps products of sizes, summed over the layers, within an Index.
  Index size(const std::string& key, Index otherwise = 0, Index most = Index(1) << 22U) const {
    if (!has(key) && otherwise > 0) return otherwise;
    if (!has(key) || !json_[key].is_number_integer() || json_[key] < 1 || json_[key] > most) {
      refuse(key, "a whole number from 1 to " + std::to_string(most));
    }
    return json_[key].get<Index>();
  }
  std::vector<int> tokens(const std::string& key) const {
    if (!has(key)) return {};
    const nlohmann::json list = json_[key].is_array() ? json_[key] : nlohmann::json::array({json_[key]});
    std::vector<int> all;
    for (const auto& token : list) {
      if (!token.is_number_integer() || token < 0 || token > (1 << 30)) refuse(key, "a token's number, or a list");
      all.push_back(token.get<int>());
    }
    return all;
  }
  double positive(const std::string& key, double otherwise) const {
    if (has(key) && (!json_[key].is_number() || !(json_[key] > 0))) refuse(key, "a number above 0");
    return has(key) ? json_[key].get<double>() : otherwise;
  }
  bool flag(const std::string& key, bool otherwise) const {
    if (has(key) && !json_[key].is_boolean()) refuse(key, "true or false");
    return has(key) ? json_[key].get<bool>() : otherwise;
  }
  std::string text(const std::string& key, const std::string& otherwise,
                   std::initializer_list<const char*> supported) const {
    if (!has(key)) return otherwise;
    std::string names;
    for (const char* name : supported) {
      if (json_[key] == name) return name;
      names += (names.empty() ? "" : ", ") + std::string(name);
    }
    refuse(key, names);
  }
  const nlohmann::json& operator[](const std::string& key) const { return json_.at(key); }

 private:
  const std::filesystem::path& path_;
  const nlohmann::json& json_;
};

/// rope_parameters (transformers 5), or rope_theta and rope_scaling (transformers 4).
inline RopeConfig read_rope(const ConfigReader& top, Index positions) {
  RopeConfig rope;
  rope.theta = top.positive("rope_theta", rope.theta);
  const std::string key = top.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!top.has(key)) return rope;
  const ConfigReader json = top.object(key);
  rope.theta = json.positive("rope_theta", rope.theta);
  const std::string type_key = json.has("rope_type") ? "rope_type" : "type";
  const std::string type = json.text(type_key, "default", {"default", "linear", "llama3"});
  if (type == "default") return rope;
  rope.type = type == "linear" ? RopeConfig::Type::linear : RopeConfig::Type::llama3;
  if (!json.has("factor")) json.refuse("factor", "a number above 0");
  rope.factor = json.positive("factor", 1);
  rope.low_frequency_factor = json.positive("low_freq_factor", 1);
  rope.high_frequency_factor = json.positive("high_freq_factor", 4);
  if (rope.type == RopeConfig::Type::llama3 && !(rope.high_frequency_factor > rope.low_frequency_factor)) {
    json.refuse("high_freq_factor", "a number above low_freq_factor");
  }
  rope.original_positions = json.positive("original_max_position_embeddings", static_cast<double>(positions));
  return rope;
}

/// The window of every block. Source: the configuration classes of transformers.
inline std::vector<Index> read_windows(const ConfigReader& top, const ModelConfig& c) {
  std::vector<Index> windows(static_cast<std::size_t>(c.layers), 0);
  const bool qwen = c.model_type == "qwen2" || c.model_type == "qwen3";
  // Mistral: absent means 4096, null none. Qwen: only with use_sliding_window. Llama has none.
  const bool used = qwen ? top.flag("use_sliding_window", false) : c.model_type == "mistral";
  Index window = 0;
  if (used && top.has("sliding_window")) window = top.size("sliding_window");
  if (used && !qwen && !top.has("sliding_window") && !top.is_null("sliding_window")) window = 4096;
  if (window == 0) return windows;
  if (top.has("layer_types")) {
    const nlohmann::json& types = top["layer_types"];
    if (!types.is_array() || types.size() != windows.size()) top.refuse("layer_types", "a list with a text per layer");
    for (std::size_t l = 0; l < windows.size(); ++l) {
      if (types[l] != "full_attention" && types[l] != "sliding_attention") {
        top.refuse("layer_types", "full_attention, sliding_attention");
      }
      if (types[l] == "sliding_attention") windows[l] = window;
    }
    return windows;
  }
  const bool all = !qwen || (top.has("max_window_layers") && top["max_window_layers"] == 0);
  const Index first = all ? 0 : top.size("max_window_layers", 28);
  for (Index l = first; l < c.layers; ++l) windows[static_cast<std::size_t>(l)] = window;
  return windows;
}

}  // namespace detail

/// Reads config.json. Nothing else of the model is read.
/// @throws FileError  a missing or broken file; what is not supported, with the key, the value and what is.
inline ModelConfig read_model_config(const std::filesystem::path& path) {
  const nlohmann::json json = detail::read_json_object(path);
  const detail::ConfigReader top(path, json);
  ModelConfig c;
  if (!top.has("model_type")) top.refuse("model_type", "llama, mistral, qwen2, qwen3");
  c.model_type = top.text("model_type", "", {"llama", "mistral", "qwen2", "qwen3"});
  if (top.has("quantization_config")) top.refuse("quantization_config", "checkpoints in F32, F16 or BF16");
  top.text("hidden_act", "silu", {"silu"});
  c.vocabulary = top.size("vocab_size");
  c.hidden = top.size("hidden_size");
  c.intermediate = top.size("intermediate_size");
  constexpr Index most_layers = 4096, most_heads = 2048;
  c.layers = top.size("num_hidden_layers", 0, most_layers);
  c.heads = top.size("num_attention_heads", 0, most_heads);
  c.kv_heads = top.size("num_key_value_heads", c.heads, most_heads);
  if (c.heads % c.kv_heads != 0) {
    top.refuse("num_key_value_heads", "a divisor of num_attention_heads, " + std::to_string(c.heads));
  }
  if (!top.has("head_dim") && c.hidden % c.heads != 0) {
    top.refuse("num_attention_heads", "a divisor of hidden_size, " + std::to_string(c.hidden));
  }
  c.head_dim = top.size("head_dim", c.model_type == "qwen3" ? 128 : std::max<Index>(c.hidden / c.heads, 1), most_heads);
  if (c.head_dim % 2 != 0) top.refuse("head_dim", "an even number");
  c.positions = top.size("max_position_embeddings", c.model_type == "mistral" ? 131072
                                                    : c.model_type == "llama" ? 2048
                                                                              : 32768);
  c.epsilon = top.positive("rms_norm_eps", 1e-6);
  c.tied = top.flag("tie_word_embeddings", false);
  const bool attention_bias = top.flag("attention_bias", false);
  c.qkv_bias = c.model_type == "qwen2" || (attention_bias && c.model_type != "mistral");
  c.o_bias = attention_bias && (c.model_type == "llama" || c.model_type == "qwen3");
  c.mlp_bias = c.model_type == "llama" && top.flag("mlp_bias", false);
  c.qk_norm = c.model_type == "qwen3";
  c.rope = detail::read_rope(top, c.positions);
  c.windows = detail::read_windows(top, c);
  c.end_tokens = top.tokens("eos_token_id");
  return c;
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
