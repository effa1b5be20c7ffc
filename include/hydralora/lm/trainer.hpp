// SPDX-License-Identifier: MIT
// Training steps of a decoder: exact accumulation over micro-batches and ranks, clipping, schedule, AdamW.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/lm/decoder.hpp"
#include "hydralora/train/adamw.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

enum class Schedule { cosine, linear, constant };

/// Factor on the learning rate at `step` (from 0), as in transformers: step / warmup in the warm-up, whose first step
/// has rate 0; then half a cosine, or a line, down to 0 at total_steps, or 1.
inline double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t total_steps, std::int64_t warmup) {
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  if (schedule == Schedule::constant) return 1;
  const double progress =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup));
  if (progress >= 1) return 0;
  return schedule == Schedule::linear ? 1 - progress
                                      : 0.5 + 0.5 * hydralora::detail::portable_cos_turns(0.5 * progress);
}

struct TrainingOptions {
  double learning_rate = 1e-4;
  Schedule schedule = Schedule::cosine;
  std::int64_t total_steps = 1, warmup_steps = 0;
  double max_grad_norm = 1;  ///< 0: no clipping
  AdamWConfig adamw = {};
  double weight_decay = 0;
};

/// What a step did.
struct StepResult {
  std::int64_t step = 0;     ///< from 1
  double loss = 0;           ///< mean over the step's scored tokens, before the update
  double gradient_norm = 0;  ///< before clipping
  double learning_rate = 0;
  Index tokens = 0, scored_tokens = 0;
};

/// A distributed run: this rank, and functions that sum numbers over all ranks, in place.
template <class Scalar>
struct Reduction {
  int rank = 0, ranks = 1;
  std::function<void(ParameterMap<Scalar>)> gradients = {};
  std::function<void(double*, Index)> sums = {};
};

/// Trains one flat buffer of parameters: the adapters' or, for full fine-tuning, all weights.
template <class Scalar>
class Trainer {
 public:
  Trainer(Decoder<Scalar>& model, ParameterMap<Scalar> parameters, ParameterMap<Scalar> gradients,
          TrainingOptions training_options)
      : options(std::move(training_options)),
        model_(model),
        gradients_(gradients),
        optimizer_({{parameters, gradients, options.learning_rate, options.weight_decay}}, options.adamw) {}

  TrainingOptions options;
  Reduction<Scalar> reduction;

  AdamW<Scalar>& optimizer() { return optimizer_; }
  const AdamW<Scalar>& optimizer() const { return optimizer_; }

  /// One step of the optimiser, with the gradient of the mean loss over the scored tokens of all batches and ranks.
  /// @param batches  of all ranks, the same on each. A rank computes every ranks-th of them.
  /// @throws std::invalid_argument  no token is scored, or loss or gradient are not finite. Nothing is changed then.
  StepResult step(const std::vector<Batch>& batches) {
    Index tokens = 0, scored = 0;
    for (const Batch& batch : batches) tokens += batch.tokens(), scored += static_cast<Index>(batch.scored().size());
    expects(scored > 0, "Trainer: no token of the step has a label");
    gradients_.setZero();
    LinearCall<Scalar> call;
    call.options.step = static_cast<std::uint64_t>(optimizer_.steps());
    double loss = 0, divisor = static_cast<double>(scored);
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const Batch& batch = batches[i];
      if (static_cast<int>(i) % reduction.ranks == reduction.rank) {
        loss += model_.loss_and_gradients(batch, static_cast<Scalar>(1 / divisor), call);
      }
      call.options.first_token += static_cast<std::uint64_t>(batch.tokens());
    }
    if (reduction.sums) reduction.sums(&loss, 1);
    if (reduction.gradients) reduction.gradients(gradients_);
    const double most = options.max_grad_norm > 0 ? options.max_grad_norm : std::numeric_limits<double>::infinity();
    const double norm = clip_global_norm<Scalar>(optimizer_.groups(), most);
    expects(std::isfinite(loss) && std::isfinite(norm), "Trainer: the run diverged at step ", optimizer_.steps() + 1,
            ": loss ", loss / divisor, ", gradient norm ", norm);
    const double factor =
        schedule_factor(options.schedule, optimizer_.steps(), options.total_steps, options.warmup_steps);
    optimizer_.step(factor);
    return {optimizer_.steps(), loss / divisor, norm, options.learning_rate * factor, tokens, scored};
  }

 private:
  Decoder<Scalar>& model_;
  ParameterMap<Scalar> gradients_;
  AdamW<Scalar> optimizer_;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
