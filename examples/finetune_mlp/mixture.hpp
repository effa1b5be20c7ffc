// SPDX-License-Identifier: MIT
//
// What the model learns from: a mixture of parts, each a text, an instruction byte in front of the context and what is
// to be predicted for it. Batches are a pure function of (seed, stream, step).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "corpus.hpp"

namespace finetune {

using Bytes = Eigen::Matrix<unsigned char, Eigen::Dynamic, Eigen::Dynamic>;

/// Column t is an example: an instruction byte, then the text before the byte to predict.
struct Batch {
  Bytes contexts;
  std::vector<unsigned char> targets;
};

/// Streams of the seed that batches are drawn from; corpus.cpp, model.cpp and the layers use others.
inline constexpr std::uint64_t pretraining_stream = 103, finetuning_stream = 104;

/// One task or domain.
struct Part {
  std::string name;
  const std::string* text;
  const Split* split;
  Task task;
};

class Mixture {
 public:
  /// @param context  bytes the model sees, the instruction included. Texts and splits must outlive the mixture.
  Mixture(std::vector<Part> parts, Index context, std::uint64_t seed, std::uint64_t stream)
      : parts_(std::move(parts)), context_(context), seed_(seed), stream_(stream) {}

  const std::vector<Part>& parts() const { return parts_; }

  /// `count` examples for training step `step`, each from a part drawn evenly and a position drawn evenly inside it.
  void sample(std::uint64_t step, Index count, Batch& batch) const;

  /// At most `count` examples spread evenly over the held-out positions of one part.
  Batch held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const;

 private:
  void fill(const Part& part, std::uint32_t position, Index column, Batch& batch) const;

  std::vector<Part> parts_;
  Index context_;
  std::uint64_t seed_;
  std::uint64_t stream_;
};

}  // namespace finetune
