// SPDX-License-Identifier: MIT
//
// The decoder against transformers and PEFT (cases/README.md), against its twins in plain loops, and against itself.
#include "hydralora/lm/decoder.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include "hydralora/lm/adapters.hpp"
#include "hydralora/lm/data/batches.hpp"
#include "hydralora/lm/generate.hpp"
#include "hydralora/lm/load.hpp"
#include "hydralora/lm/trainer.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/threads.hpp"

using namespace hydralora;
using namespace hydralora::lm;
namespace fs = std::filesystem;

namespace {

const fs::path cases = HYDRALORA_LM_CASES;

std::vector<fs::path> folders(const char* prefix) {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(cases)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(prefix, 0) == 0 && name.rfind("A0", 0) != 0) all.push_back(entry.path());
  }
  std::sort(all.begin(), all.end());
  return all;
}
nlohmann::json json_of(const fs::path& path) { return nlohmann::json::parse(support::file_content(path)); }

void add(Batch& batch, const nlohmann::json& document) {
  batch.add(document["ids"].get<std::vector<int>>(), document["labels"].get<std::vector<int>>());
}

ModelConfig small_model() {
  ModelConfig c;
  c.model_type = "qwen3";
  c.vocabulary = 60;
  c.hidden = 24;
  c.intermediate = 40;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.positions = 512;
  c.qk_norm = c.qkv_bias = c.o_bias = c.mlp_bias = true;
  c.windows = {0, 7, 0};
  return c;
}
/// Two documents; the first has an answer in its middle.
Batch small_batch() {
  Batch batch;
  std::vector<int> ids, labels;
  for (int t = 0; t < 90; ++t)
    ids.push_back(t * 37 % 60), labels.push_back(t >= 40 && t < 70 ? t * 37 % 60 : not_scored);
  batch.add(ids, labels);
  batch.add({5, 7, 9, 11, 13}, {not_scored, not_scored, 9, 11, 13});
  batch.groups = {1, 5};
  return batch;
}
template <class Scalar>
void randomize(ParameterMap<Scalar> parameters, double deviation) {
  const CounterRandom random(9);
  for (Index i = 0; i < parameters.size(); ++i) {
    parameters[i] += Scalar(static_cast<real_t<Scalar>>(deviation * random.normal(static_cast<std::uint64_t>(i))));
  }
}
template <class Scalar>
Matrix<Scalar> all_logits(Decoder<Scalar>& model, const Batch& batch) {
  Matrix<Scalar> all(model.config.vocabulary, batch.tokens());
  model.logits(batch, [&](Index first, ConstTokens<Scalar> z) { all.middleCols(first, z.tokens()) = z.matrix(); });
  return all;
}

constexpr GateKind all_gates[] = {GateKind::token, GateKind::causal, GateKind::prompt, GateKind::given};

}  // namespace

