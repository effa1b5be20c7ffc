// SPDX-License-Identifier: MIT
//
// Adapters as many trainers write them (golden/trainers.tar.xz, rebuilt from public bug reports): read right, or
// refused with the reason.
#include <chrono>
#include <fstream>
#include <set>

#include "hydralora/io/peft.hpp"
#include "support/files.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

const std::filesystem::path trainers = HYDRALORA_TRAINERS;

std::string opens(const std::filesystem::path& path, const PeftOptions& options = {}) {
  return message_of<FileError>([&] { PeftDirectory directory(path, options); });
}

/// ΔW(x) for x_i = (i + 1) / in.
template <class Layer>
Eigen::VectorXf change(const PeftDirectory& directory, const std::string& module) {
  const Layer layer = directory.load<Layer>(module);
  Eigen::MatrixXf x(layer.shape().in, 1), y = Eigen::MatrixXf::Zero(layer.shape().out, 1);
  for (Index i = 0; i < x.rows(); ++i) x(i, 0) = static_cast<float>(i + 1) / static_cast<float>(x.rows());
  layer.forward(x, y);
  return y.col(0);
}

PeftOptions with_others() {
  PeftOptions options;
  options.allow_others = true;
  return options;
}

/// Random tensors of a LoRA under these names, and a config.
struct Dialect {
  const char *a, *b, *config, *file, *name;
  bool transposed;
  double scaling;
};

}  // namespace

TEST_CASE("trainers: every directory that PEFT reads gives its scaling and results") {
  std::ifstream lines(trainers / "expected.txt");
  std::string folder, module, scaling, results;
  std::set<std::string> folders;
  while (lines >> folder >> module >> scaling >> results) {
    CAPTURE(folder);
    CAPTURE(module);
    const PeftDirectory directory(trainers / folder);
    const AdapterModule& m = directory.module(module);
    const bool hydra = m.kind == AdapterKind::hydra_lora;
    const double s = hydra ? scaling_of(directory.config<HydraLoRA<float>>(module))
                           : scaling_of(directory.config<LoRA<float>>(module));
    CHECK(s == doctest::Approx(std::stod(scaling.substr(2))).epsilon(1e-5));
    const Eigen::VectorXf y =
        hydra ? change<HydraLoRA<float>>(directory, module) : change<LoRA<float>>(directory, module);
    std::istringstream numbers(results.substr(2));
    std::string number;
    Index i = 0;
    for (; std::getline(numbers, number, ','); ++i) {
      REQUIRE(i < y.size());
      const float expected = std::stof(number);
      CHECK(std::abs(y[i] - expected) <= 2e-4F * std::max(1.0F, std::abs(expected)));
    }
    CHECK(i == y.size());
    folders.insert(folder);
  }
  CHECK(folders.size() == 26);
}

