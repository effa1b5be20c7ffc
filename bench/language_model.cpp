// SPDX-License-Identifier: MIT
// What training steps of a language model with random weights cost, as one line of JSON, for language_model.py. With
// --multiply-add instead: what the cores themselves do.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(HYDRALORA_ONEDNN)
#include "hydralora/interop/onednn.hpp"
#endif
#include "hydralora/core/parallel.hpp"
#include "hydralora/io/gguf_blocks.hpp"
#include "hydralora/lm/adapters.hpp"
#include "hydralora/lm/load.hpp"
#include "hydralora/lm/trainer.hpp"

namespace {

using namespace hydralora;
using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using Options = std::map<std::string, std::string>;

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }  // of all threads
double seconds_now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

lm::ModelConfig config_of(const std::string& shape) {
  lm::ModelConfig c;
  const auto sizes = [&](Index vocabulary, Index hidden, Index intermediate, Index layers, Index heads, Index kv) {
    c.vocabulary = vocabulary, c.hidden = hidden, c.intermediate = intermediate, c.layers = layers;
    c.heads = heads, c.kv_heads = kv;
  };
  if (shape == "tiny") sizes(256, 64, 64, 1, 1, 1);
  if (shape == "135m") sizes(49152, 576, 1536, 30, 9, 3), c.tied = true;  // SmolLM2-135M
  if (shape == "1.1b") sizes(32000, 2048, 5632, 22, 32, 4);               // TinyLlama-1.1B
  if (c.layers == 0) throw std::invalid_argument("--shape " + shape + " is not 135m or 1.1b");
  c.model_type = "llama";
  c.head_dim = 64;
  c.positions = 8192;
  c.windows.assign(static_cast<std::size_t>(c.layers), 0);
  return c;
}

/// Multiply-adds on numbers in the first-level cache, as many on every thread.
ordered_json multiply_add(Index threads) {
  constexpr int lanes = 256, rounds = 200000000;
  std::vector<float> sums(static_cast<std::size_t>(threads));
  const double start = seconds_now();
  parallel_for(threads, parallel_work_minimum, [&](Index thread) {
    alignas(64) float x[lanes];
    for (int i = 0; i < lanes; ++i) x[i] = static_cast<float>(i + thread);
    for (int round = 0; round < rounds; ++round)
      for (float& one : x) one = one * 0.999F + 0.001F;
    for (const float one : x) sums[static_cast<std::size_t>(thread)] += one;
  });
  const double flop = 2.0 * lanes * rounds * static_cast<double>(threads);
  return {{"flop_per_second", flop / (seconds_now() - start)}, {"sum", sums[0]}};
}

/// Blocks of a GGUF with random codes. What they hold does not change the time.
lm::Base<float> gguf_base(GgufType type) {
  return {[type](const std::string&, DenseView<float> w) {
            const Index row = w.in_features() / info_of(type).block * info_of(type).bytes;
            std::vector<unsigned char> bytes(static_cast<std::size_t>(w.out_features() * row));
            constexpr int small = 32;  // halves of such bytes are small numbers
            for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(std::rand() % small);
            return lm::make_weight<float>(
                StoredLinear<GgufWeight, float>(GgufWeight(type, w.out_features(), w.in_features(), std::move(bytes))));
          },
          true};
}

lm::Base<float> base_of(const std::string& name, const std::string& engine) {
  if (name == "Q4_1") return gguf_base(GgufType::Q4_1);
  if (name == "Q4_K") return gguf_base(GgufType::Q4_K);
  const auto found = std::find(std::begin(lm::base_names), std::end(lm::base_names), name);
  if (found == std::end(lm::base_names)) throw std::invalid_argument("--base " + name);
#if defined(HYDRALORA_ONEDNN)
  if (engine == "onednn" && name == "float32") {
    return {[](const auto&, DenseView<float> w) { return lm::make_weight<float>(OneDnnLinear(w)); }, false};
  }
  if (engine != "eigen" && name == "bfloat16" && OneDnnBFloat16Linear::supported()) {
    const int terms = engine == "onednn" ? 2 : 1;
    return {[terms](const auto&, DenseView<float> w) { return lm::make_weight<float>(OneDnnBFloat16Linear(w, terms)); },
            true};
  }
#endif
  if (engine != "eigen") throw std::invalid_argument("--engine " + engine + " does not run here on --base " + name);
  return lm::base_of<float>(static_cast<lm::BaseType>(found - std::begin(lm::base_names)));
}

