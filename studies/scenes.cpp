// SPDX-License-Identifier: MIT
#include "scenes.hpp"

#include <algorithm>

#include <hydralora/core/random.hpp>

namespace finetune {

Task limited(const Task& task, int letters) {
  if (letters == 26) return task;
  return {task.name, task.marker, [apply = task.apply, letters](unsigned char c) {
            const int letter = (c | 0x20) - 'a';  // of either case; outside 0 … 25 for all that is no letter
            return letter >= 0 && letter < letters ? apply(c) : c;
          }};
}

std::vector<Part> parts_of(const Scene& scene, const Corpus& corpus) {
  std::vector<Part> all = scene.kind == MixtureKind::tasks ? corpus.task_parts(scene.tasks) : corpus.domain_parts();
  std::vector<Part> parts;
  for (Part& part : all) {
    part.task = limited(part.task, scene.letters);
    if (!scene.instruction) part.task.marker = tasks()[0].marker;
    if (scene.only.empty() || part.name == scene.only) parts.push_back(part);
  }
  return parts;
}

void RunMixture::start(Index count, Batch& batch) const {
  resize(count, batch);
  batch.segments.clear();
  for (Index t = 0; t < count; t += layout_.run) batch.segments.push_back(std::min(layout_.run, count - t));
}

void RunMixture::sample(std::uint64_t step, Index count, Batch& batch) const {
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

Batch RunMixture::held_out(std::size_t part, const std::vector<std::uint32_t> Split::*which, Index count) const {
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
