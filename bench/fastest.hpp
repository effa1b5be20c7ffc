// SPDX-License-Identifier: MIT
//
// Which of several ways to do the same is the fastest here and now.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <vector>

namespace bench {

/// Calls run(i), i < count, in rotation, so that all meet the same caches and the same neighbours, and returns the i with
/// the smallest median. What is far behind after the first rounds is not tried again.
template <class Run>
std::size_t index_of_fastest(std::size_t count, Run&& run) {
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
  std::size_t winner = 0;
  double smallest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < count; ++i) {
    if (candidates[i].samples.empty()) continue;
    const double median = candidates[i].median();
    if (median < smallest) {
      smallest = median;
      winner = i;
    }
  }
  return winner;
}

}  // namespace bench
