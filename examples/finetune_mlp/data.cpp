// SPDX-License-Identifier: MIT
#include "data.hpp"

#include <algorithm>

#include <hydralora/core/random.hpp>

namespace finetune {

void Mixture::resize(Index count, Batch& batch) const {
  batch.contexts.resize(context_, count);
  batch.targets.resize(static_cast<std::size_t>(count));
  batch.parts.resize(static_cast<std::size_t>(count));
}

void Mixture::fill(std::size_t part, std::uint32_t position, Index column, Batch& batch) const {
  const Part& from = parts_[part];
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>((*from.text)[at]); };
  batch.contexts(0, column) = from.task.marker;
  for (Index i = 1; i < context_; ++i) {
    batch.contexts(i, column) = byte(position - static_cast<std::size_t>(context_ - i));
  }
  batch.parts[static_cast<std::size_t>(column)] = static_cast<Index>(part);
  batch.targets[static_cast<std::size_t>(column)] = from.task.apply(byte(position));
}

void Mixture::sample(std::uint64_t step, Index count, Batch& batch) const {
  const hydralora::CounterRandom random(seed_, stream_);
  resize(count, batch);
  for (Index t = 0; t < count; ++t) {
    const auto column = static_cast<std::uint64_t>(t);
    const std::size_t part = random.below(parts_.size(), 2 * column, step);
    const auto& positions = parts_[part].split->train;
    fill(part, positions[random.below(positions.size(), 2 * column + 1, step)], t, batch);
  }
}

Batch Mixture::held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const {
  const auto& positions = parts_[part].split->*which;
  const auto size = static_cast<Index>(positions.size());
  Batch batch;
  count = std::min(count, size);
  resize(count, batch);
  for (Index t = 0; t < count; ++t) fill(part, positions[static_cast<std::size_t>(t * size / count)], t, batch);
  return batch;
}

}  // namespace finetune
