// SPDX-License-Identifier: MIT
//
// What a directory changes beside adapters, against a model whose weights were changed by plain loops.
#include "hydralora/interop/peft_model.hpp"

#include <doctest/doctest.h>

#include "hydralora/lm/adapters.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

lm::ModelConfig tied_model() {
  lm::ModelConfig c;
  c.model_type = "llama";
  c.vocabulary = 20;
  c.hidden = 8;
  c.intermediate = 12;
  c.layers = 1;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_dim = 4;
  c.positions = 32;
  c.tied = true;
  c.windows.assign(1, 0);
  return c;
}

lm::Matrix<float> logits(lm::Decoder<float>& model) {
  lm::Batch batch;
  batch.add({3, 7, 1, 19, 4}, std::vector<int>(5, lm::not_scored));
  lm::Matrix<float> all(model.config.vocabulary, batch.tokens());
  model.logits(batch, [&](Index first, ConstTokens<float> z) { all.middleCols(first, z.tokens()) = z.matrix(); });
  return all;
}

using Numbers = std::map<std::string, Eigen::MatrixXf>;

/// A model of these tensors; lm_head is apart where there is one.
std::unique_ptr<lm::Decoder<float>> model_of(const Numbers& numbers) {
  lm::ModelConfig config = tied_model();
  config.tied = numbers.count("lm_head.weight") == 0;
  config.o_bias = numbers.count("model.layers.0.self_attn.o_proj.bias") > 0;
  return lm::make_decoder<float>(config, {}, [&](const std::string& name, auto& to, bool) { to = numbers.at(name); });
}

}  // namespace

TEST_CASE("saved modules, biases, DoRA and adapters of lm_head become part of a model, and leave it") {
  const std::string layer = "model.layers.0.", o = layer + "self_attn.o_proj", up = layer + "mlp.up_proj",
                    q = layer + "self_attn.q_proj", norm = layer + "input_layernorm.weight";
  const auto model = lm::random_decoder<float>(tied_model(), 1, 0.4);
  Numbers numbers;
  lm::for_each_tensor_in(model->config, model->weights.data(),
                         [&](const std::string& name, const auto& from, bool) { numbers[name] = from; });
  const lm::Matrix<float> before = logits(*model);
  REQUIRE((before - logits(*model_of(numbers))).norm() == 0);

  // A DoRA, a LoRA on lm_head in another directory, a LoRA that stays an adapter, and whole tensors.
  const auto with = [&](const TemporaryFolder& folder, const Numbers& expected, Index adapters) {
    PeftOptions options;
    options.allow_others = true;
    const PeftDirectory directory(folder.path(), options);
    {
      const MergedModules<float> merged(*model, directory);
      const lm::Adapters<float> rest(*model, directory, 0, merged.modules());
      CHECK(static_cast<Index>(directory.modules().size() - merged.modules().size()) == adapters);
      const lm::Matrix<float> wanted = logits(*model_of(expected));
      CHECK((logits(*model) - wanted).norm() <= 1e-5F * wanted.norm());
      CHECK((before - wanted).norm() > 0.01F * wanted.norm());
    }
    CHECK((logits(*model) - before).norm() == 0);
  };
  const auto random = [](Index rows, Index columns, std::uint64_t seed) {
    return Eigen::MatrixXf(random_matrix<float>(rows, columns, seed));
  };
  {
    const TemporaryFolder folder;
    PeftWriter writer;
    DoRALinear<float> dora(DenseLinear<float>{numbers[up + ".weight"]}, LoRAConfig{8, 12, 2, 6}, 3);
    dora.adapter.B() = random(12, 2, 4);
    dora.magnitude *= 1.25F;
    writer.add(up, dora);
    writer.save(folder.path());
    Numbers expected = numbers;
    Eigen::MatrixXf& w = expected[up + ".weight"];
    w += 3 * dora.adapter.B() * dora.adapter.A();
    for (Index row = 0; row < w.rows(); ++row) w.row(row) *= dora.magnitude[row] / w.row(row).norm();
    with(folder, expected, 0);
  }
  {
    const TemporaryFolder folder;
    PeftWriter writer;
    LoRA<float> head(LoRAConfig{8, 20, 2, 6}, 5), adapter(LoRAConfig{8, 8, 2, 6}, 6);
    head.B() = random(20, 2, 7);
    adapter.B() = random(8, 2, 8);
    writer.add("lm_head", head);
    writer.add(q, adapter);
    writer.add(o, LoRA<float>(LoRAConfig{8, 8, 2, 6}, 9));
    const Eigen::VectorXf bias = random(8, 1, 10), gain = random(8, 1, 11);
    const Eigen::MatrixXf embedding = random(20, 8, 12);
    writer.add_tensor(o + ".bias", bias);
    writer.add_tensor(norm, gain);
    writer.add_tensor("model.embed_tokens.weight", embedding);
    writer.save(folder.path());
    Numbers expected = numbers;
    expected["lm_head.weight"] = numbers["model.embed_tokens.weight"] + 3 * head.B() * head.A();
    expected[q + ".weight"] += 3 * adapter.B() * adapter.A();
    expected[o + ".bias"] = bias;
    expected[norm] = gain;
    expected["model.embed_tokens.weight"] = embedding;
    with(folder, expected, 2);
  }
  // What does not fit is named, and the model stays as it is.
  for (const auto& [name, rows, message] :
       {std::tuple("lm_head.weight", Index{21}, "has shape [21, 8], expected [20, 8]"),
        std::tuple("score.weight", Index{2}, "belongs to another model")}) {
    const TemporaryFolder folder;
    PeftWriter writer;
    writer.add(q, LoRA<float>(LoRAConfig{8, 8, 2, 6}));
    writer.add_tensor(norm, Eigen::VectorXf(random(8, 1, 11)));
    writer.add_tensor(name, random(rows, 8, 1));
    writer.save(folder.path());
    PeftOptions options;
    options.allow_others = true;
    const PeftDirectory directory(folder.path(), options);
    CHECK(message_of<FileError>([&] { MergedModules<float>(*model, directory); }) == containing(message));
    CHECK((logits(*model) - before).norm() == 0);
  }
}
