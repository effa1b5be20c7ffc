// SPDX-License-Identifier: MIT
#include "mixture.hpp"

#include <algorithm>

#include "hydralora/core/random.hpp"

namespace finetune {

Batch slice(const Batch& whole, hydralora::Share share) {
  const auto cut = [&](const auto& all) {
    const auto begin = all.begin() + share.begin;
    return std::vector<typename std::decay_t<decltype(all)>::value_type>(begin, begin + share.count);
  };
  return {whole.contexts.middleCols(share.begin, share.count), cut(whole.targets), cut(whole.parts),
          cut(whole.segments), whole.first + static_cast<std::uint64_t>(share.begin)};
}

void Mixture::start(Index count, Batch& batch) const {
  const auto size = static_cast<std::size_t>(count);
  batch.contexts.resize(context_, count);
  batch.targets.resize(size);
  batch.parts.resize(size);
  batch.segments.clear();
  for (Index t = 0; t < count; t += layout_.run) batch.segments.push_back(std::min(layout_.run, count - t));
}

void Mixture::fill(std::size_t part, std::uint32_t position, Index column, Batch& batch) const {
  const Part& from = parts_[part];
  batch.contexts(0, column) = from.task.marker;
  for (Index i = 1; i < context_; ++i) {
    batch.contexts(i, column) =
        static_cast<unsigned char>((*from.text)[position - static_cast<std::size_t>(context_ - i)]);
  }
  const auto t = static_cast<std::size_t>(column);
  batch.parts[t] = static_cast<Index>(part);
  batch.targets[t] = from.rewrite(static_cast<unsigned char>((*from.text)[position]));
}

void Mixture::sample(std::uint64_t step, Index count, Batch& batch) const {
  const hydralora::CounterRandom random(seed_, stream_);
  start(count, batch);
  std::size_t part = 0, position = 0;
  for (Index t = 0; t < count; ++t) {
    const auto column = static_cast<std::uint64_t>(t);
    const bool new_run = t % layout_.run == 0;
    if (new_run) part = random.below(parts_.size(), 2 * column, step);
    const auto& positions = parts_[part].split->train;
    if (new_run || !layout_.consecutive) {
      position = random.below(positions.size(), 2 * column + 1, step);
    } else {
      position = (position + 1) % positions.size();
    }
    fill(part, positions[position], t, batch);
  }
}

Batch Mixture::held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const {
  const auto& positions = parts_[part].split->*which;
  const auto size = static_cast<Index>(positions.size());
  Batch batch;
  start(std::min(count, size), batch);
  // Example k of `examples` evenly spread ones; the members of a run are neighbours, or as far apart as they can be.
  const Index examples = batch.contexts.cols(), runs = (examples + layout_.run - 1) / layout_.run;
  for (Index t = 0; t < examples; ++t) {
    const Index run = t / layout_.run, member = t % layout_.run;
    const Index first = layout_.consecutive ? run * size / runs : (member * runs + run) * size / (runs * layout_.run);
    const Index position = layout_.consecutive ? std::min(first + member, size - 1) : first;
    fill(part, positions[static_cast<std::size_t>(position)], t, batch);
  }
  return batch;
}

}  // namespace finetune
