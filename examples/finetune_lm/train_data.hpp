// SPDX-License-Identifier: MIT
// The examples of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train.hpp"

namespace finetune_lm {

/// Reads --data, or else text of this machine, and --validation; what was left out is printed. With a given gate the
/// groups of --adapter, or those of the data, are the only ones.
/// @throws std::invalid_argument, FileError  on a broken line, another group, or where no example is left.
void read_data(const TrainOptions& options, Text& text, lm::ExampleFile& data, lm::ExampleFile& validation);
/// Tells other data from the same.
std::uint64_t hash_of(const std::vector<lm::Example>& examples);
/// The tokens of another model's tokenizer are found here, not in the middle of training.
/// @throws std::invalid_argument  a token is not in the vocabulary.
void check_ids(const lm::ExampleFile& file, Index vocabulary);

}  // namespace finetune_lm
