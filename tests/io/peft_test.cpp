// SPDX-License-Identifier: MIT
#include "hydralora/io/peft.hpp"

#include <algorithm>

#include "support/files.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Layer>
Layer random_layer(const typename Layer::Config& config, std::uint64_t seed) {
  Layer layer(config, seed);
  detail::for_each_tensor(layer, [&](const char*, Index, auto matrix) {
    matrix = random_matrix<typename Layer::Scalar>(matrix.rows(), matrix.cols(), ++seed);
  });
  return layer;
}

constexpr const char* good_config =
    R"({"peft_type":"LORA","r":2,"lora_alpha":16,"lora_dropout":0.0,"bias":"none","target_modules":["q"]})";

using Tensors = std::map<std::string, std::pair<Index, Index>>;  // shapes by name

/// Of the parts "A", "B", "A0" … of a module.
Tensors tensors_of(const std::string& module, const Tensors& parts) {
  Tensors tensors;
  for (const auto& [part, shape] : parts) tensors["base_model.model." + module + ".lora_" + part + ".weight"] = shape;
  return tensors;
}

/// A directory with a LoRA of rank 2, 5 -> 4, in module "q", and this configuration.
void write_directory(const std::filesystem::path& folder, const std::string& config,
                     const Tensors& tensors = tensors_of("q", {{"A", {2, 5}}, {"B", {4, 2}}})) {
  std::filesystem::create_directories(folder);
  SafetensorsWriter weights;
  for (const auto& [name, shape] : tensors) weights.add(name, Eigen::MatrixXf::Ones(shape.first, shape.second));
  weights.save(folder / "adapter_model.safetensors");
  write_file(folder / "adapter_config.json", config);
}

std::string opening(const std::filesystem::path& folder) {
  return message_of<FileError>([&] { PeftDirectory directory(folder); });
}

}  // namespace

TEST_CASE_TEMPLATE("peft: every kind is loaded as it was saved, bit for bit, padded or not", Scalar, float, double) {
  const TemporaryFolder folder;
  const Matrix<Scalar> x = random_matrix<Scalar>(7, 9, 77);
  for (const Index out : {6, 1024}) {
    for (const bool rank_stabilized : {false, true}) {
      CAPTURE(out);
      CAPTURE(rank_stabilized);
      const auto check = [&](const auto& layer) {
        using Layer = std::decay_t<decltype(layer)>;
        PeftWriter writer;
        writer.add("model.q", layer);
        writer.save(folder("a"));
        const PeftDirectory directory(folder("a"));
        REQUIRE(directory.modules().size() == 1);
        const AdapterModule& m = directory.modules()[0];
        CHECK(m.name == "model.q");
        CHECK(m.rank == layer.shape().rank);
        CHECK(m.heads == layer.shape().heads);
        CHECK(m.in_features == layer.shape().in);
        CHECK(m.out_features == layer.shape().out);
        CHECK(m.routed == layer.shape().gated());
        CHECK(m.type == (sizeof(Scalar) == 4 ? DType::F32 : DType::F64));
        const Layer loaded = directory.template load<Layer>("model.q");
        CHECK(loaded.shape() == layer.shape());
        CHECK(same_bits<Scalar>(loaded.parameters(), layer.parameters()));
        CHECK(std::abs(scaling_of(loaded.config()) - scaling_of(layer.config())) <=
              1e-15 * std::abs(scaling_of(layer.config())));
        if (!rank_stabilized) CHECK(same_bits(apply(loaded, x), apply(layer, x)));
        Layer into(loaded.config(), 5);
        directory.load_into(into, "model.q");
        CHECK(same_bits<Scalar>(into.parameters(), layer.parameters()));
        // Saving what was loaded gives the same files.
        PeftWriter again;
        again.add("model.q", loaded);
        again.save(folder("b"));
        for (const char* file : {"adapter_model.safetensors", "adapter_config.json"}) {
          if (rank_stabilized && std::string(file) == "adapter_config.json") continue;
          CHECK(file_content(folder("a") / file) == file_content(folder("b") / file));
        }
      };
      check(random_layer<LoRA<Scalar>>({7, out, 3, 5, rank_stabilized, 0.25}, 1));
      check(random_layer<HydraLoRA<Scalar>>({7, out, 3, 5, rank_stabilized, 0, 4}, 2));
      check(random_layer<SplitLoRA<Scalar>>({7, out, 3, 5, rank_stabilized, 0, 12, Routing::learned}, 3));
      check(random_layer<SplitLoRA<Scalar>>({7, out, 3, 5, rank_stabilized, 0, 2, Routing::uniform}, 4));
      check(random_layer<HydraLoRA<Scalar>>({7, out, 3, 5, rank_stabilized, 0, 1}, 5));
    }
  }
}

