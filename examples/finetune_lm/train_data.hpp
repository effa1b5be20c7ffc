// SPDX-License-Identifier: MIT
// The examples of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train.hpp"

namespace finetune_lm {

/// The examples of some files; what was left out is printed after `what`.
/// @param groups  whose numbers are fixed; with a given gate there are no others.
/// @throws std::invalid_argument, FileError  on a broken line, or where no example is left.
lm::ExampleFile read_data(const std::vector<std::string>& files, Text& text, const TrainOptions& options,
                          const char* what, const std::vector<std::string>& groups);
/// Text of this machine: its licenses, in pieces.
lm::ExampleFile default_data();
/// Tells other data from the same.
std::uint64_t hash_of(const std::vector<lm::Example>& examples);
/// The tokens of another model's tokenizer are found here, not in the middle of training.
/// @throws std::invalid_argument  a token is not in the vocabulary.
void check_ids(const lm::ExampleFile& file, Index vocabulary);

}  // namespace finetune_lm
