// SPDX-License-Identifier: MIT
#include "mixture.hpp"

#include <algorithm>

#include "hydralora/core/random.hpp"

namespace finetune {

void Mixture::fill(const Part& part, std::uint32_t position, Index column, Batch& batch) const {
  batch.contexts(0, column) = part.task.marker;
  for (Index i = 1; i < context_; ++i) {
    batch.contexts(i, column) =
        static_cast<unsigned char>((*part.text)[position - static_cast<std::size_t>(context_ - i)]);
  }
  batch.targets[static_cast<std::size_t>(column)] = part.task.apply(static_cast<unsigned char>((*part.text)[position]));
}

void Mixture::sample(std::uint64_t step, Index count, Batch& batch) const {
  const hydralora::CounterRandom random(seed_, stream_);
  batch.contexts.resize(context_, count);
  batch.targets.resize(static_cast<std::size_t>(count));
  for (Index t = 0; t < count; ++t) {
    const auto column = static_cast<std::uint64_t>(t);
    const Part& part = parts_[random.below(parts_.size(), 2 * column, step)];
    const auto& positions = part.split->train;
    fill(part, positions[random.below(positions.size(), 2 * column + 1, step)], t, batch);
  }
}

Batch Mixture::held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const {
  const auto& positions = parts_[part].split->*which;
  const auto size = static_cast<Index>(positions.size());
  Batch batch;
  batch.contexts.resize(context_, std::min(count, size));
  batch.targets.resize(static_cast<std::size_t>(batch.contexts.cols()));
  for (Index t = 0; t < batch.contexts.cols(); ++t) {
    fill(parts_[part], positions[static_cast<std::size_t>(t * size / batch.contexts.cols())], t, batch);
  }
  return batch;
}

}  // namespace finetune
