// SPDX-License-Identifier: MIT
//
// Many trainings that differ in one thing or another: planned first, each once however many tables show it, then run
// side by side, one to a thread, then read.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
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
      : settings_(settings), seeds_(seeds), tasks_(std::move(tasks)), domains_(std::move(domains)) {}

  /// [0] is what the base of the domains learns.
  const std::vector<Domain>& domains() const { return domains_; }
  std::vector<Part> parts(const Scene& scene, std::uint64_t seed);

  Row plan(const Scene& scene, const std::optional<Variant>& method);
  /// The first seed for all, adapters that start from different seeds.
  Row plan_starts(const Scene& scene, const Variant& method);

  /// @param progress  called after every training with how many are done, of how many. Not concurrently.
  void run(const std::function<void(std::size_t, std::size_t)>& progress);

  const StudyResult& result(std::size_t training) const { return results_[training]; }

  template <class Function>
  std::vector<double> values(const Row& row, Function&& f) const {
    std::vector<double> all;
    for (const std::size_t training : row) all.push_back(f(results_[training]));
    return all;
  }
  /// Seed by seed: a − b.
  template <class Function>
  MeanInterval difference(const Row& a, const Row& b, Function&& f) const {
    std::vector<double> all = values(a, f);
    const std::vector<double> others = values(b, f);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] -= others[i];
    return MeanInterval(all);
  }

 private:
  struct Planned {
    Scene scene;
    std::optional<Variant> method;
    std::uint64_t seed, start;
  };

  std::size_t plan_one(const Planned& one);
  const Corpus& corpus(MixtureKind kind, std::uint64_t seed);

  Settings settings_;
  Index seeds_;
  std::vector<Domain> tasks_, domains_;
  std::map<std::pair<MixtureKind, std::uint64_t>, std::unique_ptr<Corpus>> corpora_;
  std::vector<Planned> planned_;
  std::vector<StudyResult> results_;
};

}  // namespace finetune
