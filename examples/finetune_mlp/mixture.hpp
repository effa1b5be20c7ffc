// SPDX-License-Identifier: MIT
//
// What the model learns from: a mixture of parts, each a text, an instruction byte in front of the context and what is
// to be predicted for it. Batches are a pure function of (seed, stream, step).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <hydralora/train/data_parallel.hpp>

#include "corpus.hpp"

namespace finetune {

using Bytes = Eigen::Matrix<unsigned char, Eigen::Dynamic, Eigen::Dynamic>;

/// Column t is an example: an instruction byte, then the text before the byte to predict.
struct Batch {
  Bytes contexts;
  std::vector<unsigned char> targets;
  std::vector<Index> parts;     ///< which part of the mixture each example is from
  std::vector<Index> segments;  ///< lengths of the runs of examples that belong together
  std::uint64_t first = 0;      ///< where it begins in the whole batch of which it is a share
};

/// The share of a batch whose examples belong together with none but themselves.
Batch slice(const Batch& whole, hydralora::Share share);

/// Which examples of a batch belong together.
struct Layout {
  Index run = 1;             ///< so many examples in a row are from one part …
  bool consecutive = false;  ///< … and predict so many bytes in a row, or else bytes from anywhere in it
};

/// Streams of the seed that batches are drawn from; corpus.cpp, model.cpp and the layers use others.
inline constexpr std::uint64_t pretraining_stream = 103, finetuning_stream = 104;

/// One task or domain.
struct Part {
  std::string name;
  const std::string* text;
  const Split* split;
  Task task;
  int letters = 26;  ///< the task rewrites only so many letters from the front of the alphabet; below 26 nothing else

  /// What is to be predicted where the text has c.
  unsigned char rewrite(unsigned char c) const {
    const int letter = (c | 0x20) - 'a';  // of either case; outside 0 … 25 for all that is no letter
    return letters == 26 || (letter >= 0 && letter < letters) ? task.apply(c) : c;
  }
};

class Mixture {
 public:
  /// @param context  bytes the model sees, the instruction included. Texts and splits must outlive the mixture.
  Mixture(std::vector<Part> parts, Index context, std::uint64_t seed, std::uint64_t stream, Layout layout = {})
      : parts_(std::move(parts)), context_(context), seed_(seed), stream_(stream), layout_(layout) {}

  const std::vector<Part>& parts() const { return parts_; }

  /// `count` examples for training step `step`, each run from a part drawn evenly and positions drawn evenly inside it.
  void sample(std::uint64_t step, Index count, Batch& batch) const;

  /// At most `count` examples spread evenly over the held-out positions of one part, in runs like those of sample().
  Batch held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const;

 private:
  void start(Index count, Batch& batch) const;
  void fill(std::size_t part, std::uint32_t position, Index column, Batch& batch) const;

  std::vector<Part> parts_;
  Index context_;
  std::uint64_t seed_;
  std::uint64_t stream_;
  Layout layout_;
};

}  // namespace finetune
