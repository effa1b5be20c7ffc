// SPDX-License-Identifier: MIT
//
// What the studies vary in the data: how many tasks, how much they contradict each other, which bytes belong together.
#pragma once

#include "../examples/finetune_mlp/data.hpp"

namespace finetune {

/// Which examples of a batch belong together.
struct Layout {
  Index run = 1;             ///< so many examples in a row are from one part …
  bool consecutive = false;  ///< … and predict so many bytes in a row, or else bytes from anywhere in it
};

/// What is learned, and on which base.
struct Scene {
  MixtureKind kind = MixtureKind::tasks;
  std::size_t tasks = 4;
  int letters = 26;         ///< a task rewrites so many of the alphabet's letters
  bool instruction = true;  ///< without one, nothing in the input says which task it is
  std::string only;         ///< one domain, by its name, instead of all
  Layout layout = {};
  double pretraining = 1;  ///< of the usual pretraining steps
};

/// The task on so many letters from the front of the alphabet. Below 26 it rewrites nothing else.
Task limited(const Task& task, int letters);

std::vector<Part> parts_of(const Scene& scene, const Corpus& corpus);

/// A mixture in runs; their lengths are the batch's segments.
class RunMixture final : public Mixture {
 public:
  RunMixture(std::vector<Part> parts, Index context, std::uint64_t seed, std::uint64_t stream, Layout layout)
      : Mixture(std::move(parts), context, seed, stream), layout_(layout) {}
  void sample(std::uint64_t step, Index count, Batch& batch) const override;
  Batch held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const override;

 private:
  void start(Index count, Batch& batch) const;

  Layout layout_;
};

}  // namespace finetune
