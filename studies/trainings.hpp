// SPDX-License-Identifier: MIT
//
// Many trainings that differ in one thing or another: planned first, each once however many tables show it, then run
// side by side, one to a thread, then read.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>

#include "mean_interval.hpp"
#include "scenes.hpp"
#include "variants.hpp"

namespace finetune {

struct StudyResult : Result {
  std::array<Inspection, 3> layers;
};

class Trainings {
 public:
  /// One method (none: the base as it is) on one scene with every seed.
  using Row = std::vector<std::size_t>;

  /// @param tasks, domains  load_texts() of both mixtures.
  /// Seeds from settings.seed on.
  Trainings(const Settings& settings, std::vector<Domain> tasks, std::vector<Domain> domains, Index seeds)
      : settings_(settings),
        seeds_(static_cast<std::uint64_t>(seeds)),
        tasks_(std::move(tasks)),
        domains_(std::move(domains)) {}

  /// [0] is what the base of the domains learns.
  const std::vector<Domain>& domains() const { return domains_; }
  std::vector<Part> parts(const Scene& scene, std::uint64_t seed) { return parts_of(scene, corpus(scene.kind, seed)); }

  Row plan(const Scene& scene, const std::optional<Variant>& method) {
    Row row;
    for (std::uint64_t i = 0; i < seeds_; ++i) row.push_back(plan_one({scene, method, settings_.seed + i, 0}));
    return row;
  }
  /// The first seed for all, adapters that start from different seeds.
  Row plan_starts(const Scene& scene, const Variant& method) {
    Row row;
    for (std::uint64_t i = 0; i < seeds_; ++i) row.push_back(plan_one({scene, method, settings_.seed, i}));
    return row;
  }

  /// @param progress  called after every training with how many are done, of how many. Not concurrently.
  void run(const std::function<void(std::size_t, std::size_t)>& progress) {
    std::vector<std::tuple<MixtureKind, double, std::uint64_t>> base_keys;  // kind, length of pretraining, seed
    std::vector<std::size_t> base_of;
    std::vector<RunMixture> mixtures;
    for (const Planned& one : planned_) {
      const std::tuple key(one.scene.kind, one.scene.pretraining, one.seed);
      const auto found = std::find(base_keys.begin(), base_keys.end(), key);
      base_of.push_back(static_cast<std::size_t>(found - base_keys.begin()));
      if (found == base_keys.end()) base_keys.push_back(key);
      mixtures.emplace_back(parts(one.scene, one.seed), settings_.context, one.seed, finetuning_stream,
                            one.scene.layout);
    }

    const auto quiet = [](const std::string&, Index, Index, Index, double, double) {};
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

  const StudyResult& result(std::size_t training) const { return results_[training]; }

  using Measure = double(const StudyResult&);
  std::vector<double> values(const Row& row, Measure* measure) const {
    std::vector<double> all;
    for (const std::size_t training : row) all.push_back(measure(results_[training]));
    return all;
  }
  /// Seed by seed: a − b.
  MeanInterval difference(const Row& a, const Row& b, Measure* measure) const {
    std::vector<double> all = values(a, measure);
    const std::vector<double> others = values(b, measure);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] -= others[i];
    return MeanInterval(all);
  }

 private:
  struct Planned {
    Scene scene;
    std::optional<Variant> method;
    std::uint64_t seed, start;
    /// Of all but the method's name.
    bool operator==(const Planned& other) const {
      const auto place = [](const Planned& p) {
        const Scene& s = p.scene;
        return std::tie(p.seed, p.start, s.kind, s.tasks, s.letters, s.instruction, s.only, s.layout.run,
                        s.layout.consecutive, s.pretraining);
      };
      const auto key = [](const Variant& v) {
        return std::tie(v.kind, v.adapter, v.rank, v.heads, v.learning_rate, v.routing, v.gate, v.scaling, v.start,
                        v.balance, v.warmup);
      };
      if (place(*this) != place(other) || method.has_value() != other.method.has_value()) return false;
      return !method || key(*method) == key(*other.method);
    }
  };

  std::size_t plan_one(const Planned& one) {
    const auto found = std::find(planned_.begin(), planned_.end(), one);
    const auto place = static_cast<std::size_t>(found - planned_.begin());
    if (found == planned_.end()) planned_.push_back(one);
    return place;
  }
  const Corpus& corpus(MixtureKind kind, std::uint64_t seed) {
    auto& found = corpora_[{kind, seed}];
    if (!found) {
      found = std::make_unique<Corpus>(kind == MixtureKind::tasks ? tasks_ : domains_, settings_.context, seed);
    }
    return *found;
  }

  Settings settings_;
  std::uint64_t seeds_;
  std::vector<Domain> tasks_, domains_;
  std::map<std::pair<MixtureKind, std::uint64_t>, std::unique_ptr<Corpus>> corpora_;
  std::vector<Planned> planned_;
  std::vector<StudyResult> results_;
};

}  // namespace finetune
