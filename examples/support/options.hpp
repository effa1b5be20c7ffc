// SPDX-License-Identifier: MIT
//
// The command line of finetune_mlp and of the study.
#pragma once

#include <functional>

#include "../finetune_mlp/training.hpp"

namespace finetune {

struct Options {
  Settings settings;
  TextOptions texts;
  MixtureKind kind = MixtureKind::tasks;
  bool heads_from_data = false;  ///< --heads auto
  std::string out = "out";
  // of the study alone:
  bool search = false;
  Index seeds = 5;
};

/// Parses the command line and calls run(options). A mistake is one line on stderr.
/// @param study  the study's options instead of those of a single run.
/// @return  the program's exit code: 2 for a mistake of the user's, 1 for another error.
int run_program(int argc, char** argv, bool study, const std::function<void(Options&)>& run);

}  // namespace finetune
