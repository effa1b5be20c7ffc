// SPDX-License-Identifier: MIT
// A decoder from a checkpoint, and a checkpoint from a decoder.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/random.hpp"
#include "hydralora/layers/stored_linear.hpp"
#include "hydralora/lm/config.hpp"
#include "hydralora/lm/decoder.hpp"
#include "hydralora/lm/weights.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// What for_each_part() calls. Names as in the checkpoint; those of linears without ".weight".
template <class Scalar>
struct PartVisitor {
  std::function<void(Linear<Scalar>&, const std::string& name, Index out, Index in, bool has_bias)> linear;
  std::function<void(Gain<Scalar>&, const std::string& name, Index size)> gain;
};

/// Visits all parts of a decoder, in the model's order.
template <class Scalar>
void for_each_part(Decoder<Scalar>& model, const PartVisitor<Scalar>& visit) {
  const ModelConfig& c = model.config;
  const auto& [linear, gain] = visit;
  for (std::size_t l = 0; l < model.blocks.size(); ++l) {
    const std::string name = "model.layers." + std::to_string(l) + ".", self = name + "self_attn.", mlp = name + "mlp.";
    Block<Scalar>& block = model.blocks[l];
    gain(block.norm, name + "input_layernorm.weight", c.hidden);
    linear(block.q, self + "q_proj", c.q_features(), c.hidden, c.qkv_bias);
    linear(block.k, self + "k_proj", c.kv_features(), c.hidden, c.qkv_bias);
    linear(block.v, self + "v_proj", c.kv_features(), c.hidden, c.qkv_bias);
    linear(block.o, self + "o_proj", c.hidden, c.q_features(), c.o_bias);
    if (c.qk_norm) gain(block.q_norm, self + "q_norm.weight", c.head_dim);
    if (c.qk_norm) gain(block.k_norm, self + "k_norm.weight", c.head_dim);
    gain(block.norm1, name + "post_attention_layernorm.weight", c.hidden);
    linear(block.gate, mlp + "gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(block.up, mlp + "up_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(block.down, mlp + "down_proj", c.hidden, c.intermediate, c.mlp_bias);
  }
  gain(model.norm, "model.norm.weight", c.hidden);
  linear(model.head, c.tied ? "model.embed_tokens" : "lm_head", c.vocabulary, c.hidden, false);
}

/// Calls f(name, rows, columns) for every tensor that a model of this config needs, in the model's order; columns is 0
/// for a vector. lm_head comes last, and only where it is not tied.
inline void for_each_tensor(const ModelConfig& c,
                            const std::function<void(const std::string& name, Index rows, Index columns)>& f) {
  Decoder<float> parts(c);
  f("model.embed_tokens.weight", c.vocabulary, c.hidden);
  for_each_part(parts, {[&](Linear<float>& linear, const std::string& name, Index out, Index in, bool bias) {
                          if (c.tied && &linear == &parts.head) return;
                          f(name + ".weight", out, in);
                          if (bias) f(name + ".bias", out, 0);
                        },
                        [&](Gain<float>&, const std::string& name, Index size) { f(name, size, 0); }});
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

/// How a model's matrices are held and multiplied. Norms' gains and biases always lie in Decoder::weights.
template <class Scalar>
struct Base {
  /// Makes a weight of W's numbers, [out][in]. `name` is that of the tensor.
  std::function<std::shared_ptr<const Weight<Scalar>>(const std::string& name, DenseView<Scalar> numbers)> make =
      [](const std::string&, DenseView<Scalar> numbers) { return make_weight<Scalar>(numbers); };
  bool copies = false;  ///< whether make() copies the numbers; otherwise they lie in Decoder::weights
};

enum class BaseType { float32, bfloat16, int8, nf4 };
inline constexpr const char* base_names[] = {"float32", "bfloat16", "int8", "nf4"};

/// float32 lies where it is; the others are a StoredLinear. With int8 and nf4, embedding and lm_head are bfloat16.
template <class Scalar>
Base<Scalar> base_of(BaseType type) {
  if (type == BaseType::float32) return {};
  return {[type](const std::string& name, DenseView<Scalar> numbers) {
            const auto w = ConstTokens<Scalar>(numbers.data(), numbers.in_features(), numbers.out_features());
            const auto weight = w.matrix().transpose();
            const bool of_block = name.rfind("model.layers.", 0) == 0;
            if (of_block && type == BaseType::int8) return make_weight<Scalar>(Int8Linear<Scalar>(Int8Weight(weight)));
            if (of_block && type == BaseType::nf4)
              return make_weight<Scalar>(NF4Linear<Scalar>(NF4Weight(weight, true)));
            return make_weight<Scalar>(BFloat16Linear<Scalar>(NarrowWeight<Eigen::bfloat16>(weight)));
          },
          true};
}

/// For full fine-tuning: the layers add their gradients to this buffer, which is laid out as Decoder::weights.
/// @throws std::invalid_argument  unless the weights are float32.
template <class Scalar>
void connect_gradients(Decoder<Scalar>& model, Scalar* gradients) {
  expects(static_cast<Index>(model.weights.size()) == weight_count(model.config),
          "full fine-tuning needs a float32 base");
  std::map<std::string, Tokens<Scalar>> places;
  for_each_tensor_in(model.config, gradients, [&](const std::string& name, auto numbers, bool) {
    places[name] = Tokens<Scalar>(numbers.data(), numbers.cols(), numbers.rows());
  });
  model.embedding_gradient = places.at("model.embed_tokens.weight");
  for_each_part(model, {[&](Linear<Scalar>& to, const std::string& name, Index, Index, bool bias) {
                          to.weight_gradient = places.at(name + ".weight");
                          if (bias) to.bias_gradient = places.at(name + ".bias").data();
                        },
                        [&](Gain<Scalar>& to, const std::string& n, Index) { to.gradient = places.at(n).data(); }});
}

/// A decoder whose tensors are filled by fill(name, row-major map, whether it is a vector), one after another.
template <class Scalar, class Fill>
std::unique_ptr<Decoder<Scalar>> make_decoder(ModelConfig config, const Base<Scalar>& base, Fill&& fill) {
  auto model = std::make_unique<Decoder<Scalar>>(std::move(config));
  const auto is_apart = [&](Index columns) { return columns > 0 && base.copies; };
  Index count = 0;
  for_each_tensor(model->config, [&](const std::string&, Index rows, Index columns) {
    if (!is_apart(columns)) count += rows * std::max<Index>(columns, 1);
  });
  model->weights.resize(static_cast<std::size_t>(count));
  std::map<std::string, std::shared_ptr<const Weight<Scalar>>> matrices;
  std::map<std::string, Scalar*> vectors;
  Scalar* next = model->weights.data();
  for_each_tensor(model->config, [&](const std::string& name, Index rows, Index columns) {
    using RowMajor = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    RowMajor own(is_apart(columns) ? rows : 0, columns);
    Eigen::Map<RowMajor> numbers(is_apart(columns) ? own.data() : next, rows, std::max<Index>(columns, 1));
    fill(name, numbers, columns == 0);
    if (columns > 0) matrices[name] = base.make(name, DenseView<Scalar>(numbers.data(), rows, columns));
    if (columns == 0) vectors[name] = numbers.data();
    if (!is_apart(columns)) next += numbers.size();
  });
  model->embedding = matrices.at("model.embed_tokens.weight");
  for (std::size_t l = 0; l < model->blocks.size(); ++l) model->blocks[l].window = model->config.windows[l];
  for_each_part(*model, {[&](Linear<Scalar>& to, const std::string& name, Index, Index, bool bias) {
                           to.name = name;
                           to.weight = matrices.at(name + ".weight");
                           if (bias) to.bias = vectors.at(name + ".bias");
                         },
                         [&](Gain<Scalar>& to, const std::string& name, Index) { to.value = vectors.at(name); }});
  return model;
}

/// A model of random weights: normal, gains 1, biases 0. The deviation is transformers' by default.
template <class Scalar>
std::unique_ptr<Decoder<Scalar>> random_decoder(ModelConfig config, std::uint64_t seed, double deviation = 0.02,
                                                const Base<Scalar>& base = {}) {
  const CounterRandom random(seed);
  std::uint64_t tensor = 0;
  return make_decoder(std::move(config), base, [&](const std::string& name, auto& numbers, bool vector) {
    const bool gain = vector && name.find("norm") != std::string::npos;
    for (Index i = 0; i < numbers.size(); ++i) {
      const double value =
          vector ? (gain ? 1.0 : 0.0) : deviation * random.normal(static_cast<std::uint64_t>(i), tensor);
      numbers.data()[i] = Scalar(static_cast<real_t<Scalar>>(value));
    }
    ++tensor;
  });
}

/// Reads the weights of a checkpoint. A lm_head in the file is used unless it is tied and equals the embedding.
/// @throws FileError  a tensor that is missing or has another shape, or a number that is not finite.
template <class Scalar>
std::unique_ptr<Decoder<Scalar>> load_decoder(const Checkpoint& checkpoint, ModelConfig config,
                                              const Base<Scalar>& base = {}) {
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
  return make_decoder(std::move(config), base,
                      [&](const std::string& name, auto& numbers, bool) { checkpoint.read(name, numbers); });
}

/// Copies the small files of a model's folder: config, tokenizer, chat template. It creates the folder.
/// @param source  where the model came from; where it is empty nothing is copied. @throws FileError
inline void copy_model_files(const std::filesystem::path& source, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(folder, "cannot create the folder: " + error.message());
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                           "chat_template.jinja", "special_tokens_map.json"}) {
    if (source.empty() || !std::filesystem::exists(source / name)) continue;
    std::filesystem::copy_file(source / name, folder / name, std::filesystem::copy_options::overwrite_existing, error);
    if (error) throw FileError(folder / name, "cannot write: " + error.message());
  }
}

/// Writes model.safetensors in float32 into a folder that is there. Memory: two more copies of the weights.
template <class Scalar>
void save_model(const Decoder<Scalar>& model, const std::filesystem::path& folder) {
  SafetensorsWriter file;
  file.metadata["format"] = "pt";
  for_each_tensor_in(
      model.config, model.weights.data(),
      [&](const std::string& name, const auto& numbers, bool vector) { file.add(name, numbers, {}, vector); });
  file.save(folder / "model.safetensors");
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
