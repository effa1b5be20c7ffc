// SPDX-License-Identifier: MIT
//
// The methods side by side: what each trains, one training loop for all of them, and what is measured afterwards.
#pragma once

#include <functional>

#include "../support/run.hpp"
#include "model.hpp"

namespace finetune {

struct Settings {
  Index context = 16;  ///< bytes the model sees, the instruction byte included
  Index embedding = 24;
  Index hidden = 384;
  Index batch = 512;
  Index pretraining_steps = 1500;
  Index steps = 800;
  Index rank = 8;
  Index heads = 4;
  double dropout = 0;
  std::string base_precision = "float32";  ///< what the frozen weights are stored as
  double pretraining_learning_rate = 4e-3;
  double learning_rate = 0;  ///< of every method where positive, instead of its default
  std::uint64_t seed = 0;
  Index evaluation_examples = 4096;  ///< held-out examples per part
  Index curve_points = 8;            ///< times the validation loss is taken on the way
  Run run;                           ///< checkpoints, and the ranks that share every batch
};

/// A way to fine-tune: all weights, or an adapter of this kind, rank and number of heads on every layer.
struct Method {
  enum class Kind { full, lora, split_lora, hydra_lora };
  Kind kind;
  std::string name;
  Index rank;
  Index heads;
  double learning_rate;
};

/// Full fine-tuning, LoRA at HydraLoRA's rank, LoRA and routed SplitLoRA of about HydraLoRA's size, HydraLoRA.
std::vector<Method> methods(const Settings& settings, MixtureKind kind);

struct CurvePoint {
  Index step;
  double training;    ///< bits per byte, mean over the steps since the last point
  double validation;  ///< bits per byte, mean over the parts
};

/// How one layer routes the held-out text of one part.
struct PartRouting {
  Eigen::VectorXd usage, top1_share;  ///< by head
  double normalized_entropy;
};

struct Result {
  std::string name;
  Index parameters = 0;
  double learning_rate = 0;
  double milliseconds_per_step = 0;
  std::vector<CurvePoint> curve;
  double loss_since_point = 0;        ///< while it trains: Σ since the last point of the curve …
  Index last_point = 0;               ///< … and the step of that point
  std::vector<double> bits_per_byte;  ///< on the test positions of every part
  double mean = 0;
  double validation = 0;                          ///< at the end, mean over the parts
  std::vector<std::vector<PartRouting>> routing;  ///< [layer][part], where the method routes
};

/// A training run whose gradients are no longer finite.
struct Diverged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Called after every step: what is trained, step, steps, tokens per step, loss in bits per byte, tokens per second.
using Progress = std::function<void(const std::string&, Index, Index, Index, double, double)>;

/// AdamW, warm-up over 3 % of the steps, cosine to zero, gradients of norm 1 at most; then measure(). Names the result.
void train(Mlp& model, const Mixture& mixture, const Settings& settings, Index steps, double learning_rate,
           const Progress& progress, Result& result);

/// The losses on held-out text and the routing of every part into `result`.
void measure(const Mlp& model, const Mixture& mixture, const Settings& settings, Result& result);

/// Trains all weights from scratch on `mixture` and returns them as the frozen base's precision holds them, in floats.
/// @param result  receives the curve.
/// @param bytes   receives what a weight takes in that precision.
Weights pretrain(const Mixture& mixture, const Settings& settings, const Progress& progress, Result& result,
                 double& bytes);

/// Fine-tunes the frozen `base` on `mixture` with one method and measures it.
Result fine_tune(const Weights& base, const Mixture& mixture, const Method& method, const Settings& settings,
                 const Progress& progress);

}  // namespace finetune
