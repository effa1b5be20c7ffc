// SPDX-License-Identifier: MIT
//
// Models and adapters of llama.cpp (cases/README.md).
#include <doctest/doctest.h>

#include "hydralora/interop/gguf_adapter.hpp"
#include "hydralora/interop/gguf_checkpoint.hpp"
#include "hydralora/lm/adapters.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace hydralora;
using namespace support;

namespace {

const std::filesystem::path mixed_model = std::filesystem::path(HYDRALORA_LM_CASES) / "E1_llama_mixed";

nlohmann::json mixed_json(const char* name) { return nlohmann::json::parse(file_content(mixed_model / name)); }

lm::Matrix<float> logits_of(lm::Decoder<float>& model) {
  lm::Batch batch;
  const nlohmann::json input = mixed_json("batch.json");
  for (const auto& document : input["documents"]) batch.add(document["ids"].get<std::vector<int>>(), {});
  batch.labels.assign(batch.ids.size(), lm::not_scored);
  lm::Matrix<float> all(model.config.vocabulary, batch.tokens());
  model.logits(batch, [&](Index first, ConstTokens<float> z) { all.middleCols(first, z.tokens()) = z.matrix(); });
  return all;
}
float distance(const lm::Matrix<float>& logits, const char* expected) {
  lm::Matrix<float> wanted(logits.cols(), logits.rows());
  SafetensorsFile(mixed_model / "expected.safetensors").read(expected, wanted);
  return (logits - wanted.transpose()).cwiseAbs().maxCoeff();
}

/// A file's header with other texts of the same length.
std::string replaced(std::string content, const std::string& from, const std::string& to) {
  const std::size_t place = content.find(from);
  REQUIRE(place != std::string::npos);
  REQUIRE(from.size() == to.size());
  return content.replace(place, to.size(), to);
}

}  // namespace

TEST_CASE("a GGUF computes what its dequantised weights do, in its blocks and on another base") {
  const GgufModel file(mixed_model / "base.gguf");
  CHECK(file.spare().empty());
  const auto model = file.load<float>();
  CHECK(distance(logits_of(*model), "logits_base") < 1e-4F);
  const lm::Base<float> dense;
  CHECK(distance(logits_of(*file.load<float>(&dense)), "logits_base") < 1e-4F);
}

TEST_CASE("a GGUF becomes a Hugging Face folder with the same logits, tokens and chats") {
  const GgufModel file(mixed_model / "base.gguf");
  const lm::Base<float> dense;
  const auto model = file.load<float>(&dense);
  const TemporaryFolder temporary;
  const std::filesystem::path folder = temporary("model");
  write_model_files(file, folder);
  lm::save_model(*model, folder);
  const auto again = lm::load_decoder<float>(lm::Checkpoint(folder), lm::read_model_config(folder / "config.json"));
  CHECK(logits_of(*again) == logits_of(*model));
  CHECK(again->config.end_tokens == file.config().end_tokens);
  const lm::Tokenizer tokenizer(folder / "tokenizer.json");
  const nlohmann::json expected = mixed_json("expected.json");
  for (const auto& one : expected["tokens"]) {
    CHECK(nlohmann::json(tokenizer.encode(one["text"].get<std::string>()).ids) == one["ids"]);
  }
  const auto theirs = gguf_chat_template(file.file());
  REQUIRE(theirs.has_value());
  const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", "hi"}}};
  CHECK(lm::ChatTemplate::of_model(folder)->render(messages, true) == theirs->render(messages, true));
}

TEST_CASE("adapters of llama.cpp and PEFT become each other") {
  const GgufModel file(mixed_model / "base.gguf");
  const auto model = file.load<float>();
  {
    const lm::Adapters<float> adapters(*model, PeftDirectory(mixed_model / "adapter"));
    CHECK(distance(logits_of(*model), "logits_adapter") < 1e-4F);
  }
  const TemporaryFolder temporary;
  write_peft_directory(GgufFile(mixed_model / "adapter.gguf"), file.config(), temporary("peft"));
  {
    const lm::Adapters<float> adapters(*model, PeftDirectory(temporary("peft")));
    CHECK(distance(logits_of(*model), "logits_adapter") < 1e-4F);
  }
  // There and back: the same numbers.
  write_gguf_adapter(PeftDirectory(temporary("peft")), file.config(), temporary("back.gguf"));
  const GgufFile ours(temporary("back.gguf")), theirs(mixed_model / "adapter.gguf");
  CHECK(ours.tensors().size() == theirs.tensors().size());
  for (const auto& [name, entry] : theirs.tensors()) CHECK(ours.bytes(name) == theirs.bytes(name));
  for (const char* key : {"general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"}) {
    CHECK(ours.metadata()[key] == theirs.metadata()[key]);
  }
}

