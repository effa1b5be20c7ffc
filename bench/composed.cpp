// SPDX-License-Identifier: MIT
//
// An adapter out of GEMM products, as somebody would write it who has a fast BLAS and no fused kernels.
#include <hydralora/core/parallel.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "peers.hpp"

namespace bench {
namespace {

/// Seconds that run(i) takes, for every i < count: medians of calls in rotation, so that all meet the same caches and
/// the same neighbours. What is far behind after the first calls is not tried again and has their time.
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

/// HydraLoRA (LoRA where not routed) as six products and the mixing between them:
///
///   P = [A; G] x    ω = softmax, u_i = ω_i h    y += s B u
///   V = s Bᵀ dy     dB += s dy uᵀ               dh, dℓ from V      [dA; dG] += [dh; dℓ] xᵀ     dx += [A; G]ᵀ [dh; dℓ]
///
/// Everything is allocated in the constructor, which also times each product on this problem, at the present number of
/// threads, with each of the libraries and both layouts of the weights. Forward and backward then run on the fastest
/// for each product, or all on one library where that is faster still (a product alone finds warmer caches). That both
/// layouts are there, without anybody paying for them when weights change, is in the peers' favour.
class ComposedPeer final : public Peer {
 public:
  ComposedPeer(const Problem& problem, const std::vector<ProductLibrary>& libraries);

  void forward(Matrix& y) override;
  void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) override;

 private:
  enum Step { project, expand_up, shrink_up, accumulate_up, accumulate_down, expand_down, steps };
  struct Choice {
    std::string library;
    const Products* products;
    Layout layout;
  };
  using Choices = std::array<Choice, steps>;
  struct Outputs {
    Matrix *y, *dA, *dgate, *dB, *dx;
  };

  StackShape down_shape(Layout layout) const { return {layout, problem_.in, problem_.rank + problem_.gate.rows()}; }
  StackShape up_shape(Layout layout) const { return {layout, problem_.out, problem_.B.cols()}; }
  std::vector<Choice> candidates(Step step, const std::vector<ProductLibrary>& libraries) const;
  void choose(const std::vector<ProductLibrary>& libraries);
  void follow_threads() const;
  void run(Step step, const Outputs& to) { run(step, choices_[step], to); }
  void run(Step step, const Choice& choice, const Outputs& to);
  void add_down_gradient(const Choice& choice, Matrix& dA, Matrix& dgate);
  void mix();
  void unmix();

  const Problem& problem_;
  std::array<Matrix, 2> down_, up_;  // by layout
  Matrix p_, omega_, u_, v_, dp_;    // columns are tokens; unrouted, u is p and dp is v
  Matrix down_gradient_;
  Choices choices_{};
};

/// [A; gate] as rows × in, and its transpose.
std::array<Matrix, 2> both_layouts(const Matrix& wide) { return {Matrix(wide.transpose()), wide}; }

Matrix stacked(const Problem& p) {
  Matrix down(p.rank + p.gate.rows(), p.in);
  down << p.A, p.gate;
  return down;
}

/// f(first, count) for slices of the tokens, on all threads. The work of mixing is many small operations of unknown
/// speed: counted as 16 flop for every number read.
template <class Function>
void for_token_slices(Index tokens, Index numbers, Function&& f) {
  constexpr Index slice = 32;
  hydralora::parallel_for((tokens + slice - 1) / slice, 16 * tokens * numbers,
                          [&](Index i) { f(i * slice, std::min(slice, tokens - i * slice)); });
}

std::size_t at(Layout layout) { return layout == Layout::tall ? 0 : 1; }

ComposedPeer::ComposedPeer(const Problem& problem, const std::vector<ProductLibrary>& libraries)
    : problem_(problem), down_(both_layouts(stacked(problem))), up_(both_layouts(problem.B.transpose())) {
  const Index rows = problem.rank + problem.gate.rows();
  p_.setConstant(rows, problem.tokens, 0.5F);
  down_gradient_.setZero(rows, problem.in);
  v_.setConstant(problem.B.cols(), problem.tokens, 0.5F);
  if (problem.routed()) {
    dp_ = p_;
    u_ = v_;
    omega_.setZero(problem.heads, problem.tokens);
  }
  choose(libraries);
}

void ComposedPeer::forward(Matrix& y) {
  follow_threads();
  const Outputs to{&y, nullptr, nullptr, nullptr, nullptr};
  run(project, to);
  if (problem_.routed()) mix();
  run(expand_up, to);
}

void ComposedPeer::backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) {
  follow_threads();
  const Outputs to{nullptr, &dA, &dgate, &dB, &dx};
  run(shrink_up, to);
  run(accumulate_up, to);
  if (problem_.routed()) unmix();
  run(accumulate_down, to);
  run(expand_down, to);
}

