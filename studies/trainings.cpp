// SPDX-License-Identifier: MIT
#include "trainings.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>
#include <utility>

namespace finetune {
namespace {

auto key(const Scene& s) {
  return std::tie(s.kind, s.tasks, s.letters, s.instruction, s.only, s.layout.run, s.layout.consecutive, s.pretraining);
}

/// The name aside.
auto key(const Variant& v) {
  return std::tie(v.kind, v.adapter, v.rank, v.heads, v.learning_rate, v.routing, v.gate, v.scaling, v.start, v.balance,
                  v.warmup);
}

void quiet(const std::string&, Index, Index, Index, double, double) {}

}  // namespace

const Corpus& Trainings::corpus(MixtureKind kind, std::uint64_t seed) {
  auto& found = corpora_[{kind, seed}];
  if (!found) {
    found = std::make_unique<Corpus>(kind == MixtureKind::tasks ? tasks_ : domains_, settings_.context, seed);
  }
  return *found;
}

std::vector<Part> Trainings::parts(const Scene& scene, std::uint64_t seed) {
  return parts_of(scene, corpus(scene.kind, seed));
}

std::size_t Trainings::plan_one(const Planned& one) {
  const auto is_same = [&](const Planned& other) {
    const bool same_method = one.method ? other.method && key(*one.method) == key(*other.method) : !other.method;
    return one.seed == other.seed && one.start == other.start && same_method && key(one.scene) == key(other.scene);
  };
  const auto found = std::find_if(planned_.begin(), planned_.end(), is_same);
  if (found != planned_.end()) return static_cast<std::size_t>(found - planned_.begin());
  planned_.push_back(one);
  return planned_.size() - 1;
}

Trainings::Row Trainings::plan(const Scene& scene, const std::optional<Variant>& method) {
  Row row;
  for (Index i = 0; i < seeds_; ++i) {
    row.push_back(plan_one({scene, method, settings_.seed + static_cast<std::uint64_t>(i), 0}));
  }
  return row;
}

Trainings::Row Trainings::plan_starts(const Scene& scene, const Variant& method) {
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
  std::vector<RunMixture> mixtures;
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
    Settings settings = settings_;
    settings.seed = seed;
    settings.pretraining_steps =
        std::max<Index>(1, std::lround(length * static_cast<double>(settings.pretraining_steps)));
    Result curve;
    double bytes = 0;
    bases[i] = pretrain(pretraining[i], settings, quiet, curve, bytes);
  });
  results_.resize(planned_.size());
  side_by_side(planned_.size(), [&](std::size_t i) {
    const Planned& one = planned_[i];
    Settings settings = settings_;
    settings.seed = one.seed;
    StudyResult& result = results_[i];
    const Variant base_itself = Method{Method::Kind::full, "base frozen", 0, 0, 0};
    const Variant& method = one.method ? *one.method : base_itself;
    Mlp model = make_model(bases[base_of[i]], method, mixtures[i], settings, one.start);
    result.name = method.name;
    if (!one.method) return measure(model, mixtures[i], settings, result);
    train(model, mixtures[i], settings, settings.steps, method.learning_rate, quiet, result);
    for (std::size_t layer = 0; layer < 3; ++layer) result.layers[layer] = inspect(model.layer(layer));
  });
}

}  // namespace finetune
