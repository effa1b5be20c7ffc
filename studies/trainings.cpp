// SPDX-License-Identifier: MIT
#include "trainings.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>
#include <utility>

namespace finetune {
namespace {

bool same(const Scene& a, const Scene& b) {
  const auto all = [](const Scene& s) {
    return std::tie(s.kind, s.tasks, s.letters, s.instruction, s.only, s.layout.run, s.layout.consecutive,
                    s.pretraining);
  };
  return all(a) == all(b);
}

/// The name aside.
bool same(const Method& a, const Method& b) {
  const auto all = [](const Method& m) {
    return std::tie(m.kind, m.rank, m.heads, m.learning_rate, m.routing, m.gate, m.scaling, m.start, m.balance,
                    m.warmup);
  };
  return all(a) == all(b);
}

void quiet(const std::string&, Index, Index, Index, double, double) {}

}  // namespace

Trainings::Trainings(const Settings& settings, std::vector<Domain> tasks, std::vector<Domain> domains, Index seeds)
    : settings_(settings), seeds_(seeds), tasks_(std::move(tasks)), domains_(std::move(domains)) {}

const Corpus& Trainings::corpus(MixtureKind kind, std::uint64_t seed) {
  auto& found = corpora_[{kind, seed}];
  if (!found) {
    found = std::make_unique<Corpus>(kind == MixtureKind::tasks ? tasks_ : domains_, settings_.context, seed);
  }
  return *found;
}

Settings Trainings::settings_of(std::uint64_t seed) const {
  Settings settings = settings_;
  settings.seed = seed;
  return settings;
}

std::vector<Part> Trainings::parts(const Scene& scene, std::uint64_t seed) {
  const Corpus& from = corpus(scene.kind, seed);
  std::vector<Part> parts = scene.kind == MixtureKind::tasks ? from.task_parts(scene.tasks) : from.domain_parts();
  for (Part& part : parts) {
    part.letters = scene.letters;
    if (!scene.instruction) part.task.marker = tasks()[0].marker;
  }
  if (!scene.only.empty()) {
    const auto other = [&](const Part& part) { return part.name != scene.only; };
    parts.erase(std::remove_if(parts.begin(), parts.end(), other), parts.end());
  }
  return parts;
}

std::size_t Trainings::plan_one(const Planned& one) {
  const auto is_same = [&](const Planned& other) {
    const bool same_method = one.method ? other.method && same(*one.method, *other.method) : !other.method;
    return one.seed == other.seed && one.start == other.start && same_method && same(one.scene, other.scene);
  };
  const auto found = std::find_if(planned_.begin(), planned_.end(), is_same);
  if (found != planned_.end()) return static_cast<std::size_t>(found - planned_.begin());
  planned_.push_back(one);
  return planned_.size() - 1;
}

Trainings::Row Trainings::plan(const Scene& scene, const std::optional<Method>& method) {
  Row row;
  for (Index i = 0; i < seeds_; ++i) {
    row.push_back(plan_one({scene, method, settings_.seed + static_cast<std::uint64_t>(i), 0}));
  }
  return row;
}

Trainings::Row Trainings::plan_starts(const Scene& scene, const Method& method) {
  Row row;
  for (Index i = 0; i < seeds_; ++i) {
    row.push_back(plan_one({scene, method, settings_.seed, static_cast<std::uint64_t>(i)}));
  }
  return row;
}

void Trainings::run(const std::function<void(std::size_t, std::size_t)>& progress) {
  using BaseKey = std::tuple<MixtureKind, double, std::uint64_t>;
  std::vector<BaseKey> base_keys;
  std::vector<std::size_t> base_of;
  std::vector<Mixture> mixtures;
  for (const Planned& one : planned_) {
    const BaseKey key{one.scene.kind, one.scene.pretraining, one.seed};
    const auto found = std::find(base_keys.begin(), base_keys.end(), key);
    base_of.push_back(static_cast<std::size_t>(found - base_keys.begin()));
    if (found == base_keys.end()) base_keys.push_back(key);
    mixtures.emplace_back(parts(one.scene, one.seed), settings_.context, one.seed, finetuning_stream, one.scene.layout);
  }

  std::mutex mutex;
  std::size_t done = 0;
  const auto side_by_side = [&](std::size_t count, auto&& f) {  // inside, each training stays on its thread
    hydralora::parallel_for(static_cast<Index>(count), hydralora::parallel_work_minimum, [&](Index i) {
      f(static_cast<std::size_t>(i));
      const std::lock_guard<std::mutex> lock(mutex);
      progress(++done, base_keys.size() + planned_.size());
    });
  };
  std::vector<Mixture> pretraining;
  for (const auto& [kind, length, seed] : base_keys) {
    pretraining.emplace_back(corpus(kind, seed).base_part(), settings_.context, seed, pretraining_stream);
  }
  std::vector<Weights> bases(base_keys.size());
  side_by_side(bases.size(), [&](std::size_t i) {
    const auto& [kind, length, seed] = base_keys[i];
    Settings settings = settings_of(seed);
    settings.pretraining_steps =
        std::max<Index>(1, std::lround(length * static_cast<double>(settings.pretraining_steps)));
    Result curve;
    double bytes = 0;
    bases[i] = stored(pretrain(pretraining[i], settings, quiet, curve), settings.base_precision, bytes);
  });
  results_.resize(planned_.size());
  side_by_side(planned_.size(), [&](std::size_t i) {
    const Planned& one = planned_[i];
    Settings settings = settings_of(one.seed);
    settings.adapter_seed = one.start;
    const Weights& base = bases[base_of[i]];
    results_[i] = one.method ? finetune(base, mixtures[i], *one.method, settings, quiet)
                             : measure_base(base, mixtures[i], settings);
  });
}

}  // namespace finetune
