// SPDX-License-Identifier: MIT
#include "goals.hpp"

#include <functional>

namespace report {
namespace {

using Measure = std::function<std::optional<Spread>(int threads)>;
struct Goal {
  std::string what;
  double floor, aim;
  Measure measure;
};

const char* const forward = "HydraLoRA_forward";
const char* const both = "HydraLoRA_forward_backward";
const char* const main_size = "T:512/d:4096/r:8/N:8";
const char* const three_heads = "T:512/d:4096/r:8/N:3";

std::vector<Goal> goals(const Results& results) {
  const auto counter = [&results](const char* pass, const std::string& sizes, const char* name) -> Measure {
    return [=, &results](int threads) -> std::optional<Spread> {
      const Run* run = results.find("peers", "ours", pass, sizes, threads);
      return run == nullptr ? std::nullopt : run->counter(name);
    };
  };
  const auto against = [&results](const char* candidate, const char* pass, const std::string& sizes) -> Measure {
    return [=, &results](int threads) -> std::optional<Spread> {
      const Run* run = results.find("peers", "ours", pass, sizes, threads);
      return run == nullptr ? std::nullopt : results.slower(*run, candidate);
    };
  };
  const auto two_over_one = [&results](const char* pass) -> Measure {
    return [=, &results](int threads) -> std::optional<Spread> {
      const Run* one = results.find("peers", "ours", pass, main_size, 1);
      const Run* two = results.find("peers", "ours", pass, main_size, 2);
      if (threads != 2 || one == nullptr || two == nullptr) return std::nullopt;
      return ratio(two->counters.at("percent_of_peak"), one->counters.at("percent_of_peak"));
    };
  };

  std::vector<Goal> list{
      {"forward, T=512 d=4096 r=8 N=8, % of peak", 65, 85, counter(forward, main_size, "percent_of_peak")},
      {"forward and backward, same, % of peak", 62, 80, counter(both, main_size, "percent_of_peak")},
      {"forward, N=3, % of peak", 50, 70, counter(forward, three_heads, "percent_of_peak")},
      {"forward, N=3, against the best composition", 1.25, 1.5, against("best", forward, three_heads)},
      {"forward, N=8, against the released formulation", 9, 12, against("torch_released", forward, main_size)},
      {"forward and backward, N=8, against the released formulation", 9, 12,
       against("torch_released", both, main_size)},
      {"forward, N=3, against the released formulation", 6, 9, against("torch_released", forward, three_heads)},
      {"forward and backward, N=3, against the released formulation", 6, 9,
       against("torch_released", both, three_heads)},
      {"forward, against smart torch", 1.3, 1.8, against("torch_smart", forward, main_size)},
      {"forward and backward, against smart torch", 1.4, 2, against("torch_smart", both, main_size)},
      {"forward, against Eigen", 1.2, 1.6, against("eigen", forward, main_size)},
      {"forward and backward, against Eigen", 1.2, 1.6, against("eigen", both, main_size)},
      {"forward and backward, r·N = 64, against the best composition", 1, 1.2, against("best", both, main_size)},
      {"forward and backward, r=16 N=8, against the best composition", 0.95, 1.1,
       against("best", both, "T:512/d:4096/r:16/N:8")},
      {"forward and backward, r=64 N=4, against the best composition", 0.95, 1.1,
       against("best", both, "T:512/d:4096/r:64/N:4")},
      {"LoRA forward, T=2048 d=4096 r=8, % of roofline", 65, 90,
       counter("LoRA_forward", "T:2048/d:4096/r:8/N:0", "percent_of_roofline")},
      {"one token, d=4096 r=8 N=8, % of roofline", 70, 90,
       counter(forward, "T:1/d:4096/r:8/N:8", "percent_of_roofline")},
  };
  for (const char* tokens : {"2", "4", "8", "16"}) {
    const std::string sizes = "T:" + std::string(tokens) + "/d:4096/r:8/N:8", what = std::string(tokens) + " tokens, ";
    // One measurement for both goals: a few tokens read the weights where they lie, and nothing is packed that could be kept.
    list.push_back({what + "against the best composition, weights ready", 1.5, 2.5, against("best", forward, sizes)});
    list.push_back(
        {what + "against the best composition, weights changed every call", 1.1, 1.6, against("best", forward, sizes)});
  }
  list.push_back({"forward, two threads over one, as a share of the peak's", 0.9, 0.97, two_over_one(forward)});
  list.push_back(
      {"forward and backward, two threads over one, as a share of the peak's", 0.9, 0.97, two_over_one(both)});
  return list;
}

std::string verdict(const Goal& goal, const std::optional<Spread>& measured) {
  if (!measured) return "–";
  const char* reached = measured->median >= goal.aim     ? ", aim reached"
                        : measured->median >= goal.floor ? ", floor reached"
                                                         : ", **below the floor**";
  return text(*measured) + reached;
}

}  // namespace

void write_goals(std::ostream& out, const Results& results) {
  out << "| goal | floor | aim | one thread | two threads |\n|---|---|---|---|---|\n";
  for (const Goal& goal : goals(results)) {
    out << "| " << goal.what << " | " << text(goal.floor) << " | " << text(goal.aim) << " | "
        << verdict(goal, goal.measure(1)) << " | " << verdict(goal, goal.measure(2)) << " |\n";
  }
  const Run* run = results.find("peers", "ours", both, main_size, 1);
  const auto kept = run == nullptr ? std::nullopt : run->counter("bytes_kept");
  if (kept) {
    const double numbers = kept->median / (4 * run->size("T")), wanted = run->size("r") + run->size("N");
    out << "| numbers kept for backward per token, r=8 N=8 | r + N = " << text(wanted) << " | r + N | " << text(numbers)
        << (numbers <= wanted ? ", reached" : ", **missed**") << " | the same |\n";
  }
}

}  // namespace report
