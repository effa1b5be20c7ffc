// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model.hpp"

namespace finetune_lm {

struct TrainOptions {
  ModelOptions model;
  std::vector<std::string> data, validation, target_modules;
  std::vector<Index> layers;
  std::string out, method = "lora", gate = "token", schedule = "cosine", sample;
  Index rank = 8, heads = 3, micro_batch = 4, pack = 0, accumulate = 1, max_length = 1024;
  double alpha = 16, dropout = 0, learning_rate = 2e-4, weight_decay = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double max_grad_norm = 1, epochs = 1;
  std::int64_t steps = 0, warmup_steps = 0, checkpoint_every = 0, evaluate_every = 0, patience = 0;
  std::uint64_t seed = 0;
  std::set<std::string> given;  ///< with --adapter: the options among those that describe an adapter
  bool no_shuffle = false, truncate = false, resume = false, gradient_checkpointing = false;
};

/// @return  the exit code: 0, or 130 after Ctrl-C.
int train(TrainOptions options);

}  // namespace finetune_lm
