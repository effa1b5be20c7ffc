// SPDX-License-Identifier: MIT
//
// The methods side by side: what each trains, one training loop for all of them, and what is measured afterwards.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "checkpoints.hpp"
#include "model.hpp"
#include "ranks.hpp"

namespace finetune {

/// What the frozen base's weights are stored as.
enum class Precision { float32, bf16, f16, int8, nf4 };

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
  Precision base_precision = Precision::float32;
  double pretraining_learning_rate = 4e-3;
  double learning_rate = 0;  ///< of every method where positive, instead of its default
  std::uint64_t seed = 0;
  std::uint64_t adapter_seed = 0;    ///< added to the seed where adapters are initialised
  Index evaluation_examples = 4096;  ///< held-out examples per part
  Index curve_points = 8;            ///< times the validation loss is taken on the way
  Checkpoints checkpoints;
  std::shared_ptr<Ranks> ranks;  ///< that share every batch; none: this process takes all of it
};

/// A way to fine-tune: full, or an adapter of this kind, rank and number of heads on every layer.
struct Method {
  enum class Kind { full, lora, lora_fa, dora, split, hydra, shared_b_lora };
  enum class Start {
    kaiming,
    gaussian,
    orthogonal,
    clusters
  };  ///< gaussian: B too, deviation 0.01; clusters: the gate
  Kind kind;
  std::string name;
  Index rank;
  Index heads;
  double learning_rate;
  hydralora::Routing routing = hydralora::Routing::learned;  ///< given: one head for each part, told to the router
  hydralora::GateConfig gate = {};
  double scaling = 2;  ///< alpha / rank, the same for all, so that their learning rates mean the same
  Start start = Start::kaiming;
  double balance = 0;  ///< weight of the Switch load
  Index warmup = 0;    ///< steps of HeadWarmup
};

/// Full fine-tuning, LoRA at HydraLoRA's rank, LoRA and routed SplitLoRA at about HydraLoRA's parameter count,
/// HydraLoRA.
std::vector<Method> methods(const Settings& settings, bool tasks);

/// The method at the rank at which it trains closest to `parameters` numbers.
Method at_budget(Method method, Index parameters, const Settings& settings);

/// Numbers that a method trains in this model.
Index trainable_parameters(const Method& method, const Settings& settings);

/// A training run whose gradients are no longer finite.
class Diverged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CurvePoint {
  Index step;
  double training;    ///< bits per byte, mean over the steps since the last point
  double validation;  ///< bits per byte, mean over the parts
};

/// How one layer routes the held-out text of one part.
struct PartRouting {
  Eigen::VectorXd usage;
  Eigen::VectorXd top1_share;
  double normalized_entropy;
};

struct Result {
  std::string name;
  Index parameters = 0;
  double learning_rate = 0;
  double milliseconds_per_step = 0;
  std::vector<double> bits_per_byte;  ///< on the test positions of every part
  double mean = 0;
  double validation = 0;  ///< at the end, mean over the parts
  std::vector<CurvePoint> curve;
  std::vector<std::vector<PartRouting>> routing;  ///< [layer][part], where the method routes
  std::array<double, 3> head_likeness = {};       ///< mean cosine between the heads' B, by layer
  std::array<Factors, 3> factors;                 ///< by layer, where an adapter was trained
};

/// Called after every step: what is trained, step, steps, tokens per step, loss in bits per byte, tokens per second.
using Progress = std::function<void(const std::string&, Index, Index, Index, double, double)>;

/// Trains all weights from scratch on `mixture` and returns them; `result` receives the curve.
Weights pretrain(const Mixture& mixture, const Settings& settings, const Progress& progress, Result& result);

/// The same weights as this precision holds them, in floats again. Embeddings and biases stay as they are.
/// @param bytes  receives what W takes, on average for one number.
Weights stored(Weights weights, Precision precision, double& bytes);

/// Fine-tunes the frozen `base` on `mixture` with one method and measures it.
Result finetune(const Weights& base, const Mixture& mixture, const Method& method, const Settings& settings,
                const Progress& progress);

/// The base as it is, measured on the same held-out text.
Result measure_base(const Weights& base, const Mixture& mixture, const Settings& settings);

}  // namespace finetune
