// SPDX-License-Identifier: MIT
//
// layers/  HydraLoRA of rank r with N heads, SplitLoRA with the same heads, and LoRA at the same rank r, of the same
//          size in parameters, and of the same total rank r·N. Names carry HydraLoRA's r and N.
// peers/   Ours against what other people's code would do, on the same numbers in the same rotation. Candidates are
//          named as in peers(); ours is the library's layer. Nobody holds packed weights from call to call, as in
//          training, where they change; the peers may have theirs in the row or column order that is fastest for them.
// numbers/ The same layer in float and in 16 bits, a set of its own. Errors are against double on numbers that are
//          rounded already.
#include <algorithm>
#include <cmath>
#include <map>

#include "adapters.hpp"
#include "harness.hpp"
#include "peers.hpp"

namespace bench {
namespace {

enum class Pass { forward, forward_backward, training_step };
constexpr const char* pass_names[] = {"forward", "forward_backward", "training_step"};

/// What a pass has to move and compute at least. In the order of the formulas: the parameters, x and y; then the
/// parameters, x, dy, dx and the gradients. The few numbers per token between the stacks stay in the caches. In AdamW
/// 15 flop per number; gradients are set to zero and read, parameters and both moments updated.
Work work_of(Pass pass, const Shape& s, double parameters) {
  constexpr double size = sizeof(float);
  const auto tokens = static_cast<double>(s.tokens), in = static_cast<double>(s.in), out = static_cast<double>(s.out);
  const Work forward{2 * tokens * parameters, size * (parameters + tokens * in), size * tokens * out,
                     size * (parameters + tokens * (in + out))};
  if (pass == Pass::forward) return forward;
  const Work both =
      forward.then({4 * tokens * parameters, size * (parameters + tokens * (in + out)),
                    size * (parameters + tokens * in), size * (2 * parameters + tokens * (2 * in + 2 * out))});
  if (pass == Pass::forward_backward) return both;
  return both.then({15 * parameters, size * parameters, 4 * size * parameters, 4 * size * parameters});
}

/// Whether a pass in double takes less than about a second, at ten multiply-adds a nanosecond.
bool double_is_quick(const Work& work) { return work.flop < 2e10; }

Candidate our_candidate(LayerKind kind, const Shape& s, Pass pass, Numbers numbers = Numbers::float32) {
  const auto problem_of = [=] {
    return numbers == Numbers::float32 ? problem(s) : std::make_shared<const Problem>(rounded(*problem(s), numbers));
  };
  const std::shared_ptr<Adapter> adapter = make_adapter(kind, *problem_of(), numbers);
  Candidate result;
  result.parameters = static_cast<double>(adapter->parameters());
  result.work = work_of(pass, s, result.parameters);
  result.saved_bytes = static_cast<double>(sizeof(float)) * static_cast<double>(s.tokens * adapter->saved_rows());
  result.call = [adapter, pass] {
    if (pass == Pass::training_step) return adapter->training_step();
    adapter->forward();
    if (pass == Pass::forward_backward) adapter->backward();
  };
  if (pass != Pass::training_step && double_is_quick(result.work)) {  // a step's are the gradients' errors again
    result.error = [=, backward = pass == Pass::forward_backward] {
      const std::shared_ptr<const Problem> p = problem_of();
      return largest_error(make_adapter(kind, *p, numbers)->results(backward), results_in_double(kind, *p, backward));
    };
  }
  return result;
}

/// LoRA of as many parameters as a HydraLoRA, to the nearest.
Index equal_size_rank(const Shape& s) {
  const auto hydra = static_cast<double>((s.rank + s.heads) * s.in + s.rank * s.heads * s.out);
  return std::max<Index>(1, std::lround(hydra / static_cast<double>(s.in + s.out)));
}

void add_layers(const std::string& set, const Shape& s, Pass pass, int threads, bool all_layers = true) {
  const auto add_one = [&](const char* name, LayerKind kind, const Shape& sizes) {
    const std::string full = set + "/layers/" + name + "/" + pass_names[static_cast<int>(pass)] + "/" + s.text();
    add(full, threads, [=] { return our_candidate(kind, sizes, pass); });
  };
  const auto lora = [&](Index rank) { return Shape{s.tokens, s.in, s.out, rank, 0}; };
  add_one("HydraLoRA", LayerKind::hydra_lora, s);
  add_one("LoRA_equal_parameters", LayerKind::lora, lora(equal_size_rank(s)));
  add_one("LoRA_equal_total_rank", LayerKind::lora, lora(s.rank * s.heads));
  if (!all_layers) return;
  add_one("LoRA_equal_rank", LayerKind::lora, lora(s.rank));
  add_one("SplitLoRA", LayerKind::split_lora, s);
}

/// A peer with its problem and the gradients it adds to; y and dx are large, and only there during a run.
struct Host {
  Host(const PeerKind& kind, const Shape& shape) : numbers(problem(shape)), peer(kind.make(*numbers)) { set_zero(); }
  void set_zero() {
    dA.setZero(numbers->A.rows(), numbers->in);
    dgate.setZero(numbers->heads, numbers->in);
    dB.setZero(numbers->out, numbers->B.cols());
  }
  void pass(Matrix& y, Matrix& dx, bool backward) {
    peer->forward(y);
    if (backward) peer->backward(dA, dgate, dB, dx);
  }
  Results results(bool backward) {
    Matrix y = Matrix::Zero(numbers->out, numbers->tokens), dx = Matrix::Zero(numbers->in, numbers->tokens);
    set_zero();
    pass(y, dx, backward);
    if (!backward) return {y.cast<double>(), {}, {}, {}};
    Matrix down(dA.rows() + dgate.rows(), numbers->in);
    down << dA, dgate;
    return {y.cast<double>(), dx.cast<double>(), down.cast<double>(), dB.cast<double>()};
  }
  std::shared_ptr<const Problem> numbers;
  std::unique_ptr<Peer> peer;
  Matrix dA, dgate, dB;
};

/// Some peers take a second to find their fastest ways for a problem and a number of threads, so those of the selection
/// stay; larger sets would fill the memory.
std::shared_ptr<Host> host_of(const PeerKind& kind, const Shape& s, int threads, bool selected) {
  if (!selected) return std::make_shared<Host>(kind, s);
  static std::map<std::string, std::shared_ptr<Host>> hosts;
  std::shared_ptr<Host>& host = hosts[kind.name + " " + s.text() + " " + std::to_string(threads)];
  if (host == nullptr) host = std::make_shared<Host>(kind, s);
  return host;
}

Candidate their_candidate(const std::shared_ptr<Host>& host, LayerKind layer, Pass pass) {
  const Problem& p = *host->numbers;
  const auto y = std::make_shared<Matrix>(Matrix::Zero(p.out, p.tokens));
  const auto dx = std::make_shared<Matrix>(Matrix::Zero(p.in, p.tokens));
  const bool backward = pass == Pass::forward_backward;
  Candidate candidate;
  candidate.work = work_of(pass, p, static_cast<double>(p.A.size() + p.gate.size() + p.B.size()));
  candidate.call = [=] { host->pass(*y, *dx, backward); };
  if (double_is_quick(candidate.work)) {
    candidate.error = [=] {
      return largest_error(host->results(backward), results_in_double(layer, *host->numbers, backward));
    };
  }
  return candidate;
}

void add_peers(const std::string& set, const Shape& s, Pass pass, int threads) {
  const LayerKind layer = s.routed() ? LayerKind::hydra_lora : LayerKind::lora;
  const auto name = [&](const std::string& candidate) {
    return set + "/peers/" + candidate + (s.routed() ? "/HydraLoRA_" : "/LoRA_") + pass_names[static_cast<int>(pass)] +
           "/" + s.text();
  };
  add(name("ours"), threads, [=] { return our_candidate(layer, s, pass); });
  for (const PeerKind& kind : peers()) {
    if (!kind.missing.empty()) continue;
    add(name(kind.name), threads, [=, &kind, selected = set == "select"] {
      return their_candidate(host_of(kind, s, threads, selected), layer, pass);
    });
  }
}

}  // namespace

void register_layers() {
  constexpr Pass passes[] = {Pass::forward, Pass::forward_backward, Pass::training_step};
  for (const int threads : thread_counts()) {
    for (const Pass pass : passes) add_layers("select", centre, pass, threads);
  }
  for (const Shape& s : one_at_a_time()) {
    if (s.in != s.out || s.rank != centre.rank) continue;
    add_layers("select", s, Pass::forward, 1, false);
    add_layers("select", s, Pass::forward_backward, 1, false);
  }
  for (const int threads : thread_counts()) {
    for (const Pass pass : passes) {
      for (const Shape& s : one_at_a_time()) add_layers("sweep", s, pass, threads);
    }
  }
}

void register_numbers() {
  constexpr Index d = 4096;
  const auto add_all = [](const Shape& s, Pass pass) {
    const LayerKind kind = s.routed() ? LayerKind::hydra_lora : LayerKind::lora;
    for (const Numbers numbers : {Numbers::float32, Numbers::bfloat16, Numbers::half, Numbers::mixed}) {
      const std::string name = numbers_names[static_cast<int>(numbers)];
      const std::string work = std::string(s.routed() ? "HydraLoRA_" : "LoRA_") + pass_names[static_cast<int>(pass)];
      add("bits/numbers/" + name + "/" + work + "/" + s.text(), 1,
          [=] { return our_candidate(kind, s, pass, numbers); });
    }
  };
  for (const Pass pass : {Pass::forward, Pass::forward_backward}) {
    for (const Index tokens : {1, 16, 512}) add_all({tokens, d, d, 8, 8}, pass);
    add_all({2048, d, d, 8, 0}, pass);
  }
}

void register_peers() {
  constexpr Index d = 4096;
  const Shape one_thread[] = {
      {2048, d, d, 8, 8}, {2048, d, d, 8, 3}, {512, 1024, 1024, 8, 8}, {512, d, d, 8, 0}, {512, d, d, 64, 0}};
  const Shape both[] = {
      {512, d, d, 8, 8}, {512, d, d, 8, 3}, {512, d, d, 16, 8}, {512, d, d, 64, 4}, {2048, d, d, 8, 0}};
  for (const int threads : thread_counts()) {
    for (const Pass pass : {Pass::forward, Pass::forward_backward}) {
      for (const Shape& s : both) add_peers("select", s, pass, threads);
      for (const Shape& s : one_thread) add_peers(threads == 1 ? "select" : "sweep", s, pass, threads);
      for (const Index tokens : {1, 2, 4, 8, 16}) {
        const bool selected = pass == Pass::forward && threads == 1;
        add_peers(selected ? "select" : "sweep", {tokens, d, d, 8, 8}, pass, threads);
        add_peers("sweep", {tokens, d, d, 8, 3}, pass, threads);
      }
      for (const Shape& s : one_at_a_time()) add_peers("sweep", s, pass, threads);
    }
  }
}

}  // namespace bench