TEST_CASE("peft: a directory of many modules with ranks and scalings of their own") {
  const TemporaryFolder folder;
  PeftWriter writer;
  writer.base_model = "some/model";
  std::map<std::string, LoRA<float>> layers;
  Index rank = 1;
  for (const char* name : {"q", "a.q", "b.a.q", "model.layers.0.mlp", "model.layers.10.mlp", "xq"}) {
    LoRAConfig config{3 + rank, 9 - rank, rank, 4.0 * static_cast<double>(rank * rank)};
    config.rank_stabilized = rank % 2 == 0;
    layers.emplace(name, random_layer<LoRA<float>>(config, static_cast<std::uint64_t>(rank)));
    writer.add(name, layers.at(name));
    ++rank;
  }
  writer.save(folder("a"));
  // Other readers take the first key that a name ends with: "q" before "a.q" would be wrong for the second.
  const auto config = nlohmann::ordered_json::parse(file_content(folder("a") / "adapter_config.json"));
  for (const char* pattern : {"rank_pattern", "alpha_pattern"}) {
    std::vector<std::size_t> lengths;
    for (const auto& [key, value] : config[pattern].items()) lengths.push_back(key.size());
    CHECK(lengths.size() == layers.size());
    CHECK(std::is_sorted(lengths.rbegin(), lengths.rend()));
  }
  const PeftDirectory directory(folder("a"), FileAccess::mapped);
  CHECK(directory.modules().size() == layers.size());
  for (const AdapterModule& m : directory.modules()) {
    CAPTURE(m.name);
    const LoRA<float> loaded = directory.load<LoRA<float>>(m.name);
    const LoRA<float>& saved = layers.at(m.name);
    CHECK(same_bits<float>(loaded.parameters(), saved.parameters()));
    CHECK(scaling_of(loaded.config()) == doctest::Approx(scaling_of(saved.config())).epsilon(1e-14));
  }
  // Numbers of another width, rounded on the way in and out.
  PeftWriter half;
  half.add("q", layers.at("q"), DType::BF16);
  half.save(folder("half"));
  const PeftDirectory rounded(folder("half"));
  CHECK(rounded.module("q").type == DType::BF16);
  const auto wide = rounded.load<LoRA<double>>("q");
  CHECK(wide.A().isApprox(layers.at("q").A().cast<double>(), 1.0 / 256));
}

TEST_CASE("peft: alpha is a whole number in the file wherever it was one") {
  const TemporaryFolder folder;
  for (const double alpha : {16.0, 29.0, -3.0, 0.0, 0.5, 1e15, 1e300}) {
    CAPTURE(alpha);
    PeftWriter writer;
    writer.add("q", LoRA<float>(LoRAConfig{5, 4, 7, alpha}));  // 29 / 7 * 7 is not 29
    writer.add("v", LoRA<float>(LoRAConfig{5, 4, 7, 2 * alpha + 1}));
    writer.save(folder("a"));
    const auto config = nlohmann::json::parse(file_content(folder("a") / "adapter_config.json"));
    const bool whole = alpha == std::floor(alpha) && alpha < 1e15;
    for (const auto& [value, expected] :
         {std::pair(config["lora_alpha"], alpha), std::pair(config["alpha_pattern"]["q"], alpha)}) {
      CHECK(value.get<double>() == expected);
      CHECK(value.is_number_integer() == whole);
    }
  }
}