TEST_CASE("ranks, alphas and rsLoRA of several modules are folded into lora_b; a split adapter is one LoRA") {
  const GgufModel file(mixed_model / "base.gguf");
  const auto model = file.load<float>();
  const TemporaryFolder temporary;
  const auto randomized = [](auto layer) {
    layer.initialize();
    layer.parameters().setRandom();
    return layer;
  };
  PeftWriter loras, splits, routed;
  const Index hidden = file.config().hidden, kv = file.config().kv_features();
  const char *q = "model.layers.0.self_attn.q_proj", *k = "model.layers.1.self_attn.k_proj";
  loras.add(q, randomized(LoRA<float>(LoRAConfig{hidden, hidden, 2, 5})));
  loras.add(k, randomized(LoRA<float>(LoRAConfig{hidden, kv, 3, 4, true})));
  SplitLoRAConfig split;
  split.in_features = hidden, split.out_features = kv, split.rank = 2, split.alpha = 3, split.heads = 3;
  splits.add(k, randomized(SplitLoRA<float>(split)));
  for (const PeftWriter* writer : {&loras, &splits}) {
    const std::string name = writer == &loras ? "loras" : "splits";
    writer->save(temporary(name));
    write_gguf_adapter(PeftDirectory(temporary(name)), file.config(), temporary(name + ".gguf"));
    write_peft_directory(GgufFile(temporary(name + ".gguf")), file.config(), temporary(name + "_back"));
    lm::Matrix<float> logits[2];
    for (int i = 0; i < 2; ++i) {
      const lm::Adapters<float> adapters(*model, PeftDirectory(temporary(i == 0 ? name : name + "_back")));
      logits[i] = logits_of(*model);
    }
    CHECK((logits[0] - logits[1]).norm() < 1e-5F * logits[0].norm());
    CHECK((logits[0] - logits_of(*model)).norm() > 1e-3F * logits[0].norm());
  }
  split.routing = Routing::learned;
  routed.add(k, randomized(SplitLoRA<float>(split)));
  routed.save(temporary("routed"));
  CHECK(message_of<FileError>([&] {
          write_gguf_adapter(PeftDirectory(temporary("routed")), file.config(), temporary("no.gguf"));
        }) == containing("with a gate"));
}

TEST_CASE("the tokenizer and the chat template of a GGUF") {
  const GgufFile file(mixed_model / "base.gguf");
  const lm::Tokenizer tokenizer = gguf_tokenizer(file);
  const nlohmann::json expected = mixed_json("expected.json");
  CHECK(!expected["tokens"].empty());
  for (const auto& one : expected["tokens"]) {
    CHECK(nlohmann::json(tokenizer.encode(one["text"].get<std::string>()).ids) == one["ids"]);
  }
  const auto chat = gguf_chat_template(file);
  REQUIRE(chat);
  CHECK(chat->render({{{"role", "user"}, {"content", "Hi"}}}, true) == containing("<|im_start|>user\nHi<|im_end|>"));
}

TEST_CASE("a SentencePiece tokenizer in a GGUF merges by its scores and falls back to bytes") {
  const TemporaryFolder temporary;
  GgufWriter out;
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int> types = {2, 3, 3};
  std::vector<double> scores = {0.5, 0.5, 0.5};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    tokens.emplace_back(name), types.push_back(6), scores.push_back(0.5);
  }
  for (const char* piece : {"\u2581a", "ab", "\u2581ab", "\u2581", "a", "b"}) {
    tokens.emplace_back(piece), types.push_back(1), scores.push_back(-static_cast<double>(tokens.size()));
  }
  out.metadata = {{"tokenizer.ggml.model", "llama"},
                  {"tokenizer.ggml.tokens", tokens},
                  {"tokenizer.ggml.token_type", types},
                  {"tokenizer.ggml.scores", scores},
                  {"tokenizer.ggml.bos_token_id", 1U}};
  out.save(temporary("t"));
  const lm::Tokenizer tokenizer = gguf_tokenizer(GgufFile(temporary("t")));
  const int first = 259;
  CHECK(tokenizer.encode("ab", true).ids == std::vector<int>{1, first + 2});         // <s> ▁ab
  CHECK(tokenizer.encode("b").ids == std::vector<int>{first + 3, first + 5});        // ▁ b
  CHECK(tokenizer.encode("aé").ids == std::vector<int>{first, 3 + 0xc3, 3 + 0xa9});  // ▁a and two bytes
  CHECK(tokenizer.decode(tokenizer.encode("ab aé").ids) == "ab aé");
}

TEST_CASE("GGUF models and adapters that do not fit are refused by name") {
  const TemporaryFolder temporary;
  const std::string model = file_content(mixed_model / "base.gguf"),
                    adapter = file_content(mixed_model / "adapter.gguf");
  const auto message = [&](const std::string& from, const std::string& to) {
    write_file(temporary("t"), replaced(model, from, to));
    return message_of<FileError>([&] { GgufModel(temporary("t")).load<float>(); });
  };
  CHECK(message("blk.0.ffn_up.weight", "blk.9.ffn_up.weight") == containing("has no tensor 'blk.0.ffn_up.weight'"));
  CHECK(message("llama.block_count", "llama.block_xxxxx") == containing("'llama.block_count' is missing"));
  const lm::ModelConfig config = GgufModel(mixed_model / "base.gguf").config();
  const auto adapter_message = [&](const std::string& from, const std::string& to) {
    write_file(temporary("t"), replaced(adapter, from, to));
    return message_of<FileError>([&] { write_peft_directory(GgufFile(temporary("t")), config, temporary("no")); });
  };
  CHECK(adapter_message("blk.1.ffn_up.weight.lora_a", "blk.7.ffn_up.weight.lora_a") == containing("has no tensor"));
  CHECK(adapter_message("adapter.lora.alpha", "adapter.lora.beta_") == containing("adapter.lora.alpha"));
  CHECK(!std::filesystem::exists(temporary("no")));
  CHECK(message_of<FileError>([&] {
          write_peft_directory(GgufFile(mixed_model / "base.gguf"), config, temporary("no"));
        }) == containing("general.type"));
}
