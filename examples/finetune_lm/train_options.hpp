// SPDX-License-Identifier: MIT
// What the options of a run make: adapters, and the settings of the optimiser.
#pragma once

#include <memory>

#include "hydralora/lm/trainer.hpp"
#include "train.hpp"

namespace finetune_lm {

/// New adapters as the options say, or those of --adapter.
/// @throws std::invalid_argument  an option contradicts the directory, or fits no linear of the model.
std::unique_ptr<lm::Adapters<float>> make_adapters(const TrainOptions& options, lm::Decoder<float>& model,
                                                   const std::vector<std::string>& groups);
/// The groups of --adapter with gate given, else none.
std::vector<std::string> groups_of_adapter(const TrainOptions& options);
lm::TrainingOptions training_options(const TrainOptions& options, std::int64_t total_steps);
/// The options that must be the same in a run that goes on, by their names.
nlohmann::ordered_json settings_of(const TrainOptions& options);

}  // namespace finetune_lm
