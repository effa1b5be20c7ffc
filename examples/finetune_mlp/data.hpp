// SPDX-License-Identifier: MIT
//
// What the model learns from: a mixture of parts, each a text and an instruction. For data of another kind this is the
// file to change: the model is trained on a Batch, and training asks a Mixture for batches and held-out examples.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../support/corpus.hpp"

namespace finetune {

/// Column t is an example: an instruction byte, then the text before the byte to predict.
struct Batch {
  Eigen::Matrix<unsigned char, Eigen::Dynamic, Eigen::Dynamic> contexts;
  std::vector<unsigned char> targets;
  std::vector<Index> parts;     ///< which part of the mixture each example is from
  std::vector<Index> segments;  ///< lengths of the runs of examples that share a gate, for gates that pool
  std::uint64_t first = 0;      ///< its place in the whole batch, where it is one rank's share of it
};

/// Streams of the seed that batches are drawn from. Other random numbers use other streams.
inline constexpr std::uint64_t pretraining_stream = 103, finetuning_stream = 104;

class Mixture {
 public:
  /// @param context  bytes the model sees, the instruction included.
  Mixture(std::vector<Part> parts, Index context, std::uint64_t seed, std::uint64_t stream)
      : parts_(std::move(parts)), context_(context), seed_(seed), stream_(stream) {}
  virtual ~Mixture() = default;

  const std::vector<Part>& parts() const { return parts_; }

  /// `count` examples for a training step, from parts and positions drawn evenly: a function of seed, stream and step.
  virtual void sample(std::uint64_t step, Index count, Batch& batch) const;

  /// At most `count` examples, spread evenly over the held-out positions of one part.
  virtual Batch held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const;

 protected:
  void resize(Index count, Batch& batch) const;
  void fill(std::size_t part, std::uint32_t position, Index column, Batch& batch) const;

  std::vector<Part> parts_;
  Index context_;
  std::uint64_t seed_, stream_;
};

}  // namespace finetune