TEST_CASE("trainers: what would be wrong is refused with the reason") {
  const char* changed = "which changed the base. Save a plain LoRA";
  for (const auto& [folder, reason] : std::initializer_list<std::pair<const char*, const char*>>{
           {"02_init_OLoRA_capitals", changed},
           {"02_init_corda", changed},
           {"02_init_loftq", changed},
           {"02_init_lora_ga", changed},
           {"02_init_olora", changed},
           {"02_init_pissa", changed},
           {"02_init_pissa_niter_4", changed},
           {"04_bias_all", "q_proj.base_layer.bias' F32 [5] (a bias); has the tensor"},
           {"04_embed_saved_automatically", "lm_head.weight' BF16 [8, 6] (an embedding that was saved, too)"},
           {"04_embedding_lora", "embed_tokens.lora_embedding_A' BF16 [2, 8] (LoRA on an embedding)"},
           {"04_lora_bias", "q_proj.lora_B.bias' F32 [5] (lora_bias)"},
           {"04_modules_to_save", "embed_tokens.weight' BF16 [8, 6] (modules_to_save)"},
           {"04_target_parameters", "experts.lora_A.weight' F32 [8, 6] (LoRA on a parameter of a fused module"},
           {"04_trainable_tokens", "trainable_tokens_delta' F32 [2, 6] (trainable_token_indices)"},
           {"06_empty_rank0", "'layers.1.self_attn.q_proj' in rank_pattern is 0, expected a whole number"},
           {"06_f8", "q_proj.lora_A.weight' is F8_E4M3 [2, 6], expected a matrix of F64, F32, F16 or BF16"},
           {"06_half_zero3", "1.self_attn.v_proj.lora_B.weight': DeepSpeed ZeRO-3"},
           {"06_meta_number", "a number where none is allowed: __metadata__ has no text for 'epoch'"},
           {"06_no_config", "adapter_config.json: No such file: it tells the scaling"},
           {"06_no_tensors_40_bytes", "holds no adapter"},
           {"06_zero3_empty", "DeepSpeed ZeRO-3 saved a part that it did not gather"},
           {"07_hydra_modules_to_save", "lm_head.weight' F32 [8, 6] (modules_to_save)"}}) {
    CAPTURE(folder);
    CHECK(opens(trainers / folder) == containing(reason));
  }
  CHECK(opens(trainers / "06_nan") == "nothing thrown");
  CHECK(message_of<FileError>([&] {
          PeftDirectory(trainers / "06_nan").load<LoRA<float>>("model.layers.0.self_attn.q_proj");
        }) == containing("is not finite at 0"));
}

TEST_CASE("trainers: on request the adapters are read, and the rest is listed and readable") {
  for (const auto& [folder, others, target] : std::initializer_list<std::tuple<const char*, std::size_t, const char*>>{
           {"04_bias_all", 4, "model.layers.0.self_attn.q_proj.bias"},
           {"04_embed_saved_automatically", 2, "lm_head.weight"},
           {"04_embedding_lora", 2, "model.embed_tokens.lora_embedding_A"},
           {"04_lora_bias", 4, "model.layers.0.self_attn.q_proj.lora_B.bias"},
           {"04_modules_to_save", 2, "lm_head.weight"},
           {"04_target_parameters", 2, "model.layers.0.mlp.experts.lora_A.weight"},
           {"04_trainable_tokens", 1, "model.embed_tokens.token_adapter.trainable_tokens_delta"}}) {
    CAPTURE(folder);
    const PeftDirectory directory(trainers / folder, with_others());
    CHECK(directory.modules().size() == 4);
    CHECK(change<LoRA<float>>(directory, "model.layers.0.self_attn.v_proj").norm() > 0.1F);
    REQUIRE(directory.others().size() == others);
    CHECK(directory.others()[0].target == target);
    for (const OtherTensor& other : directory.others()) {
      CHECK(directory.weights().bytes(other.name).size() == directory.weights().entry(other.name).bytes);
    }
  }
  CHECK(PeftDirectory(trainers / "04_trainable_tokens", with_others()).trainable_tokens() == std::vector<Index>{5, 6});
}