TEST_CASE("peft: a save that cannot replace the weights leaves the settings as they were") {
  const TemporaryFolder folder;
  PeftWriter writer;
  writer.add("q", LoRA<float>(LoRAConfig{5, 4, 2}));
  std::filesystem::create_directories(folder("a") / "adapter_model.safetensors");  // no file, it cannot be replaced
  CHECK(message_of<FileError>([&] { writer.save(folder("a")); }) == containing("cannot replace"));
  CHECK_FALSE(std::filesystem::exists(folder("a") / "adapter_config.json"));
}

TEST_CASE("peft: what trainers write, in the shapes that they write it") {
  const TemporaryFolder folder;
  // PEFT with rank-stabilised scaling, patterns, and the keys of a current version.
  Tensors modules = tensors_of("x.q", {{"A", {2, 5}}, {"B", {4, 2}}});
  for (const char* rank_4 : {"x.k", "x.qk", "xq"}) modules.merge(tensors_of(rank_4, {{"A", {4, 5}}, {"B", {3, 4}}}));
  write_directory(folder("peft"),
                  R"({"alpha_pattern":{"k":8},"auto_mapping":null,"base_model_name_or_path":"m","bias":"none",
                      "corda_config":null,"eva_config":null,"exclude_modules":null,"fan_in_fan_out":true,
                      "inference_mode":true,"init_lora_weights":"gaussian","layer_replication":null,
                      "layers_pattern":null,"layers_to_transform":null,"loftq_config":{},"lora_alpha":32,
                      "lora_bias":false,"lora_dropout":0.05,"megatron_config":null,"megatron_core":"megatron.core",
                      "modules_to_save":null,"peft_type":"LORA","qalora_group_size":16,"r":4,"rank_pattern":{"q":2},
                      "revision":null,"target_modules":["q","k"],"target_parameters":null,"task_type":"CAUSAL_LM",
                      "trainable_token_indices":null,"use_dora":false,"use_qalora":false,"use_rslora":true})",
                  modules);
  const PeftDirectory peft(folder("peft"));
  REQUIRE(peft.modules().size() == 4);
  CHECK(scaling_of(peft.load<LoRA<float>>("x.q").config()) == doctest::Approx(32 / std::sqrt(2.0)));
  CHECK(scaling_of(peft.load<LoRA<float>>("x.k").config()) == doctest::Approx(8 / std::sqrt(4.0)));
  for (const char* ends_alike : {"x.qk", "xq"}) {  // ends like a key, not behind a dot: the general settings
    CHECK(scaling_of(peft.load<LoRA<float>>(ends_alike).config()) == doctest::Approx(32 / std::sqrt(4.0)));
  }
  CHECK(peft.module("x.q").dropout == 0.05);

  // HydraLoRA's trainer: peft_type LORA as well, told by its tensors.
  Tensors hydra = {{"A", {2, 5}}, {"route", {12, 5}}}, mixture = {{"route", {12, 5}}};
  for (int i = 0; i < 12; ++i) {
    hydra["B" + std::to_string(i)] = mixture["B" + std::to_string(i)] = {4, 2};
    mixture["A" + std::to_string(i)] = {2, 5};
  }
  const std::string config = R"({"peft_type":"LORA","r":2,"lora_alpha":16,"lora_nums":12,"merge_weights":false})";
  write_directory(folder("hydra"), config, tensors_of("q", hydra));
  CHECK(PeftDirectory(folder("hydra")).module("q").kind == AdapterKind::hydra_lora);
  CHECK(PeftDirectory(folder("hydra")).load<HydraLoRA<float>>("q").shape().heads == 12);
  write_directory(folder("mixture"), config, tensors_of("q", mixture));
  CHECK(PeftDirectory(folder("mixture")).module("q").kind == AdapterKind::split_lora);
  CHECK(PeftDirectory(folder("mixture")).load<SplitLoRA<float>>("q").config().routing == Routing::learned);
}

