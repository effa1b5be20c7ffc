// SPDX-License-Identifier: MIT
//
// `finetune_study`: every method, gate and start on both mixtures over several seeds, and when routing pays.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "variants.hpp"

namespace finetune {

struct StudyOptions {
  Settings settings;
  std::vector<Domain> tasks, domains;  ///< load_texts() of both mixtures
  Index seeds = 5;                     ///< from settings.seed on
};

/// The methods of the study's first table.
std::vector<Variant> study_methods(const Settings& settings, MixtureKind kind);

/// Runs it all, one training per thread at a time, and returns the files it makes: study.md and the data of its plots.
/// The results are the same bits on any number of threads.
/// @param progress  called after every training with how many are done, of how many. Not concurrently.
std::vector<std::pair<std::string, std::string>> run_study(
    const StudyOptions& options, const std::function<void(std::size_t, std::size_t)>& progress);

}  // namespace finetune
