// SPDX-License-Identifier: MIT
// A decoder from a GGUF of llama.cpp: architectures llama, qwen2 and qwen3. Names are translated to Hugging Face's, and
// the rows of q and k, which llama.cpp permutes in the architecture llama, are put back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/io/gguf.hpp"
#include "hydralora/layers/stored_linear.hpp"
#include "hydralora/lm/config.hpp"
#include "hydralora/lm/load.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

namespace detail {

/// The names of a block's modules, Hugging Face's and llama.cpp's.
inline constexpr std::pair<const char*, const char*> gguf_modules[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"}};

/// llama.cpp's name of a module, without ".weight"; empty where it has none. "model.layers.3.mlp.up_proj" is
/// "blk.3.ffn_up".
inline std::string gguf_module(const std::string& name) {
  if (name == "model.embed_tokens") return "token_embd";
  if (name == "model.norm") return "output_norm";
  if (name == "lm_head") return "output";
  const std::string layers = "model.layers.";
  const std::size_t dot = name.find('.', layers.size());
  if (name.compare(0, layers.size(), layers) != 0 || dot == std::string::npos) return "";
  for (const auto& [ours, theirs] : gguf_modules) {
    if (name.compare(dot + 1, std::string::npos, ours) == 0) {
      return "blk." + name.substr(layers.size(), dot - layers.size()) + "." + theirs;
    }
  }
  return "";
}

struct GgufLinear {
  std::string module;  ///< Hugging Face's name
  Index out, in;
};

/// Mistral's models are of llama.cpp's architecture llama.
inline std::string gguf_architecture(const lm::ModelConfig& c) {
  return c.model_type == "mistral" ? "llama" : c.model_type;
}

/// The linears of a model by llama.cpp's names, "blk.3.ffn_up" for example.
inline std::map<std::string, GgufLinear> gguf_linears(const lm::ModelConfig& config) {
  std::map<std::string, GgufLinear> all;
  lm::for_each_tensor(config, [&](const std::string& name, Index rows, Index columns) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (columns > 0 && module != "model.embed_tokens") all[gguf_module(module)] = {module, rows, columns};
  });
  return all;
}

/// Of a module whose rows llama.cpp permutes, the place in the file of each of our rows: it puts the halves that a
/// rotary embedding pairs beside each other. Otherwise empty.
inline std::vector<Index> gguf_row_order(const lm::ModelConfig& c, const std::string& module) {
  const auto ends_with = [&](const char* end) {
    const std::string text(end);
    return module.size() >= text.size() && module.compare(module.size() - text.size(), text.size(), text) == 0;
  };
  const bool is_q = ends_with("self_attn.q_proj"), is_k = ends_with("self_attn.k_proj");
  std::vector<Index> order;
  if (gguf_architecture(c) != "llama" || (!is_q && !is_k)) return order;
  for (Index row = 0; row < (is_q ? c.q_features() : c.kv_features()); ++row) {
    const Index within = row % c.head_dim, half = c.head_dim / 2;
    order.push_back(row - within + 2 * (within % half) + within / half);
  }
  return order;
}

}  // namespace detail

/// A model in a GGUF. All functions throw FileError.
class GgufModel {
 public:
  /// Reads the header and checks it: metadata, and every tensor that the model needs, with its shape.
  explicit GgufModel(const std::filesystem::path& path) : file_(path) {
    read_config();
    lm::for_each_tensor(config_, [&](const std::string& name, Index rows, Index columns) {
      file_.entry(name_of(name), columns == 0 ? std::vector<Index>{rows} : std::vector<Index>{rows, columns});
      used_.insert(name_of(name));
    });
  }

  const GgufFile& file() const { return file_; }
  const lm::ModelConfig& config() const { return config_; }
  /// Tensors that the model does not have.
  std::vector<std::string> spare() const {
    std::vector<std::string> all;
    for (const auto& [name, entry] : file_.tensors()) {
      if (used_.count(name) == 0) all.push_back(name);
    }
    return all;
  }
  /// The blocks of a tensor by Hugging Face's name, rows in Hugging Face's order.
  GgufWeight blocks(const std::string& name) const {
    const GgufEntry& entry = file_.entry(name_of(name));
    std::vector<unsigned char> bytes = file_.bytes(name_of(name));
    const std::vector<Index> order = detail::gguf_row_order(config_, name.substr(0, name.rfind('.')));
    // Of a vector the numbers are permuted: llama.cpp has F32 there, or another type of one number per block.
    const bool is_vector = entry.shape.size() == 1;
    const Index columns = is_vector ? 1 : entry.columns(), rows = is_vector ? entry.columns() : entry.rows();
    if (is_vector && info_of(entry.type).block > 1) {
      detail::fail_tensor(
          file_.path(), name_of(name),
          std::string(" is a vector of ") + info_of(entry.type).name + ", supported are F32, F16, BF16");
    }
    if (!order.empty()) {
      const Index row_bytes = info_of(entry.type).row_bytes(columns);
      std::vector<unsigned char> ordered(bytes.size());
      for (std::size_t i = 0; i < order.size(); ++i) {
        std::copy_n(bytes.data() + order[i] * row_bytes, row_bytes, ordered.data() + static_cast<Index>(i) * row_bytes);
      }
      bytes = std::move(ordered);
    }
    return {entry.type, rows, columns, std::move(bytes)};
  }

