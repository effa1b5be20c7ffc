// SPDX-License-Identifier: MIT
// What a training step of a model will need, from its config alone.
#pragma once

#include <algorithm>
#include <string>

#include "model.hpp"

namespace finetune_lm {

struct Forecast {
  double trained = 0;  ///< numbers that the optimiser changes
  double bytes = 0;    ///< of memory at the peak
  double flop = 0;     ///< of a step
};

/// Bytes of all weights on a base: norms and biases in float, embedding and lm_head in at least 16 bits.
inline double weight_bytes(const lm::ModelConfig& c, lm::BaseType base) {
  double sum = 0;
  lm::for_each_tensor(c, [&](const std::string& name, Index rows, Index columns) {
    const double numbers = static_cast<double>(rows) * static_cast<double>(std::max<Index>(columns, 1));
    const bool of_block = name.rfind("model.layers.", 0) == 0;
    sum += columns == 0 || base == lm::BaseType::float32 ? 4 * numbers
           : base == lm::BaseType::bfloat16 || !of_block ? 2 * numbers
           : base == lm::BaseType::int8                  ? numbers + 4 * static_cast<double>(rows)
                                                         : (0.5 + (1 + 4.0 / 256) / 64) * numbers;
  });
  return sum;
}

/// @param method  lora, split, split-gated, hydra (on all linears) or full.
/// @param tokens  of a micro-batch.
/// @param rounds  whether a base of bfloat16 has gate and up saved in it.
/// @param held    bytes of all weights.
inline Forecast forecast(const lm::ModelConfig& c, const std::string& method, Index rank, Index heads, Index tokens,
                         bool checkpointing, bool rounds, double held) {
  const auto d = [](Index n) { return static_cast<double>(n); };
  const bool full = method == "full", routed = method == "hydra" || method == "split-gated",
             many = method == "split" || routed;
  double in_sum = 0, products = 0, adapters = 0, saved_by_adapters = 0;
  lm::for_each_tensor(c, [&](const std::string& name, Index out, Index in) {
    if (in == 0 || name.rfind("model.layers.", 0) != 0) return;
    products += d(out) * d(in);
    in_sum += d(in);
    const Index downs = many && method != "hydra" ? heads : 1, ups = many ? heads : 1;
    adapters += d(rank) * (d(downs) * d(in) + d(ups) * d(out)) + (routed ? d(heads) * d(in) : 0);
    saved_by_adapters += d(downs) * d(rank) + (routed ? d(heads) : 0);
  });
  const double qkv = d(c.q_features() + 2 * c.kv_features());
  const double input = d(c.hidden);
  const double block = input + qkv + d(c.q_features()) + (rounds ? 1 : 2) * d(c.intermediate) + d(c.heads) + 2 +
                       (full ? 0 : saved_by_adapters / d(c.layers)) +
                       (c.qk_norm ? qkv - d(c.kv_features()) + d(c.heads + c.kv_heads) : 0);
  const double blocks = checkpointing ? 1 : d(c.layers);
  const double scratch = 4 * input + 4 * d(c.intermediate) + qkv + 2 * d(c.q_features());
  constexpr double head_chunk = 128;
  Forecast f;
  f.trained = full ? d(lm::weight_count(c)) : adapters;
  const double numbers = d(tokens) * ((d(c.layers) + 1) * input + blocks * block + scratch) +
                         head_chunk * (d(c.vocabulary) + 3 * input) + (full ? 3 : 4) * f.trained;
  constexpr double program = 15e6;
  f.bytes = held + 4 * numbers + program;
  // A backward pass of a frozen weight costs what its forward pass does; of a trained one twice that.
  const double attention = 2 * d(tokens) * d(c.q_features()) * d(c.layers), head = d(c.vocabulary) * d(c.hidden);
  const double again = checkpointing ? 2 * products + attention : 0;
  f.flop = d(tokens) * (4 * (products + head) + (full ? 2 * products : 6 * adapters) + 3.5 * attention + again);
  return f;
}

}  // namespace finetune_lm
