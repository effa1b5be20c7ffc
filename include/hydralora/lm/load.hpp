// SPDX-License-Identifier: MIT
// A decoder from a checkpoint.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/random.hpp"
#include "hydralora/lm/config.hpp"
#include "hydralora/lm/decoder.hpp"
#include "hydralora/lm/weights.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// Calls f(name, rows, columns) for every tensor that a model of this config needs, in the model's order; columns is 0
/// for a vector. lm_head comes last, and only where it is not tied.
template <class Function>
void for_each_tensor(const ModelConfig& c, Function&& f) {
  const auto linear = [&](const std::string& name, Index out, Index in, bool bias) {
    f(name + ".weight", out, in);
    if (bias) f(name + ".bias", out, Index(0));
  };
  f("model.embed_tokens.weight", c.vocabulary, c.hidden);
  for (Index l = 0; l < c.layers; ++l) {
    const std::string block = "model.layers." + std::to_string(l) + ".", self = block + "self_attn.";
    f(block + "input_layernorm.weight", c.hidden, Index(0));
    linear(self + "q_proj", c.q_features(), c.hidden, c.qkv_bias);
    linear(self + "k_proj", c.kv_features(), c.hidden, c.qkv_bias);
    linear(self + "v_proj", c.kv_features(), c.hidden, c.qkv_bias);
    linear(self + "o_proj", c.hidden, c.q_features(), c.o_bias);
    if (c.qk_norm) f(self + "q_norm.weight", c.head_dim, Index(0));
    if (c.qk_norm) f(self + "k_norm.weight", c.head_dim, Index(0));
    f(block + "post_attention_layernorm.weight", c.hidden, Index(0));
    linear(block + "mlp.gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(block + "mlp.up_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(block + "mlp.down_proj", c.hidden, c.intermediate, c.mlp_bias);
  }
  f("model.norm.weight", c.hidden, Index(0));
  if (!c.tied) f("lm_head.weight", c.vocabulary, c.hidden);
}

/// Numbers of all these tensors.
inline Index weight_count(const ModelConfig& c) {
  Index sum = 0;
  for_each_tensor(c, [&](const std::string&, Index rows, Index columns) { sum += rows * std::max<Index>(columns, 1); });
  return sum;
}

/// Calls f(name, row-major map, whether it is a vector) for all these tensors in a buffer where they lie end to end.
template <class Number, class Function>
void for_each_tensor_in(const ModelConfig& c, Number* numbers, Function&& f) {
  using RowMajor = Eigen::Matrix<std::remove_const_t<Number>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<std::conditional_t<std::is_const_v<Number>, const RowMajor, RowMajor>>;
  for_each_tensor(c, [&](const std::string& name, Index rows, Index columns) {
    f(name, Map(numbers, rows, std::max<Index>(columns, 1)), columns == 0);
    numbers += rows * std::max<Index>(columns, 1);
  });
}

/// Points the decoder's layers at their places in `weights`, and, for full fine-tuning, in `gradients`.
/// @param gradients  as many numbers as weights, or null.
template <class Scalar>
void connect(Decoder<Scalar>& model, Scalar* gradients = nullptr) {
  const ModelConfig& c = model.config;
  std::map<std::string, Index> places;
  Index end = 0;
  for_each_tensor(c, [&](const std::string& name, Index rows, Index columns) {
    places[name] = end;
    end += rows * std::max<Index>(columns, 1);
  });
  const auto value = [&](const std::string& name) { return model.weights.data() + places.at(name); };
  const auto gradient = [&](const std::string& name) {
    return gradients == nullptr ? nullptr : gradients + places.at(name);
  };
  const auto gain = [&](const std::string& name) { return Gain<Scalar>{value(name), gradient(name)}; };
  const auto weight = [&](const std::string& name, Index out, Index in) {
    return std::make_unique<DenseWeight<Scalar>>(DenseView<Scalar>(value(name), out, in));
  };
  const auto linear = [&](Linear<Scalar>& to, const std::string& name, Index out, Index in, bool bias) {
    to.name = name;
    to.weight = weight(name + ".weight", out, in);
    if (bias) to.bias = value(name + ".bias");
    if (gradients == nullptr) return;
    to.weight_gradient = Tokens<Scalar>(gradient(name + ".weight"), in, out);
    if (bias) to.bias_gradient = gradient(name + ".bias");
  };
  const std::string embedding = "model.embed_tokens.weight";
  model.embedding = weight(embedding, c.vocabulary, c.hidden);
  if (gradients != nullptr) model.embedding_gradient = Tokens<Scalar>(gradient(embedding), c.hidden, c.vocabulary);
  model.blocks.resize(static_cast<std::size_t>(c.layers));
  for (Index l = 0; l < c.layers; ++l) {
    const std::string name = "model.layers." + std::to_string(l) + ".", self = name + "self_attn.", mlp = name + "mlp.";
    Block<Scalar>& block = model.blocks[static_cast<std::size_t>(l)];
    block.window = c.windows[static_cast<std::size_t>(l)];
    block.norm = gain(name + "input_layernorm.weight");
    block.norm1 = gain(name + "post_attention_layernorm.weight");
    if (c.qk_norm) block.q_norm = gain(self + "q_norm.weight");
    if (c.qk_norm) block.k_norm = gain(self + "k_norm.weight");
    linear(block.q, self + "q_proj", c.q_features(), c.hidden, c.qkv_bias);
    linear(block.k, self + "k_proj", c.kv_features(), c.hidden, c.qkv_bias);
    linear(block.v, self + "v_proj", c.kv_features(), c.hidden, c.qkv_bias);
    linear(block.o, self + "o_proj", c.hidden, c.q_features(), c.o_bias);
    linear(block.gate, mlp + "gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(block.up, mlp + "up_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(block.down, mlp + "down_proj", c.hidden, c.intermediate, c.mlp_bias);
  }
  model.norm = gain("model.norm.weight");
  linear(model.head, c.tied ? "model.embed_tokens" : "lm_head", c.vocabulary, c.hidden, false);
}

/// A model of random weights: normal, gains 1, biases 0. The deviation is transformers' by default.
template <class Scalar>
std::unique_ptr<Decoder<Scalar>> random_decoder(ModelConfig config, std::uint64_t seed, double deviation = 0.02) {
  auto model = std::make_unique<Decoder<Scalar>>(std::move(config));
  model->weights.resize(static_cast<std::size_t>(weight_count(model->config)));
  const CounterRandom random(seed);
  std::uint64_t tensor = 0;
  for_each_tensor_in(model->config, model->weights.data(), [&](const std::string& name, auto numbers, bool vector) {
    const bool gain = vector && name.find("norm") != std::string::npos;
    for (Index i = 0; i < numbers.size(); ++i) {
      const double value =
          vector ? (gain ? 1.0 : 0.0) : deviation * random.normal(static_cast<std::uint64_t>(i), tensor);
      numbers.data()[i] = Scalar(static_cast<real_t<Scalar>>(value));
    }
    ++tensor;
  });
  connect(*model);
  return model;
}

/// Reads the weights of a checkpoint. A lm_head in the file is used even where the config ties it to the embedding,
/// unless both hold the same numbers.
/// @throws FileError  a tensor that is missing or has another shape, or a number that is not finite.
template <class Scalar>
std::unique_ptr<Decoder<Scalar>> load_decoder(const Checkpoint& checkpoint, ModelConfig config) {
  if (config.tied && checkpoint.has("lm_head.weight")) {
    const std::string embedding = "model.embed_tokens.weight";
    checkpoint.file_of("lm_head.weight").entry("lm_head.weight", {config.vocabulary, config.hidden});
    config.tied =
        checkpoint.file_of(embedding).bytes(embedding) == checkpoint.file_of("lm_head.weight").bytes("lm_head.weight");
  }
  if (!config.tied && !checkpoint.has("lm_head.weight")) {
    throw FileError(checkpoint.folder(), "has no tensor \"lm_head.weight\", and tie_word_embeddings is false");
  }
  // Shapes first: nothing large is read of a checkpoint that does not fit.
  for_each_tensor(config, [&](const std::string& name, Index rows, Index columns) {
    checkpoint.file_of(name).entry(name, columns == 0 ? std::vector<Index>{rows} : std::vector<Index>{rows, columns});
  });
  auto model = std::make_unique<Decoder<Scalar>>(std::move(config));
  model->weights.resize(static_cast<std::size_t>(weight_count(model->config)));
  for_each_tensor_in(model->config, model->weights.data(),
                     [&](const std::string& name, auto numbers, bool) { checkpoint.read(name, numbers); });
  connect(*model);
  return model;
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