TEST_CASE("peft: what cannot be done as the trainer did it is refused, all of it at once") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& config, const std::string& reason) {
    CAPTURE(config);
    write_directory(folder("a"), config);
    const std::string message = opening(folder("a"));
    CHECK(message == containing(reason));
    CHECK(message.rfind((folder("a") / "adapter_").string(), 0) == 0);
  };
  const auto with = [](const std::string& more) {
    return R"({"peft_type":"LORA","r":2,"lora_alpha":16,)" + more + "}";
  };
  write_directory(folder("a"), good_config);
  CHECK(opening(folder("a")) == "nothing thrown");
  for (const char* harmless :
       {R"("bias":"all")", R"("lora_bias":true)", R"("modules_to_save":["head"])", R"("init_lora_weights":"EVA")",
        R"("target_parameters":["x.y"])", R"("trainable_token_indices":[3])", R"("rank_pattern":null)"}) {
    CAPTURE(harmless);
    write_directory(folder("a"), with(harmless));  // no tensor of the file has to do with it
    CHECK(opening(folder("a")) == "nothing thrown");
  }
  refused(with(R"("use_dora":true)"), "module 'q': it has no lora_magnitude_vector, use_dora in the settings is true");
  refused(with(R"("layer_replication":[[0,1]])"), "the setting 'layer_replication' is [[0,1]], which is not supported");
  refused(with(R"("arrow_config":{"top_k":2})"), "the setting 'arrow_config' is {\"top_k\":2}");
  for (const char* start : {"pissa", "pissa_niter_4", "PiSSA", "olora", "OLoRA", "corda", "LoftQ", "lora_ga"}) {
    refused(with(R"("init_lora_weights":")" + std::string(start) + '"'), "which changed the base. Save a plain LoRA");
  }
  refused(with(R"("init_lora_weights":"something new")"), "which may have changed the base");
  refused(with(R"("init_lora_weights":true,"lora_ga_config":{"scale":"stable"})"),
          "'lora_ga_config' is set: this start changed the base");
  refused(with(R"("something_new":3)"), "the setting 'something_new' is 3, which is not supported");
  refused(with(R"("qalora":true,"something_new":3)"),
          "the setting 'qalora' is true, which is not supported; the setting 'something_new' is 3");
  refused(with(R"("rank_pattern":{"":4})"), "'' in rank_pattern is empty");
  refused(with(R"("alpha_pattern":{"(q":4})"), "'(q' in alpha_pattern is no regular expression");
  refused(with(R"("alpha_pattern":{"a)|(q":4})"), "'a)|(q' in alpha_pattern is no regular expression");
  refused(with(R"("alpha_pattern":{"(q{999}){999}":4})"), "'(q{999}){999}' in alpha_pattern is too large");
  refused(with(R"("rank_pattern":{"q":0})"), "'q' in rank_pattern is 0, expected a whole number from 1 to");
  refused(with(R"("rank_pattern":{"q":"4"})"), "'q' in rank_pattern is \"4\", expected a whole number");
  refused(with(R"("rank_pattern":3)"), "'rank_pattern' is 3, expected an object");
  refused(with(R"("lora_dropout":1)"), "'lora_dropout' is 1, expected in [0, 1)");
  refused(with(R"("use_rslora":1)"), "'use_rslora' is 1, expected true or false");
  refused(with(R"("r":2)"), "'r' appears twice");
  refused(with(R"("rank_pattern":{"q":3,"q":2})"), "'q' appears twice");
  refused(with(R"("loftq_config":{"a":{"b":{"c":1,"c":2}}})"), "'c' appears twice");
  refused(R"({"r":2.0,"lora_alpha":16})", "'r' is 2.0, expected a whole number from 1 to 2147483647");
  refused(R"({"r":-2,"lora_alpha":16})", "'r' is -2, expected a whole number");
  refused(R"({"r":99999999999,"lora_alpha":16})", "'r' is 99999999999, expected a whole number");
  refused(R"({"lora_alpha":16})", "'r' is missing, expected a whole number");
  refused(R"({"r":2})", "'lora_alpha' is missing, expected a finite number");
  refused(R"({"r":2,"lora_alpha":1e999})", "has a number too large for double");
  refused(R"({"r":2,"lora_alpha":"16"})", "'lora_alpha' is \"16\", expected a finite number");
  refused(R"({"r":2,"lora_alpha":16,"peft_type":"IA3"})", "'peft_type' is 'IA3', expected 'LORA'");
  refused(R"({"r":2,"lora_alpha":16,"peft_type":7})", "'peft_type' is 7, expected a string");
  refused(R"({"r":3,"lora_alpha":16})", "module 'q': its lora_A has 2 rows, the settings say rank 3");
  refused(with(R"("target_modules":[{}])"), "'target_modules' has an object inside an array");
  refused("[]", "is not a JSON object");
  refused("", "is not JSON");
  refused("{\"a\":" + std::string(10, '[') + std::string(10, ']') + "}", "is nested deeper than 8");
  refused("{\"a\":" + std::string(100000, '[') + "}", "is nested deeper than 8");
  std::string many = with(R"("target_modules":[""])");
  many.insert(many.size() - 2, std::string(std::size_t{3} << 20U, ' '));
  write_directory(folder("a"), many);
  CHECK(opening(folder("a")) == "nothing thrown");
  std::string unknown = R"({"r":2,"lora_alpha":16)";
  for (int i = 0; i < 20000; ++i) unknown += ",\"" + std::to_string(i) + "\":1";
  write_directory(folder("a"), unknown + "}");
  CHECK(opening(folder("a")).size() < 3000);
  std::filesystem::remove(folder("a") / "adapter_config.json");
  CHECK(opening(folder("a")) == containing("No such file"));
}

TEST_CASE("peft: tensors that do not fit are refused with their names") {
  const TemporaryFolder folder;
  const std::string p = "base_model.model.q.", two = R"({"peft_type":"LORA","r":2,"lora_alpha":16,"lora_nums":2})";
  const auto refused = [&](const Tensors& tensors, const std::string& reason, const std::string& config = good_config) {
    write_directory(folder("a"), config, tensors);
    CHECK(opening(folder("a")) == containing(reason));
  };
  const auto refused_parts = [&](const Tensors& parts, const std::string& reason,
                                 const std::string& config = good_config) {
    refused(tensors_of("q", parts), reason, config);
  };
  refused({}, "holds no adapter");
  refused({{"q.lora_A.weight", {2, 5}}}, "module 'q': its 1 lora_A and 0 lora_B without lora_route");
  refused({{p + "lora_A.weight", {2, 5}}, {p + "lora_B.weight", {4, 2}}, {p + "bias", {1, 1}}},
          "has the tensor 'base_model.model.q.bias' F32 [1, 1] (a bias)");
  refused({{p + "lora_embedding_A.weight", {2, 5}}, {p + "lora_A.bias", {2, 5}}},
          "has the tensor 'base_model.model.q.lora_A.bias' F32 [2, 5] (a bias); has the tensor "
          "'base_model.model.q.lora_embedding_A.weight' F32 [2, 5] (LoRA on an embedding): no adapter of this library. "
          "PeftOptions::allow_others loads the rest");
  for (const char* part : {"A01", "A99999", "route0"}) {
    refused_parts({{part, {2, 5}}}, ".lora_" + std::string(part) + ".weight' F32 [2, 5] (unknown)");
  }
  refused_parts({{"A", {2, 5}}}, "its 1 lora_A and 0 lora_B without lora_route");
  refused_parts({{"A", {2, 5}}, {"B", {4, 3}}}, " has shape [4, 3], expected [4, 2]");
  refused_parts({{"A", {2, 0}}, {"B", {4, 2}}}, "it has no features");
  refused_parts({{"A", {2, 5}}, {"B", {4, 2}}, {"route", {1, 5}}}, "are not a LoRA");
  refused_parts({{"A", {2, 5}}, {"B0", {4, 2}}, {"B1", {4, 2}}, {"route", {2, 5}}},
                "it has 2 heads, lora_nums in the settings is missing");
  refused_parts({{"A", {2, 5}}, {"B0", {4, 2}}, {"B2", {4, 2}}, {"route", {2, 5}}},
                "its 1 lora_A and 2 lora_B with lora_route are no", two);
  refused_parts({{"A", {2, 5}}, {"B0", {4, 2}}, {"B1", {4, 2}}, {"route", {2, 4}}},
                "lora_route has shape [2, 4], expected [2, 5]", two);
  refused_parts({{"A", {2, 5}}, {"B0", {4, 2}}, {"B1", {3, 2}}, {"route", {2, 5}}},
                " has shape [3, 2], expected [4, 2]", two);
  // a mixture of LoRAs
  refused_parts({{"A0", {2, 5}}, {"A1", {2, 5}}, {"B0", {4, 2}}, {"B1", {4, 2}}}, "nothing thrown", two);
  refused_parts({{"A0", {2, 5}}, {"A1", {2, 4}}, {"B0", {4, 2}}, {"B1", {4, 2}}}, " has shape [2, 4], expected [2, 5]",
                two);
  refused_parts({{"A0", {2, 5}}, {"A1", {3, 5}}, {"B0", {4, 2}}, {"B1", {4, 2}}}, " has shape [3, 5], expected [2, 5]",
                two);
  refused_parts({{"A0", {2, 5}}, {"A1", {2, 5}}, {"B0", {4, 2}}, {"B1", {3, 2}}}, " has shape [3, 2], expected [4, 2]",
                two);
  refused_parts({{"A0", {2, 5}}, {"A1", {2, 5}}, {"A2", {2, 5}}, {"B0", {4, 2}}, {"B1", {4, 2}}},
                "its 3 lora_A and 2 lora_B without lora_route", two);
  refused_parts({{"A0", {2, 5}}, {"B0", {4, 2}}, {"B1", {4, 2}}}, "its 1 lora_A and 2 lora_B without lora_route", two);

  SafetensorsWriter weights;
  weights.add_bytes(p + "lora_A.weight", DType::I32, {2, 5}, std::vector<unsigned char>(40));
  weights.add(p + "lora_B.weight", Eigen::VectorXf::Ones(8), {}, true);
  weights.save(folder("a") / "adapter_model.safetensors");
  const std::string message = opening(folder("a"));
  CHECK(message == containing("lora_A.weight' is I32 [2, 5], expected a matrix of F64, F32, F16 or BF16"));
  CHECK(message == containing("lora_B.weight' is F32 [8], expected a matrix of F64, F32, F16 or BF16"));
}

TEST_CASE("peft: a load that fails changes nothing") {
  const TemporaryFolder folder;
  LoRA<float> saved = random_layer<LoRA<float>>({5, 4, 2}, 1);
  const LoRA<float> before = random_layer<LoRA<float>>({5, 4, 2}, 9);
  saved.B()(3, 1) = std::numeric_limits<float>::infinity();  // the last number that is read
  PeftWriter writer;
  writer.add("q", saved);
  writer.save(folder("a"));
  const PeftDirectory directory(folder("a"));
  const auto loading = [&](auto& into, const char* module = "q") {
    return message_of<FileError>([&] { directory.load_into(into, module); });
  };
  LoRA<float> layer = before;
  CHECK(loading(layer) == containing("is not finite at 7"));
  CHECK(same_bits<float>(layer.parameters(), before.parameters()));
  directory.load_into(layer, "q", false);
  CHECK(same_bits<float>(layer.parameters(), saved.parameters()));
  write_directory(folder("huge"), R"({"r":2,"lora_alpha":1e300})");
  CHECK(message_of<FileError>([&] { PeftDirectory(folder("huge")).load<LoRA<float>>("q"); }) ==
        containing("scaling that is too large"));
  CHECK(message_of<FileError>([&] { PeftDirectory(folder("huge")).load<LoRA<double>>("q"); }) == "nothing thrown");
  LoRA<float> other_size(LoRAConfig{5, 4, 3, 24});
  HydraLoRA<float> hydra(HydraLoRAConfig{5, 4, 2});
  for (const double alpha : {17.0, 16 * (1 + 1e-4), 16 * (1 - 1e-11), -16.0}) {
    LoRA<float> other_scaling(LoRAConfig{5, 4, 2, alpha});
    const std::string message = loading(other_scaling);
    CHECK(message == containing("with scaling 8, the layer"));
    CHECK(message.substr(message.rfind(' ')) != " 8");
  }
  LoRA<float> rounded_scaling(LoRAConfig{5, 4, 2, 16 * (1 + 1e-15)});
  directory.load_into(rounded_scaling, "q", false);
  CHECK(same_bits<float>(rounded_scaling.parameters(), saved.parameters()));
  CHECK(loading(other_size) == containing("rank 3"));
  CHECK(loading(hydra) == containing("is a LoRA, not a HydraLoRA"));
  CHECK(loading(layer, "k") == containing("has no module 'k'"));
}

TEST_CASE("peft: a writer refuses what a directory cannot say") {
  PeftWriter writer;
  const auto adding = [&](const std::string& name, const auto& layer, DType type = DType::F32) {
    return message_of([&] { writer.add(name, layer, type); });
  };
  const LoRA<float> lora(LoRAConfig{5, 4, 2});
  HydraLoRAConfig gated{5, 4, 2}, given{5, 4, 2};
  gated.gate.temperature = 2;
  given.routing = Routing::given;
  LoRA<float> large = lora;
  large.A()(0, 0) = 1e6F;
  CHECK(message_of([&] { writer.save("nowhere"); }) == "PeftWriter: there is nothing to save");
  CHECK(adding("q(1)", lora) == "PeftWriter: 'q(1)' is not a module's name");
  CHECK(adding("", lora) == "PeftWriter: '' is not a module's name");
  for (const auto& config : {gated, given}) {
    CHECK(adding("k", HydraLoRA<float>(config)) == containing("dense softmax gate"));
  }
  CHECK(adding("q", HydraLoRA<float>(HydraLoRAConfig{1, 1, 1, 1, false, 0, 10000})) == containing("fewer than 10000"));
  CHECK(adding("q", LoRA<float>(LoRAConfig{5, 4, 7, 1.7e308, true})) == containing("scaling that is not finite"));
  CHECK(adding("k", large, DType::F16) == containing("has 1e+06, too large for F16"));
  writer.add("q", lora);
  CHECK(adding("q", lora) == "PeftWriter: 'q' was added before");
  CHECK(adding("k", HydraLoRA<float>(HydraLoRAConfig{5, 4, 2})) == containing("one setting for all"));
  CHECK(adding("k", LoRA<float>(LoRAConfig{5, 4, 2, 16, false, 0.1})) ==
        containing("has 0 heads and dropout 0.1, the modules before it 0 and 0: "));
  writer.base_model = "caf\xe9";
  CHECK(message_of([&] { writer.save("nowhere"); }) == containing("not UTF-8"));
  CHECK_FALSE(std::filesystem::exists("nowhere"));
  CHECK(message_of([&] { PeftWriter().add("k", SplitLoRA<float>(SplitLoRAConfig{5, 4, 2})); }) == "nothing thrown");
}