TEST_CASE("trainers: the dialects of names") {
  const TemporaryFolder folder;
  const char* peft = R"({"r":2,"lora_alpha":6})";
  const char* mlx = R"({"fine_tune_type":"lora","lora_parameters":{"rank":2,"scale":10.0,"dropout":0.0}})";
  const char* old_mlx = R"({"num_layers":16,"lora_parameters":{"rank":2,"scale":10.0,"alpha":3.0}})";  // not used
  const char* mixlora = R"({"peft_type":"MIXLORA","r":2,"lora_alpha":6,"num_experts":8,"target_modules":{"q":true}})";
  const Dialect dialects[] = {
      {"base_model.model.a.q.lora_A.weight", "base_model.model.a.q.lora_B.weight", peft, "adapter_model", "PEFT", false,
       3},
      {"base_model.model.a.q.lora_A.default.weight", "base_model.model.a.q.lora_B.default.weight", peft,
       "adapter_model", "PEFT", false, 3},
      {"base_model.model._orig_mod.a.q.lora_A.weight", "base_model.model._orig_mod.a.q.lora_B.weight", peft,
       "adapter_model", "torch.compile", false, 3},
      {"_orig_mod.base_model.model.a.q.lora_A.weight", "_orig_mod.base_model.model.a.q.lora_B.weight", peft,
       "adapter_model", "torch.compile", false, 3},
      {"a.q.lora_A.weight", "a.q.lora_B.weight", peft, "adapter_model", "names without a prefix", false, 3},
      {"base_model.model.a.q.lora_A.weight", "base_model.model.a.q.lora_B.weight",
       R"({"r":2,"lora_alpha":6,"auto_mapping":{"unsloth_fixed":true}})", "adapter_model", "Unsloth", false, 3},
      {"base_model.model.a.q.lora_A.weight", "base_model.model.a.q.lora_B.weight",
       R"({"r":2,"lora_alpha":6,"lora_dtype":"AUTO","lorap_lr_ratio":null})", "adapter_model", "Swift", false, 3},
      {"a.q.lora_a", "a.q.lora_b", mlx, "adapters", "MLX", true, 10},
      {"a.q.lora_a", "a.q.lora_b", old_mlx, "adapters", "MLX", true, 10},
      {"mixlora.a.q.lora_A.weight", "mixlora.a.q.lora_B.weight", mixlora, "adapter_model", "MixLoRA", false, 3},
      {"unet.a.q.lora_A.weight", "unet.a.q.lora_B.weight", nullptr, "pytorch_lora_weights", "diffusers", false, 1},
      {"transformer.a.q.lora.down.weight", "transformer.a.q.lora.up.weight", nullptr, "pytorch_lora_weights",
       "diffusers", false, 1},
      {"unet.a.processor.to_q_lora.down.weight", "unet.a.processor.to_q_lora.up.weight", nullptr,
       "pytorch_lora_weights", "diffusers", false, 1},
      {"lora_unet_a_q.lora_down.weight", "lora_unet_a_q.lora_up.weight", nullptr, "pytorch_lora_weights", "kohya",
       false, 1}};
  const Eigen::MatrixXf A = random_matrix<float>(2, 5, 1), B = random_matrix<float>(4, 2, 2);
  int number = 0;
  for (const Dialect& d : dialects) {
    CAPTURE(d.a);
    const std::filesystem::path here = folder(std::to_string(number++));
    std::filesystem::create_directories(here);
    SafetensorsWriter file;
    if (d.transposed) {
      file.add(d.a, A.transpose());
      file.add(d.b, B.transpose());
    } else {
      file.add(d.a, A);
      file.add(d.b, B);
    }
    file.save(here / (std::string(d.file) + ".safetensors"));
    if (d.config != nullptr) write_file(here / "adapter_config.json", d.config);
    const PeftDirectory directory(here);
    CHECK(directory.dialect() == d.name);
    REQUIRE(directory.modules().size() == 1);
    const std::string module = directory.modules()[0].name;
    CHECK((module == "a.q" || module == "unet.a.q" || module == "transformer.a.q" || module == "unet.a.to_q" ||
           module == "model.a.q" || module == "lora_unet_a_q"));
    const LoRA<float> layer = directory.load<LoRA<float>>(module);
    CHECK(same_bits<float>(layer.A(), A));
    CHECK(same_bits<float>(layer.B(), B));
    CHECK(static_cast<double>(layer.scaling()) == doctest::Approx(d.scaling));
  }
  // kohya's alpha, a 1 × 1 convolution, and a file given by its own name
  const PeftDirectory kohya(trainers / "08_kohya" / "sd_lora.safetensors");
  CHECK(kohya.modules().size() == 2);
  CHECK(kohya.load<LoRA<float>>(kohya.modules()[1].name).scaling() == 0.5F);
  CHECK(PeftDirectory(trainers / "04_conv2d_1x1").load<LoRA<float>>("unet.conv").scaling() == 8.0F);

  // diffusers' settings in the metadata of the weights
  SafetensorsWriter flux;
  flux.add("transformer.a.q.lora_A.weight", A);
  flux.add("transformer.a.q.lora_B.weight", B);
  flux.metadata["lora_adapter_metadata"] =
      R"({"transformer.r": 2, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"a.q": 5}})";
  flux.save(folder("flux.safetensors"));
  CHECK(PeftDirectory(folder("flux.safetensors")).load<LoRA<float>>("transformer.a.q").scaling() == 2.5F);
  flux.metadata["lora_adapter_metadata"] = R"({"transformer.r": 3, "transformer.lora_alpha": 8})";
  flux.save(folder("flux.safetensors"));
  CHECK(opens(folder("flux.safetensors")) == containing("its lora_A has 2 rows, the settings say rank 3"));

  // Names of the caller's.
  SafetensorsWriter own;
  own.add("down/layer3", A);
  own.add("up/layer3", B);
  std::filesystem::create_directories(folder("own"));
  own.save(folder("own") / "adapter_model.safetensors");
  write_file(folder("own") / "adapter_config.json", peft);
  PeftOptions options;
  options.rename = [](const std::string& name) {
    const bool down = name.rfind("down/", 0) == 0;
    return "model." + name.substr(name.find('/') + 1) + (down ? ".lora_A.weight" : ".lora_B.weight");
  };
  CHECK(opens(folder("own")) == containing("has the tensor 'down/layer3' F32 [2, 5] (unknown)"));
  CHECK(same_bits<float>(PeftDirectory(folder("own"), options).load<LoRA<float>>("model.layer3").A(), A));
  options.rename = [](const std::string&) { return std::string("x.lora_A.weight"); };
  CHECK(opens(folder("own"), options) == containing("has two tensors for one: 'down/layer3', 'up/layer3'"));
}

