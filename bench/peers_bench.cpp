// SPDX-License-Identifier: MIT
//
// Ours against what other people's code would do, on the same numbers in the same rotation. Candidates are named as in
// peers(); ours is the library's layer. Nobody keeps packed weights from call to call, as in training, where they change;
// the peers may have theirs in the row or column order that is fastest for them.
#include <map>

#include "groups.hpp"
#include "machine.hpp"
#include "shapes.hpp"
#include "twin.hpp"

namespace bench {
namespace {

/// HydraLoRA of a Shape, or LoRA where it has no heads.
struct Task {
  Shape shape;
  bool backward;

  bool routed() const { return shape.heads > 0; }
  std::shared_ptr<const Problem> shared_numbers() const {
    return shared_problem(shape.tokens, shape.in, shape.out, shape.rank, std::max<Index>(shape.heads, 1), routed());
  }
  const Problem& numbers() const { return *shared_numbers(); }
  /// peers/<candidate>/<layer>_<pass>/<shape>
  std::string name(const std::string& candidate) const {
    return "/peers/" + candidate + (routed() ? "/HydraLoRA_" : "/LoRA_") +
           (backward ? "forward_backward/" : "forward/") + text(shape);
  }
  Work work() const {
    const Problem& p = numbers();
    const auto tokens = static_cast<double>(p.tokens), in = static_cast<double>(p.in), out = static_cast<double>(p.out);
    const auto parameters = static_cast<double>(p.A.size() + p.gate.size() + p.B.size());
    const Work forward = forward_work(tokens, in, out, parameters);
    return backward ? forward.then(backward_work(tokens, in, out, parameters)) : forward;
  }
  Results expected() const {
    return routed() ? results_of<hydralora::HydraLoRA<double>>(numbers(), backward)
                    : results_of<hydralora::LoRA<double>>(numbers(), backward);
  }
};

template <class Layer>
Candidate ours(const Task& task) {
  const auto adapter = std::make_shared<Adapter<Layer>>(task.numbers());
  Candidate candidate;
  candidate.work = task.work();
  candidate.parameters = static_cast<double>(adapter->layer.parameter_count());
  candidate.bytes_kept =
      static_cast<double>(sizeof(float)) * static_cast<double>(task.shape.tokens * adapter->layer.shape().kept_rows());
  candidate.call = [adapter, backward = task.backward] {
    adapter->forward();
    if (backward) adapter->backward();
  };
  if (twin_is_quick(candidate.work)) {
    candidate.error = [task] {
      return largest_error(results_of<Layer>(task.numbers(), task.backward), task.expected());
    };
  }
  return candidate;
}

/// A peer with its problem and the gradients it adds to; y and dx are large, and only there during a run.
struct Host {
  Host(const PeerKind& kind, std::shared_ptr<const Problem> numbers) : problem(std::move(numbers)) {
    peer = kind.make(*problem);
    set_zero();
  }
  void set_zero() {
    dA.setZero(problem->A.rows(), problem->A.cols());
    dgate.setZero(problem->gate.rows(), problem->gate.cols());
    dB.setZero(problem->B.rows(), problem->B.cols());
  }
  void pass(Matrix& y, Matrix& dx, bool backward) {
    peer->forward(y);
    if (backward) peer->backward(dA, dgate, dB, dx);
  }
  Results results(bool backward) {
    Matrix y = Matrix::Zero(problem->out, problem->tokens), dx = Matrix::Zero(problem->in, problem->tokens);
    set_zero();
    pass(y, dx, backward);
    Results r;
    r.y = y.cast<double>();
    if (!backward) return r;
    r.dx = dx.cast<double>();
    r.down.resize(dA.rows() + dgate.rows(), dA.cols());
    r.down.topRows(dA.rows()) = dA.cast<double>();
    r.down.bottomRows(dgate.rows()) = dgate.cast<double>();
    r.up = dB.cast<double>();
    return r;
  }
  std::shared_ptr<const Problem> problem;
  std::unique_ptr<Peer> peer;
  Matrix dA, dgate, dB;
};

/// Some peers take a second to find their fastest ways for a problem and a number of threads, so the selection keeps
/// them; larger sets would fill the memory.
std::shared_ptr<Host> host_of(const PeerKind& kind, const Task& task, int threads, bool keep) {
  if (!keep) return std::make_shared<Host>(kind, task.shared_numbers());
  static std::map<std::string, std::shared_ptr<Host>> kept;
  std::shared_ptr<Host>& host =
      kept[kind.name + (task.routed() ? " HydraLoRA " : " LoRA ") + text(task.shape) + " " + std::to_string(threads)];
  if (host == nullptr) host = std::make_shared<Host>(kind, task.shared_numbers());
  return host;
}

Candidate theirs(const Task& task, const std::shared_ptr<Host>& host) {
  struct Batch {
    Matrix y, dx;
  };
  const auto batch = std::make_shared<Batch>();
  batch->y.setZero(host->problem->out, host->problem->tokens);
  batch->dx.setZero(host->problem->in, host->problem->tokens);
  Candidate candidate;
  candidate.work = task.work();
  candidate.call = [host, batch, backward = task.backward] { host->pass(batch->y, batch->dx, backward); };
  if (twin_is_quick(candidate.work)) {
    candidate.error = [task, host] { return largest_error(host->results(task.backward), task.expected()); };
  }
  return candidate;
}

void add_all(const std::string& set, const Task& task, int threads) {
  add(set + task.name("ours"), threads,
      [task] { return task.routed() ? ours<hydralora::HydraLoRA<float>>(task) : ours<hydralora::LoRA<float>>(task); });
  for (const PeerKind& kind : peers()) {
    if (!kind.missing.empty()) continue;
    add(set + task.name(kind.name), threads,
        [task, &kind, threads, keep = set == "select"] { return theirs(task, host_of(kind, task, threads, keep)); });
  }
}

}  // namespace

void register_peers() {
  const std::vector<Shape> one_thread{{2048, 4096, 4096, 8, 8},
                                      {2048, 4096, 4096, 8, 3},
                                      {512, 1024, 1024, 8, 8},
                                      {512, 4096, 4096, 8, 0},
                                      {512, 4096, 4096, 64, 0}};
  const std::vector<Shape> both{{512, 4096, 4096, 8, 8},
                                {512, 4096, 4096, 8, 3},
                                {512, 4096, 4096, 16, 8},
                                {512, 4096, 4096, 64, 4},
                                {2048, 4096, 4096, 8, 0}};
  const std::vector<Index> few_tokens{1, 2, 4, 8, 16};
  for (const int threads : thread_counts()) {
    for (const bool backward : {false, true}) {
      for (const Shape& s : both) add_all("select", {s, backward}, threads);
      for (const Shape& s : one_thread) add_all(threads == 1 ? "select" : "sweep", {s, backward}, threads);
      for (const Index tokens : few_tokens) {
        const bool selected = !backward && threads == 1;
        add_all(selected ? "select" : "sweep", {{tokens, 4096, 4096, 8, 8}, backward}, threads);
        add_all("sweep", {{tokens, 4096, 4096, 8, 3}, backward}, threads);
      }
      for (const Shape& s : one_at_a_time()) add_all("sweep", {s, backward}, threads);
      for (const Shape& s : all_combinations()) add_all("full", {s, backward}, threads);
    }
  }
}

}  // namespace bench