  /// The weights stay in their blocks, which are decoded in every product, unless a base is given.
  template <class Scalar>
  std::unique_ptr<lm::Decoder<Scalar>> load(const lm::Base<Scalar>* other_base = nullptr) const {
    const lm::Base<Scalar> base{[&](const std::string& name, DenseView<Scalar>) {
                                  return lm::make_weight<Scalar>(StoredLinear<GgufWeight, Scalar>(blocks(name)));
                                },
                                true};
    return lm::make_decoder(config_, other_base != nullptr ? *other_base : base,
                            [&](const std::string& name, auto& numbers, bool) {
                              const GgufWeight weight = blocks(name);
                              weight.read_rows(0, 0, Tokens<Scalar>(numbers.data(), weight.cols(), weight.rows()));
                              if (!numbers.allFinite()) {
                                detail::fail_tensor(file_.path(), name_of(name), " holds a number that is not finite");
                              }
                            });
  }

 private:
  static std::string name_of(const std::string& name) {
    const std::size_t dot = name.rfind('.');
    return detail::gguf_module(name.substr(0, dot)) + name.substr(dot);
  }

  void read_config() {
    const lm::detail::ConfigReader top(file_.path(), file_.metadata());
    lm::ModelConfig& c = config_;
    if (!top.has("general.architecture")) top.refuse("general.architecture", "llama, qwen2, qwen3");
    c.model_type = top.text("general.architecture", "", {"llama", "qwen2", "qwen3"});
    const auto key = [&](const char* name) { return c.model_type + "." + name; };
    constexpr Index most_layers = 4096, most_heads = 2048;
    c.hidden = top.size(key("embedding_length"));
    c.intermediate = top.size(key("feed_forward_length"));
    c.layers = top.size(key("block_count"), 0, most_layers);
    c.positions = top.size(key("context_length"));
    c.heads = top.size(key("attention.head_count"), 0, most_heads);
    c.kv_heads = top.size(key("attention.head_count_kv"), c.heads, most_heads);
    if (c.heads % c.kv_heads != 0) {
      top.refuse(key("attention.head_count_kv"), "a divisor of the heads, " + std::to_string(c.heads));
    }
    if (!top.has(key("attention.key_length")) && c.hidden % c.heads != 0) {
      top.refuse(key("attention.head_count"), "a divisor of embedding_length, " + std::to_string(c.hidden));
    }
    c.head_dim = top.size(key("attention.key_length"), std::max<Index>(c.hidden / c.heads, 1), most_heads);
    if (c.head_dim % 2 != 0) top.refuse(key("attention.key_length"), "an even number");
    for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
      if (top.size(key(name), c.head_dim) != c.head_dim) top.refuse(key(name), std::to_string(c.head_dim));
    }
    if (top.has(key("expert_count")) && top[key("expert_count")] != 0) top.refuse(key("expert_count"), "0");
    c.epsilon = top.positive(key("attention.layer_norm_rms_epsilon"), 1e-6);
    c.windows.assign(static_cast<std::size_t>(c.layers), 0);
    c.vocabulary = file_.entry("token_embd.weight").rows();
    c.tied = !file_.has("output.weight");
    c.qkv_bias = file_.has("blk.0.attn_q.bias");
    c.o_bias = file_.has("blk.0.attn_output.bias");
    c.mlp_bias = file_.has("blk.0.ffn_gate.bias");
    c.qk_norm = c.model_type == "qwen3";
    for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
      for (const int token : top.tokens(std::string("tokenizer.ggml.") + name)) c.end_tokens.push_back(token);
    }
    c.rope.theta = top.positive(key("rope.freq_base"), c.rope.theta);
    if (top.text(key("rope.scaling.type"), "none", {"none", "linear"}) == "linear") {
      c.rope.type = lm::RopeConfig::Type::linear;
      c.rope.factor = top.positive(key("rope.scaling.factor"), 1);
    }
    read_frequency_divisors();
  }

  /// llama3's scaling, as numbers.
  void read_frequency_divisors() {
    const char* const name = "rope_freqs.weight";
    if (!file_.has(name)) return;
    file_.entry(name, {config_.head_dim / 2});
    file_.for_each_row(name, [&](Index, const std::vector<float>& row) { config_.rope.divisors = row; });
    for (const float divisor : config_.rope.divisors) {
      if (!(divisor > 0) || !std::isfinite(divisor)) {
        detail::fail_tensor(file_.path(), name, " holds " + std::to_string(divisor) + ", expected numbers above 0");
      }
    }
    used_.insert(name);
  }

  GgufFile file_;
  lm::ModelConfig config_;
  std::set<std::string> used_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