TEST_CASE("trainers: files that cannot be an adapter say what they are") {
  const TemporaryFolder folder;
  const auto with = [&](const SafetensorsWriter& file, const std::string& config) {
    file.save(folder("adapter_model.safetensors"));
    write_file(folder("adapter_config.json"), config);
    return opens(folder.path());
  };
  const std::string config = R"({"r":2,"lora_alpha":6})", p = "base_model.model.c.";
  write_file(folder("adapter_config.json"), config);
  write_file(folder("adapter_model.bin"), "PK");
  CHECK(opens(folder.path()) == containing("adapter_model.bin: is a pickle, which may run any code. Convert it"));
  SafetensorsWriter conv, two, mixture, extra;
  CHECK(with(conv, config) == containing("tensors. adapter_model.bin beside it is a pickle, which may run"));
  conv.add_bytes(p + "lora_A.weight", DType::F32, {2, 5, 3, 3}, std::vector<unsigned char>(360));
  conv.add_bytes(p + "lora_B.weight", DType::F32, {4, 2, 1, 1}, std::vector<unsigned char>(32));
  CHECK(with(conv, config) ==
        containing("lora_A.weight' is F32 [2, 5, 3, 3]: of convolutions only 1 x 1 is supported"));
  two.add(p + "lora_A.one.weight", Eigen::MatrixXf::Ones(2, 5));
  two.add(p + "lora_A.two.weight", Eigen::MatrixXf::Ones(2, 5));
  CHECK(with(two, config) == containing("has the adapters 'one' and 'two', expected one"));
  mixture.add("mixlora.layers.0.mlp.moe_gate.weight", Eigen::MatrixXf::Ones(2, 5));
  CHECK(with(mixture, config) == containing("(MixLoRA's router over whole feed-forward networks)"));
  extra.add(p + "lora_A.weight", Eigen::MatrixXf::Ones(2, 5));
  extra.add(p + "lora_B.weight", Eigen::MatrixXf::Ones(4, 2));
  extra.add(p + "lora_magnitude_vector", Eigen::VectorXf::Ones(4), {}, true);
  CHECK(with(extra, config) == containing("it has a lora_magnitude_vector, use_dora in the settings is false"));
  write_file(folder("adapter_model.safetensors"),
             "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
  CHECK(opens(folder.path()) == containing("is a pointer of Git LFS"));
}

TEST_CASE("trainers: patterns are read as PEFT reads them") {
  detail::PeftPattern<int> pattern;
  int number = 0;
  for (const char* key :
       {"^model.a.q", "b\\.[0-3]\\.(q|v)", ".*layers\\.\\d{1,2}\\.k$", "q_proj", "x.y", "layers.0.q_proj"}) {
    pattern.add(key, number++);
  }
  for (const auto& [module, expected] : std::initializer_list<std::pair<std::string, int>>{{"model.a.q", 0},
                                                                                           {"x.model.a.q", -1},
                                                                                           {"modelxa.q", 0},
                                                                                           {"model.b.2.v", 1},
                                                                                           {"b.4.v", -1},
                                                                                           {"xb.2.v", -1},
                                                                                           {"model.layers.11.k", 2},
                                                                                           {"layers.11.k", 2},
                                                                                           {"m.layers.x.k", -1},
                                                                                           {"m.q_proj", 3},
                                                                                           {"q_proj", 3},
                                                                                           {"mq_proj", -1},
                                                                                           {"x.y", 4},
                                                                                           {"m.x.y", 4},
                                                                                           {"xzy", 4},
                                                                                           {"layers.0.q_proj", 3},
                                                                                           {"x.y.z", -1}}) {
    CAPTURE(module);
    CHECK(pattern.find(module, -1) == expected);
  }
  // Python's syntax that ECMAScript does not have, or has with another meaning.
  detail::PeftPattern<int> python;
  python.add("\\Aa.q\\Z", 1);
  python.add("(b|c)\\.[^x]", 2);
  CHECK(python.find("m.c.y", -1) == 2);
  CHECK(python.find("a.q", -1) == 1);
  CHECK(python.find("x.a.q", -1) == -1);
  for (const char* key : {"[]q]", "[[:alpha:]]", "(?i)A.Q", "(q)\\1", "\\Qq", "\\z?q"}) {
    CAPTURE(std::string(key));
    CHECK(message_of<std::invalid_argument>([&] { python.add(key, 0); }) == containing("no regular expression"));
  }
  // What no name of a module needs is refused before it costs time.
  detail::PeftPattern<int> hostile;
  const auto adding = [&](const std::string& key) {
    return message_of<std::invalid_argument>([&] { hostile.add(key, 0); });
  };
  CHECK(adding(std::string(5000, '(')) == containing("is too large"));
  CHECK(adding("((a{50}){50}){50}") == containing("is too large"));
  CHECK(adding("(?P<name>x)") == containing("is no regular expression"));
  CHECK(adding("(a*)*(a*)*(a*)*b") == "nothing thrown");
  CHECK(hostile.find(std::string(60, 'a'), -1) == -1);
  CHECK(message_of<std::invalid_argument>([&] { hostile.find(std::string(10'000'000, 'a'), -1); }) ==
        containing("takes too long"));
}

TEST_CASE("trainers: files that would be read wrong, or take long, are refused") {
  const TemporaryFolder folder;
  const Eigen::MatrixXf A = random_matrix<float>(2, 5, 1), B = random_matrix<float>(4, 2, 2);
  SafetensorsWriter plain, both, gpt2, embedding, twice;
  plain.add("m.q.lora_A.weight", A);
  plain.add("m.q.lora_B.weight", B);
  const auto with = [&](const SafetensorsWriter& file, const std::string& config) {
    file.save(folder("adapter_model.safetensors"));
    write_file(folder("adapter_config.json"), config);
    return opens(folder.path());
  };
  const std::string start = R"({"r":2,"lora_alpha":6)";
  CHECK(with(plain, start + R"(,"trainable_token_indices":[18446744073709551615]})") ==
        containing("'trainable_token_indices' is 18446744073709551615, expected a whole number from 0 to"));
  CHECK(with(plain, start + R"(,"enable_lora":[true,false]})") == containing("the setting 'enable_lora' is"));
  CHECK(with(plain, R"({"lora_parameters":{"rank":2,"scale":10.0,"alpha":3.0}})") ==
        containing("'alpha' in lora_parameters is 3.0 and the rank 2: old versions of MLX multiply"));
  CHECK(with(plain, start + ",\"init_lora_weights\":[" + std::string(1 << 20U, ' ') + "1]}").size() < 3000);
  // Places of dots that all differ, classes, and large repetitions: too much work for all keys together.
  std::string keys;
  for (int i = 0; i < 300; ++i) keys += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "[a][b]\":1";
  CHECK(with(plain, start + ",\"alpha_pattern\":{" + keys + "}}") == containing("makes the pattern too large"));
  both.add("m.q.lora_a", A.transpose());
  both.add("m.q.lora_B.weight", B);
  CHECK(with(both, start + "}") == containing("module 'm.q' has names of several trainers"));
  gpt2.add("transformer.h.0.q.lora_A.weight", A);
  gpt2.add("transformer.h.0.q.lora_B.weight", B);
  gpt2.save(folder("other.safetensors"));
  CHECK(opens(folder("other.safetensors")) == containing("is not read for a file of this name; it tells the scaling"));
  embedding.add("model.embed_tokens.lora_a", A);
  CHECK(with(embedding, start + "}") == containing("(LoRA on an embedding)"));
  twice.add("m.q.lora_A.weight", A);
  twice.add("m.q.lora_B.weight", B);
  twice.add("lm_head.weight", B);
  twice.add("base_model.model.lm_head.modules_to_save.default.weight", B);
  CHECK(with(twice, start + "}") == containing("has two tensors for one: "));
  PeftWriter writer;  // a layer that cannot be written leaves nothing behind
  LoRA<float> large(LoRAConfig{5, 4, 2});
  large.B()(3, 1) = 1e6F;
  CHECK(message_of([&] { writer.add("q", large, DType::F16); }) == containing("too large for F16"));
  writer.add("q", large);
  CHECK(message_of([&] { writer.add_tensor("a.lora_B.bias", B); }) == containing("is not a tensor of a module"));
}

TEST_CASE("trainers: a directory with an adapter for each of many experts is written and read in linear time") {
  const TemporaryFolder folder;
  PeftWriter writer;
  constexpr Index modules = 12032;  // the settings have more than 1 MiB
  for (Index i = 0; i < modules; ++i) {
    LoRAConfig config{1, 1, 1 + i % 2};
    config.alpha = static_cast<double>(1 + i % 5);
    writer.add("model.layers." + std::to_string(i / 752) + ".mlp.experts." + std::to_string(i % 752) + ".up_proj",
               LoRA<float>(config));
  }
  writer.save(folder("a"));
  CHECK(std::filesystem::file_size(folder("a") / "adapter_config.json") > 1U << 20U);
  const PeftDirectory directory(folder("a"));
  REQUIRE(directory.modules().size() == static_cast<std::size_t>(modules));
  for (Index i = 0; i < modules; i += 97) {
    const AdapterModule& m = directory.module("model.layers." + std::to_string(i / 752) + ".mlp.experts." +
                                              std::to_string(i % 752) + ".up_proj");
    CHECK(m.rank == 1 + i % 2);
    CHECK(m.alpha == static_cast<double>(1 + i % 5));
  }
}

TEST_CASE("trainers: DoRA, saved modules and biases are written where PEFT expects them") {
  const TemporaryFolder folder;
  const Eigen::MatrixXf W = random_matrix<float>(4, 5, 1), head = random_matrix<float>(7, 4, 2),
                        x = random_matrix<float>(5, 3, 3);
  const Eigen::VectorXf bias = random_matrix<float>(4, 1, 4);
  DoRALinear<float> layer(DenseLinear<float>{W}, LoRAConfig{5, 4, 2, 6}, 1);
  layer.adapter.B() = random_matrix<float>(4, 2, 5);
  layer.magnitude *= 1.5F;
  PeftWriter writer;
  writer.add("model.q", layer);
  writer.add_tensor("lm_head.modules_to_save.default.weight", head);
  writer.add_tensor("model.q.bias", bias);
  CHECK(message_of([&] { writer.add("model.k", LoRA<float>(LoRAConfig{5, 4, 2, 6})); }) == containing("is no DoRA"));
  CHECK(message_of([&] { writer.add_tensor("model.q.weight", W); }) == containing("the module has an adapter"));
  CHECK(message_of([&] { writer.add_tensor("model.q.lora_A.weight", W); }) ==
        containing("is not a tensor of a module"));
  CHECK(message_of([&] { writer.add_tensor("weight", W); }) == containing("is not a tensor of a module"));
  writer.save(folder("a"));
  const auto config = nlohmann::json::parse(file_content(folder("a") / "adapter_config.json"));
  CHECK(config["use_dora"] == true);
  CHECK(config["bias"] == "lora_only");
  CHECK(config["modules_to_save"] == std::vector<std::string>{"lm_head"});
  CHECK(opens(folder("a")) == containing("lm_head.weight' F32 [7, 4] (modules_to_save)"));
  const PeftDirectory directory(folder("a"), with_others());
  REQUIRE(directory.others().size() == 2);
  CHECK(directory.others()[0].target == "lm_head.weight");
  CHECK(directory.others()[1].target == "model.q.bias");
  CHECK(directory.weights().has("base_model.model.model.q.lora_magnitude_vector"));
  CHECK(directory.weights().has("base_model.model.model.q.base_layer.bias"));
  DoRALinear<float> loaded(DenseLinear<float>{W}, directory.config<LoRA<float>>("model.q"));
  directory.load_into(loaded, "model.q");
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(4, 3), expected = y;
  layer.forward(x, expected);
  loaded.forward(x, y);
  CHECK(same_bits<float>(y, expected));
  CHECK(message_of<FileError>([&] { directory.load<LoRA<float>>("model.q"); }) == containing("is a DoRA"));
  DoRALinear<float> other(DenseLinear<float>{W}, LoRAConfig{5, 4, 2, 7});
  const Eigen::VectorXf before = other.magnitude;
  CHECK(message_of<FileError>([&] { directory.load_into(other, "model.q"); }) == containing("with scaling 3"));
  CHECK(same_bits<float>(other.magnitude, before));
}

TEST_CASE("trainers: a save that ends between its two files leaves an adapter, the new one") {
  const TemporaryFolder folder;
  const auto save = [&](double alpha, Index rank) {
    PeftWriter writer;
    writer.add("q", LoRA<float>(LoRAConfig{5, 4, rank, alpha}));
    writer.save(folder("a"));
  };
  save(16, 2);
  const std::string old = file_content(folder("a") / "adapter_config.json");
  const std::string weights = file_content(folder("a") / "adapter_model.safetensors");
  save(16, 2);
  CHECK(file_content(folder("a") / "adapter_model.safetensors") == weights);
  save(30, 3);
  const std::string current = file_content(folder("a") / "adapter_config.json");
  CHECK(current != old);
  const auto scaling = [&] { return PeftDirectory(folder("a")).load<LoRA<float>>("q").scaling(); };
  CHECK(scaling() == 10.0F);
  write_file(folder("a") / "adapter_config.json", old);  // as if the process had been killed there
  CHECK(scaling() == 10.0F);
  std::filesystem::remove(folder("a") / "adapter_config.json");
  CHECK(scaling() == 10.0F);
  std::string edited = current;  // settings that a person changed count
  edited.replace(edited.find("\"lora_alpha\": 30"), 16, "\"lora_alpha\": 60");
  write_file(folder("a") / "adapter_config.json", edited);
  CHECK(scaling() == 20.0F);
}
