// SPDX-License-Identifier: MIT
//
// The layers against each other: HydraLoRA of rank r with N heads, SplitLoRA with the same heads, and LoRA at the same
// rank r, of the same size in parameters, and of the same total rank r·N. Names carry HydraLoRA's r and N.
#include <hydralora/train/adamw.hpp>

#include <cmath>

#include "groups.hpp"
#include "machine.hpp"
#include "shapes.hpp"
#include "twin.hpp"

namespace bench {
namespace {

using hydralora::HydraLoRA;
using hydralora::LoRA;
using hydralora::SplitLoRA;

enum class Pass { forward, forward_backward, training_step };
const char* text(Pass pass) {
  return pass == Pass::forward ? "forward" : pass == Pass::forward_backward ? "forward_backward" : "training_step";
}

/// An adapter in training: gradients set to zero, forward, backward, AdamW.
template <class Layer>
struct Training : Adapter<Layer> {
  explicit Training(const Problem& p)
      : Adapter<Layer>(p), optimiser({{this->layer.parameters(), this->gradients.parameters(), 1e-4, 0.01}}) {}
  void step() {
    this->gradients.set_zero();
    this->forward();
    this->backward();
    optimiser.step();
  }
  hydralora::AdamW<float> optimiser;
};

template <template <class> class Layer>
Candidate candidate(const Problem& p, Pass pass) {
  const auto adapter = std::make_shared<Training<Layer<float>>>(p);
  const auto tokens = static_cast<double>(p.tokens), in = static_cast<double>(p.in), out = static_cast<double>(p.out);
  Candidate result;
  result.parameters = static_cast<double>(adapter->layer.parameter_count());
  result.work = forward_work(tokens, in, out, result.parameters);
  if (pass != Pass::forward) result.work = result.work.then(backward_work(tokens, in, out, result.parameters));
  if (pass == Pass::training_step) result.work = result.work.then(adamw_work(result.parameters));
  result.bytes_kept = sizeof(float) * tokens * static_cast<double>(adapter->layer.shape().kept_rows());
  result.call = [adapter, pass] {
    if (pass == Pass::training_step) return adapter->step();
    adapter->forward();
    if (pass == Pass::forward_backward) adapter->backward();
  };
  if (pass != Pass::training_step && twin_is_quick(result.work)) {  // a step's are the gradients' errors again
    result.error = [&p, backward = pass == Pass::forward_backward] {
      return largest_error(results_of<Layer<float>>(p, backward), results_of<Layer<double>>(p, backward));
    };
  }
  return result;
}

const Problem& lora_problem(const Shape& s, Index rank) { return problem(s.tokens, s.in, s.out, rank, 1, false); }
const Problem& hydra_problem(const Shape& s) { return problem(s.tokens, s.in, s.out, s.rank, s.heads, true); }

/// The rank at which LoRA is as large as HydraLoRA, to the nearest.
Index equal_size_rank(const Shape& s) {
  const auto hydra = static_cast<double>((s.rank + s.heads) * s.in + s.rank * s.heads * s.out);
  return std::max<Index>(1, std::lround(hydra / static_cast<double>(s.in + s.out)));
}

void add_all(const std::string& set, const Shape& s, Pass pass, int threads, bool all_layers = true) {
  const auto add_one = [&](const char* name, const std::function<Candidate()>& make) {
    add(set + "/layers/" + name + "/" + text(pass) + "/" + text(s), threads, make);
  };
  add_one("HydraLoRA", [=] { return candidate<HydraLoRA>(hydra_problem(s), pass); });
  add_one("LoRA_equal_parameters", [=] { return candidate<LoRA>(lora_problem(s, equal_size_rank(s)), pass); });
  add_one("LoRA_equal_total_rank", [=] { return candidate<LoRA>(lora_problem(s, s.rank * s.heads), pass); });
  if (!all_layers) return;
  add_one("LoRA_equal_rank", [=] { return candidate<LoRA>(lora_problem(s, s.rank), pass); });
  add_one("SplitLoRA", [=] { return candidate<SplitLoRA>(hydra_problem(s), pass); });
}

}  // namespace

void register_layers() {
  constexpr Pass passes[] = {Pass::forward, Pass::forward_backward, Pass::training_step};
  for (const int threads : thread_counts()) {
    for (const Pass pass : passes) add_all("select", centre, pass, threads);
  }
  for (const Shape& s : one_at_a_time()) {
    if (s.in != s.out || s.rank != centre.rank) continue;
    add_all("select", s, Pass::forward, 1, false);
    add_all("select", s, Pass::forward_backward, 1, false);
  }
  for (const char* set : {"sweep", "full"}) {
    for (const Shape& s : set == std::string("full") ? all_combinations() : one_at_a_time()) {
      for (const int threads : thread_counts()) {
        for (const Pass pass : passes) add_all(set, s, pass, threads);
      }
    }
  }
}

}  // namespace bench