TEST_CASE("logits and gradients are those of transformers and PEFT") {
  int count = 0;
  for (const fs::path& folder : folders("A")) {
    CAPTURE(folder.filename().string());
    const Checkpoint checkpoint(folder / "model");
    const auto model = load_decoder<float>(checkpoint, read_model_config(folder / "model" / "config.json"));
    CHECK(checkpoint.spare().empty());
    Batch batch;
    const nlohmann::json input = json_of(folder / "batch.json");
    for (const auto& document : input["documents"]) add(batch, document);
    const SafetensorsFile expected(folder / "expected.safetensors");
    const float scale = 1 / static_cast<float>(batch.scored().size());
    const auto check = [&](const std::string& name, const auto& gradient) {
      Matrix<float> wanted(gradient.rows(), gradient.cols());
      expected.read("grad." + name, wanted);
      CAPTURE(name);
      // Of bfloat16: half a unit, 2^−8, for every number that is saved, and the layers' errors add up.
      CHECK((wanted - gradient).norm() <= (model->saves_bfloat16 ? 0x1p-7F : 2e-5F) * wanted.norm());
      ++count;
    };
    for (const auto& [checkpointing, rounds] : {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
      model->checkpointing = checkpointing;
      model->saves_bfloat16 = rounds;
      if (fs::exists(folder / "adapter")) {
        Adapters<float> adapters(*model, PeftDirectory(folder / "adapter"));
        Matrix<float> wanted(batch.tokens(), model->config.vocabulary);
        expected.read("logits_adapter", wanted);
        CHECK((all_logits(*model, batch) - wanted.transpose()).cwiseAbs().maxCoeff() < 1e-4F);
        model->loss_and_gradients(batch, scale);
        adapters.for_each_gradient(check);
      } else {
        AlignedVector<float> gradients(model->weights.size(), 0.0F);
        connect_gradients(*model, gradients.data());
        model->loss_and_gradients(batch, scale);
        for_each_tensor_in(model->config, gradients.data(),
                           [&](const std::string& name, const auto& numbers, bool) { check(name, numbers); });
      }
    }
  }
  CHECK(count >= 400);
}

TEST_CASE("20 steps of AdamW end where PEFT's do") {
  for (const fs::path& folder : folders("B")) {
    CAPTURE(folder.filename().string());
    const auto model =
        load_decoder<float>(Checkpoint(folder / "model"), read_model_config(folder / "model/config.json"));
    Adapters<float> adapters(*model, PeftDirectory(folder / "adapter_initial"));
    const nlohmann::json trace = json_of(folder / "trace.json"), data = json_of(folder / "data.json");
    const nlohmann::json& s = trace["settings"];
    TrainingOptions o;
    o.learning_rate = s["lr"];
    o.total_steps = s["steps"];
    o.warmup_steps = s["warmup"];
    o.max_grad_norm = s["clip"];
    o.weight_decay = s["weight_decay"];
    o.adamw.epsilon = s["eps"];
    Trainer<float> trainer(*model, adapters.parameters(), adapters.gradients(), o);
    const auto accumulate = s["accumulate"].get<std::size_t>();
    for (std::size_t k = 0; k < s["steps"].get<std::size_t>(); ++k) {
      std::vector<Batch> batches(accumulate);
      for (std::size_t i = 0; i < accumulate; ++i) {
        for (const auto& document : data["micro_batches"][k * accumulate + i]) add(batches[i], document);
      }
      const StepResult r = trainer.step(batches);
      CHECK(r.loss == doctest::Approx(trace["steps"][k]["loss"].get<double>()).epsilon(1e-6));
      CHECK(r.gradient_norm == doctest::Approx(trace["steps"][k]["grad_norm"].get<double>()).epsilon(1e-5));
      CHECK(r.learning_rate == doctest::Approx(trace["steps"][k]["lr"].get<double>()).epsilon(1e-12));
    }
    const support::TemporaryFolder out;
    adapters.save(out.path(), "model");
    const SafetensorsFile made(out("adapter_model.safetensors"));
    const SafetensorsFile wanted(folder / "adapter_final" / "adapter_model.safetensors");
    CHECK(made.tensors().size() == wanted.tensors().size());
    for (const auto& [name, entry] : wanted.tensors()) {
      Matrix<double> a(entry.shape[0], entry.shape[1]), b = a;
      made.read(name, a);
      wanted.read(name, b);
      CHECK((a - b).cwiseAbs().maxCoeff() < 2e-5);
    }
  }
}

TEST_CASE("configs that are not supported are refused by name") {
  const std::pair<const char*, const char*> refused[] = {{"gemma2", "'model_type' is \"gemma2\""},
                                                         {"hidden_act_relu", "'hidden_act' is \"relu\""},
                                                         {"kv_heads_do_not_divide", "'num_key_value_heads' is 3"},
                                                         {"moe_mixtral", "'model_type' is \"mixtral\""},
                                                         {"quantized_gptq", "'quantization_config' is"},
                                                         {"rope_yarn", "'rope_type' is \"yarn\""}};
  for (const auto& [name, message] : refused) {
    const fs::path path = cases / "A0_refuse" / (std::string(name) + ".json");
    CHECK(support::message_of<FileError>([&] { read_model_config(path); }) == support::containing(message));
  }
}

TEST_CASE("every gradient is the derivative, by complex step through the plain twins") {
  using Complex = std::complex<double>;
  const Batch batch = small_batch();
  for (const GateKind gate : all_gates) {
    CAPTURE(gate_names[static_cast<int>(gate)]);
    AdapterOptions options;
    options.method = Method::hydra;
    options.gate = gate;
    options.rank = 2;
    const auto model = random_decoder<double>(small_model(), 1);
    const auto twin = random_decoder<Complex>(small_model(), 1);
    for (std::size_t i = 0; i < model->weights.size(); ++i) twin->weights[i] = model->weights[i] *= 4;
    Adapters<double> adapters(*model, options);
    Adapters<Complex> twins(*twin, options);
    randomize<double>(adapters.parameters(), 0.2);
    const Eigen::VectorXcd at = adapters.parameters().cast<Complex>();
    model->loss_and_gradients(batch, 1);
    for (std::uint64_t k = 0; k < 3; ++k) {
      Eigen::VectorXd direction(at.size());
      for (Index i = 0; i < at.size(); ++i) direction[i] = CounterRandom(k).normal(static_cast<std::uint64_t>(i));
      constexpr double step = 1e-20;
      twins.parameters() = at + Complex(0, step) * direction.cast<Complex>();
      CHECK(twin->loss(batch).imag() / step == doctest::Approx(adapters.gradients().dot(direction)).epsilon(1e-10));
    }
  }
}

TEST_CASE("loss() tells the most probable token in the place of each scored one") {
  const auto model = random_decoder<float>(small_model(), 1);
  const Batch batch = small_batch();
  std::vector<int> best = {-7};  // it appends
  model->loss(batch, &best);
  const std::vector<Index> scored = batch.scored();
  const Matrix<float> logits = all_logits(*model, batch);
  REQUIRE(best.size() == 1 + scored.size());
  for (std::size_t i = 0; i < scored.size(); ++i) {
    Index expected = -1;
    logits.col(scored[i]).maxCoeff(&expected);
    CHECK(best[i + 1] == expected);
  }
}

TEST_CASE("no gate lets a token see what comes after it, or another document") {
  const Batch batch = small_batch();
  Batch other = batch;
  other.ids[50] = other.labels[50] = 3;
  for (const Method method : {Method::lora, Method::split, Method::split_gated, Method::hydra}) {
    for (const GateKind gate : all_gates) {
      AdapterOptions options;
      options.method = method;
      options.gate = gate;
      const auto model = random_decoder<float>(small_model(), 1);
      Adapters<float> adapters(*model, options);
      randomize<float>(adapters.parameters(), 0.3);
      const Matrix<float> a = all_logits(*model, batch), b = all_logits(*model, other);
      CHECK(a.leftCols(50) == b.leftCols(50));
      CHECK(a.rightCols(5) == b.rightCols(5));
      CHECK(a.middleCols(50, 40) != b.middleCols(50, 40));
    }
  }
}

TEST_CASE("what is saved computes the same again; generation with stored keys says what the whole text says") {
  for (const GateKind gate : all_gates) {
    CAPTURE(gate_names[static_cast<int>(gate)]);
    AdapterOptions options;
    options.method = Method::hydra;
    options.gate = gate;
    const auto model = random_decoder<float>(small_model(), 1);
    const support::TemporaryFolder out;
    Matrix<float> before;
    {
      Adapters<float> adapters(*model, options);
      randomize<float>(adapters.parameters(), 0.3);
      before = all_logits(*model, small_batch());
      adapters.save(out.path(), "model");
    }
    const Adapters<float> loaded(*model, PeftDirectory(out.path()));
    CHECK(all_logits(*model, small_batch()) == before);

    GenerationOptions g;
    g.max_tokens = 12;
    const std::vector<int> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    std::vector<int> all = prompt;
    for (const int token : Generator<float>(*model).generate(prompt, g)) {
      Batch whole;
      std::vector<int> labels(all.size(), not_scored);
      std::copy(all.begin() + 9, all.end(), labels.begin() + 9);
      whole.add(all, labels);
      whole.groups = {0};
      Index best = -1;
      all_logits(*model, whole).rightCols(1).col(0).maxCoeff(&best);
      CHECK(best == token);
      all.push_back(token);
    }
    CHECK(all.size() == 21);
  }
}

TEST_CASE("a stored base computes what a float base of the numbers that it holds does") {
  for (int type = 1; type < 4; ++type) {
    CAPTURE(base_names[type]);
    const auto stored = random_decoder<float>(small_model(), 1, 0.3, base_of<float>(static_cast<BaseType>(type)));
    const auto dense = random_decoder<float>(small_model(), 1, 0.3);
    CHECK(stored->weights.size() < dense->weights.size() / 4);
    std::map<std::string, const Weight<float>*> held = {{"model.embed_tokens.weight", stored->embedding.get()}};
    for_each_part(*stored, {[&](Linear<float>& linear, const std::string& name, Index, Index, bool) {
                              held[name + ".weight"] = linear.weight.get();
                            },
                            [](const auto&...) {}});
    float lost = 0;
    for_each_tensor_in(dense->config, dense->weights.data(), [&](const std::string& name, auto numbers, bool vector) {
      if (vector) return;
      const Matrix<float> before = numbers;
      for (Index row = 0; row < numbers.rows(); ++row) held.at(name)->row(row, &numbers(row, 0));
      lost = std::max(lost, (before - numbers).norm() / before.norm());
    });
    CHECK(lost > 1e-4);
    CHECK(lost < 0.2);
    Eigen::VectorXf gradients[2];
    Matrix<float> logits[2];
    for (const auto* model : {&stored, &dense}) {
      Adapters<float> adapters(**model, AdapterOptions());
      randomize<float>(adapters.parameters(), 0.1);
      const std::size_t i = model == &dense ? 1 : 0;
      logits[i] = all_logits(**model, small_batch());
      (*model)->loss_and_gradients(small_batch(), 1);
      gradients[i] = adapters.gradients();
    }
    CHECK((logits[0] - logits[1]).norm() <= 1e-5F * logits[1].norm());
    CHECK((gradients[0] - gradients[1]).norm() <= 1e-4F * gradients[1].norm());
    CHECK(support::message_of([&] { connect_gradients<float>(*stored, nullptr); }) ==
          "full fine-tuning needs a float32 base");
  }
}

TEST_CASE("micro-batches and threads do not change a step; a broken step changes nothing") {
  const auto gradient = [&](const std::vector<Batch>& batches, int threads) {
    const support::Threads scope(threads);
    const auto model = random_decoder<float>(small_model(), 1);
    Adapters<float> adapters(*model, AdapterOptions());
    randomize<float>(adapters.parameters(), 0.1);
    for (const Batch& batch : batches) model->loss_and_gradients(batch, 1.0F / 30);
    return Eigen::VectorXf(adapters.gradients());
  };
  Batch first, second;
  const Batch both = small_batch();
  first.add({both.ids.begin(), both.ids.begin() + 90}, {both.labels.begin(), both.labels.begin() + 90});
  second.add({both.ids.begin() + 90, both.ids.end()}, {both.labels.begin() + 90, both.labels.end()});
  const Eigen::VectorXf whole = gradient({both}, 1);
  CHECK(whole == gradient({both}, 2));
  CHECK((whole - gradient({first, second}, 1)).norm() <= 1e-6F * whole.norm());

  // Dropout depends on a token's place in the step, not on its micro-batch.
  const auto dropped = [&](const std::vector<Batch>& batches) {
    const auto model = random_decoder<float>(small_model(), 1);
    AdapterOptions options;
    options.dropout = 0.3;
    Adapters<float> adapters(*model, options);
    randomize<float>(adapters.parameters(), 0.1);
    return Trainer<float>(*model, adapters.parameters(), adapters.gradients(), {}).step(batches).gradient_norm;
  };
  CHECK(dropped({first, second}) == doctest::Approx(dropped({both})).epsilon(1e-5));

  const auto model = random_decoder<float>(small_model(), 1);
  Adapters<float> adapters(*model, AdapterOptions());
  Trainer<float> trainer(*model, adapters.parameters(), adapters.gradients(), {});
  const Eigen::VectorXf before = adapters.parameters();
  Batch bad = both;
  bad.ids[3] = 60;
  CHECK(support::message_of([&] { trainer.step({bad}); }) == "Decoder: token 60, the model's vocabulary has 60");
  bad = both;
  std::fill(bad.labels.begin(), bad.labels.end(), not_scored);
  CHECK(support::message_of([&] { trainer.step({bad}); }) == "Trainer: no token of the step has a label");
  model->weights[70] = std::numeric_limits<float>::quiet_NaN();
  CHECK(support::message_of([&] { trainer.step({both}); }) == support::containing("diverged at step 1"));
  CHECK(adapters.parameters() == before);
}