ordered_json train(const Options& o) {
  const auto whole = [&](const char* name) { return static_cast<Index>(std::stoll(o.at(name))); };
  const auto fill = [](const std::string&, auto& numbers, bool vector) {  // normal numbers would take a minute
    vector ? numbers.setOnes() : numbers.setRandom() *= 0.035F;
  };
  const auto model = lm::make_decoder(config_of(o.at("shape")), base_of(o.at("base"), o.at("engine")), fill);
  model->checkpointing = whole("checkpointing") == 1;
  model->saves_bfloat16 = o.at("base") == "bfloat16";
  const auto weights = static_cast<Index>(model->weights.size()), tokens = whole("tokens"), steps = whole("steps");
  std::unique_ptr<lm::Adapters<float>> adapters;
  AlignedVector<float> full_gradients;
  if (o.at("method") == "full") {
    full_gradients.assign(model->weights.size(), 0);
    lm::connect_gradients(*model, full_gradients.data());
  } else {
    const lm::Method method = o.at("method") == "hydra" ? lm::Method::hydra : lm::Method::lora;
    const lm::AdapterOptions settings{method, whole("rank"), 16, whole("heads"), lm::GateKind::token, 0, {}, {}, 0};
    adapters = std::make_unique<lm::Adapters<float>>(*model, settings);
  }
  using Buffer = ParameterMap<float>;
  const Buffer parameters = adapters ? adapters->parameters() : Buffer(model->weights.data(), weights);
  const Buffer gradients = adapters ? adapters->gradients() : Buffer(full_gradients.data(), weights);
  lm::Trainer<float> trainer(*model, parameters, gradients, {1e-4, lm::Schedule::constant});
  const Index first = tokens - static_cast<Index>(std::stod(o.at("labelled")) * static_cast<double>(tokens));
  lm::Batch batch;
  batch.documents = {tokens};
  for (Index t = 0; t < tokens; ++t) {
    batch.ids.push_back(static_cast<int>((t * 7919 + 13) % model->config.vocabulary));
    batch.labels.push_back(t < first ? lm::not_scored : batch.ids.back());
  }
  double loss = 0;
  for (Index step = whole("warm-up"); step > 0; --step) trainer.step({batch});
  const double start = seconds_now(), cpu = cpu_seconds(), count = static_cast<double>(tokens * steps);
  for (Index step = 0; step < steps; ++step) loss = trainer.step({batch}).loss;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {{"tokens_per_cpu_second", count / (cpu_seconds() - cpu)},
          {"tokens_per_second", count / (seconds_now() - start)},
          {"peak_rss_bytes", usage.ru_maxrss * 1024},
          {"loss", loss},
          {"parameters", lm::weight_count(model->config)}};
}

}  // namespace

int main(int argc, char** argv) try {
  Options o = {{"shape", "135m"},     {"method", "lora"},  {"rank", "8"},      {"heads", "3"},   {"tokens", "512"},
               {"labelled", "1"},     {"steps", "2"},      {"warm-up", "1"},   {"threads", "1"}, {"checkpointing", "0"},
               {"multiply-add", "0"}, {"base", "float32"}, {"engine", "eigen"}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = std::string(argv[i]).erase(0, 2);
    if (o.count(name) == 0) throw std::invalid_argument(std::string("no option ") + argv[i]);
    o[name] = i + 1 < argc && argv[i + 1][0] != '-' ? argv[++i] : "1";
  }
#if HYDRALORA_HAS_OPENMP
  omp_set_num_threads(std::stoi(o["threads"]));
#endif
  std::cout << (o["multiply-add"] == "1" ? multiply_add(std::stoi(o["threads"])) : train(o)) << '\n';
} catch (const std::exception& error) {
  std::cerr << "language_model_benchmark: " << error.what() << '\n';
  return 2;
}
