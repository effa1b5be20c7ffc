// SPDX-License-Identifier: MIT
//
// Fine-tunes a language model inside a program. The model here is small and random; a real one is
// load_decoder<float>(Checkpoint("folder"), read_model_config("folder/config.json")).
#include <hydralora/lm.hpp>

#include <cstdio>

int main() {
  using namespace hydralora::lm;
  ModelConfig config;
  config.vocabulary = 50;
  config.hidden = 32, config.intermediate = 64;
  config.layers = 2, config.heads = 4, config.kv_heads = 2, config.head_dim = 8;
  config.positions = 128;
  config.tied = true;
  config.windows = {0, 0};
  const auto model = random_decoder<float>(config, 1, 0.2);

  AdapterOptions options;  // on all linears of all blocks
  options.method = Method::hydra;
  Adapters<float> adapters(*model, options);

  Batch batch;  // two documents; the first tokens are prompts, which are not scored
  batch.add({1, 2, 3, 4, 5, 6}, {not_scored, not_scored, not_scored, 4, 5, 6});
  batch.add({9, 8, 7, 6, 5}, {not_scored, not_scored, 7, 6, 5});
  TrainingOptions training;
  training.learning_rate = 0.01;
  training.total_steps = 50;
  Trainer<float> trainer(*model, adapters.parameters(), adapters.gradients(), training);
  const double before = trainer.step({batch}).loss;
  for (int step = 1; step < 50; ++step) trainer.step({batch});
  std::printf("loss below a tenth: %s\n", model->loss(batch) / 6 < before / 10 ? "yes" : "no");
  GenerationOptions generation;
  generation.max_tokens = 3;
  for (const int token : Generator<float>(*model).generate({1, 2, 3}, generation)) std::printf("%d\n", token);
}