std::vector<ComposedPeer::Choice> ComposedPeer::candidates(Step step,
                                                           const std::vector<ProductLibrary>& libraries) const {
  std::vector<Choice> all;
  for (const ProductLibrary& library : libraries) {
    for (const Layout layout : {Layout::tall, Layout::wide}) {
      if (step == accumulate_up && layout == Layout::wide) continue;  // dB lies tall, and turning it costs too much
      if (library.gemm != nullptr) all.push_back({library.name, library.gemm, layout});
      if (library.gemv != nullptr && problem_.tokens == 1 && step != accumulate_up && step != accumulate_down) {
        all.push_back({library.name, library.gemv, layout});
      }
    }
  }
  return all;
}

void ComposedPeer::choose(const std::vector<ProductLibrary>& libraries) {
  const Problem& p = problem_;
  Matrix y = Matrix::Zero(p.out, p.tokens), dx = Matrix::Zero(p.in, p.tokens), dA = Matrix::Zero(p.rank, p.in);
  Matrix dgate = Matrix::Zero(p.gate.rows(), p.in), dB = Matrix::Zero(p.out, p.B.cols());
  const Outputs scratch{&y, &dA, &dgate, &dB, &dx};

  std::vector<Choices> plans(1);  // the fastest for each product, then the fastest of each library
  std::vector<std::string> names{""};
  for (const ProductLibrary& library : libraries) {
    if (library.gemm == nullptr) continue;
    library.gemm->follow_threads();
    names.push_back(library.name);
    plans.emplace_back();
  }
  for (std::size_t step = 0; step < steps; ++step) {
    const auto all = candidates(static_cast<Step>(step), libraries);
    const auto seconds =
        seconds_in_rotation(all.size(), [&](std::size_t i) { run(static_cast<Step>(step), all[i], scratch); });
    for (std::size_t plan = 0; plan < plans.size(); ++plan) {
      double best = std::numeric_limits<double>::infinity();
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (seconds[i] >= best || (!names[plan].empty() && all[i].library != names[plan])) continue;
        best = seconds[i];
        plans[plan][step] = all[i];
      }
    }
  }

  const auto fastest_plan = [&](auto&& pass) {
    const auto seconds = seconds_in_rotation(plans.size(), [&](std::size_t i) {
      choices_ = plans[i];
      pass();
    });
    return plans[static_cast<std::size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin())];
  };
  const Choices forwards = fastest_plan([&] { forward(y); });
  const Choices backwards = fastest_plan([&] { backward(dA, dgate, dB, dx); });
  choices_ = backwards;
  std::copy_n(forwards.begin(), shrink_up, choices_.begin());
}

void ComposedPeer::follow_threads() const {
  for (const Choice& choice : choices_) choice.products->follow_threads();
}

