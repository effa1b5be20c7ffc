// SPDX-License-Identifier: MIT
//
// Where a training run leaves what it needs to go on after it was stopped: one file for every method.
#pragma once

#include <filesystem>
#include <string>

#include <hydralora/core/config.hpp>

#include <hydralora/train/adamw.hpp>

namespace finetune {

struct Result;

/// What a training loop has gathered since the last point of its curve.
struct SincePoint {
  double loss = 0;
  hydralora::Index start = 0;
};

struct Checkpoints {
  std::filesystem::path folder;  ///< empty: none are kept
  hydralora::Index every = 0;    ///< steps
  std::string run;               ///< what the run is: settings and data. Another run's files are refused

  /// Puts a training run of this name back to where it was saved; without a file everything stays as it is.
  /// @throws FileError, InputError  a file that is broken, or of another run.
  void load(hydralora::AdamW<float>& optimizer, Result& result, SincePoint& since) const;
  /// Saves it, whole or not at all.
  void save(const hydralora::AdamW<float>& optimizer, const Result& result, const SincePoint& since) const;
  /// The run is over: the file of the training of this name goes.
  void remove(const std::string& name) const;
};

}  // namespace finetune
