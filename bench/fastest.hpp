// SPDX-License-Identifier: MIT
//
// How long several ways to do the same take here and now.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <vector>

namespace bench {

/// Seconds that run(i) takes, for every i < count: medians of calls in rotation, so that all meet the same caches and the
/// same neighbours. What is far behind after the first calls is not tried again and keeps their time.
template <class Run>
std::vector<double> seconds_in_rotation(std::size_t count, Run&& run) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  constexpr double sample = 100e-6, budget = 0.1, hopeless = 1.5;  // seconds, seconds, times the best
  constexpr std::size_t rounds = 9, rounds_at_least = 3;

  struct Candidate {
    double first = std::numeric_limits<double>::infinity();
    int calls = 1;  // in one sample: a clock needs more than a microsecond
    std::vector<double> samples;
    double median() {
      std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2),
                       samples.end());
      return samples[samples.size() / 2];
    }
  };
  std::vector<Candidate> candidates(count);
  const auto seconds = [&](std::size_t i, int calls) {
    const auto begin = Clock::now();
    for (int call = 0; call < calls; ++call) run(i);
    return Seconds(Clock::now() - begin).count() / calls;
  };

  double best = std::numeric_limits<double>::infinity();
  for (int warm = 0; warm < 2; ++warm) {
    for (std::size_t i = 0; i < count; ++i) {
      Candidate& c = candidates[i];
      if (c.first > hopeless * best && c.first > sample && warm > 0) continue;
      c.first = std::min(c.first, seconds(i, 1));
      best = std::min(best, c.first);
    }
  }
  const auto begin = Clock::now();
  for (std::size_t round = 0; round < rounds; ++round) {
    if (round >= rounds_at_least && Seconds(Clock::now() - begin).count() > budget) break;
    for (std::size_t i = 0; i < count; ++i) {
      Candidate& c = candidates[i];
      if (c.first > hopeless * best && c.first > sample) continue;
      if (round == 0) c.calls = static_cast<int>(std::clamp(sample / c.first, 1.0, 100.0));
      c.samples.push_back(seconds(i, c.calls));
    }
  }
  std::vector<double> result;
  for (Candidate& c : candidates) result.push_back(c.samples.empty() ? c.first : c.median());
  return result;
}

}  // namespace bench