void ComposedPeer::run(Step step, const Choice& choice, const Outputs& to) {
  const Products& products = *choice.products;
  const StackShape down = down_shape(choice.layout), up = up_shape(choice.layout);
  const float* const down_weights = down_[at(choice.layout)].data();
  const float* const up_weights = up_[at(choice.layout)].data();
  const Matrix& u = problem_.routed() ? u_ : p_;
  const Matrix& dp = problem_.routed() ? dp_ : v_;
  const Index tokens = problem_.tokens;
  const float s = problem_.scaling;
  switch (step) {
    case project:
      return products.shrink(down, down_weights, problem_.x.data(), tokens, 1, p_.data());
    case expand_up:
      return products.expand(up, up_weights, u.data(), tokens, s, to.y->data());
    case shrink_up:
      return products.shrink(up, up_weights, problem_.dy.data(), tokens, s, v_.data());
    case accumulate_up:
      return products.accumulate(up, u.data(), problem_.dy.data(), tokens, s, /*add=*/true, to.dB->data());
    case accumulate_down:
      return add_down_gradient(choice, *to.dA, *to.dgate);
    case expand_down:
      return products.expand(down, down_weights, dp.data(), tokens, 1, to.dx->data());
    case steps:
      break;
  }
}

/// One product for dA and dG together, so that x is read once; only LoRA's can go straight to where it belongs.
void ComposedPeer::add_down_gradient(const Choice& choice, Matrix& dA, Matrix& dgate) {
  const StackShape shape = down_shape(choice.layout);
  const Matrix& dp = problem_.routed() ? dp_ : v_;
  const bool direct = !problem_.routed() && choice.layout == Layout::wide;
  float* const to = direct ? dA.data() : down_gradient_.data();
  choice.products->accumulate(shape, dp.data(), problem_.x.data(), problem_.tokens, 1, direct, to);
  if (direct) return;
  if (choice.layout == Layout::wide) {
    dA += down_gradient_.topRows(problem_.rank);
    dgate += down_gradient_.bottomRows(dgate.rows());
  } else {
    const Eigen::Map<const Matrix> tall(down_gradient_.data(), shape.features, shape.rows);
    dA += tall.leftCols(problem_.rank).transpose();
    dgate += tall.rightCols(dgate.rows()).transpose();
  }
}

/// ω = softmax of P's lower rows; u_i = ω_i h. The exponentials of a slice of tokens run as one vector.
void ComposedPeer::mix() {
  const Index rank = problem_.rank, heads = problem_.heads;
  for_token_slices(problem_.tokens, u_.rows(), [&](Index first, Index count) {
    for (Index t = first; t < first + count; ++t) {
      const auto logits = p_.col(t).tail(heads);
      omega_.col(t) = logits.array() - logits.maxCoeff();
    }
    auto omega = omega_.middleCols(first, count).array();
    omega = omega.exp();
    for (Index t = first; t < first + count; ++t) {
      omega_.col(t) /= omega_.col(t).sum();
      Eigen::Map<Matrix>(&u_(0, t), rank, heads) = p_.col(t).head(rank).lazyProduct(omega_.col(t).transpose());
    }
  });
}

/// dω_i = ⟨V_i, h⟩, dh = Σ ω_i V_i, dℓ = ω ∘ (dω − ⟨ω, dω⟩).
void ComposedPeer::unmix() {
  const Index rank = problem_.rank, heads = problem_.heads;
  for_token_slices(problem_.tokens, u_.rows(), [&](Index first, Index count) {
    for (Index t = first; t < first + count; ++t) {
      const Eigen::Map<const Matrix> v(&v_(0, t), rank, heads);
      const auto omega = omega_.col(t);
      dp_.col(t).head(rank) = v.lazyProduct(omega);
      auto dl = dp_.col(t).tail(heads);
      dl = v.transpose().lazyProduct(p_.col(t).head(rank));
      dl = omega.array() * (dl.array() - omega.dot(dl));
    }
  });
}

}  // namespace

std::unique_ptr<Peer> make_composed(const Problem& problem, const std::vector<ProductLibrary>& libraries) {
  return std::make_unique<ComposedPeer>(problem, libraries);
}

}  // namespace bench
