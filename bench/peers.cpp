// SPDX-License-Identifier: MIT
//
// The peers: an adapter out of GEMM products, as somebody would write it who has a fast BLAS and no fused kernels, and
// the two that the module with PyTorch has.
#include <dlfcn.h>
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

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Seconds that run(i) takes, for every i < count: medians of calls in rotation, so that all meet the same caches and
/// the same neighbours. What is far behind after the first calls is not tried again and has their time.
template <class Run>
std::vector<double> seconds_in_rotation(std::size_t count, Run&& run) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  constexpr double sample = 100e-6, budget = 0.1, hopeless = 1.5;  // seconds, seconds, times the best
  constexpr int warm_rounds = 2, rounds = 9, rounds_at_least = 3;

  struct Candidate {
    double first = infinity;
    int calls = 1;  // in one sample: a clock needs more than a microsecond
    std::vector<double> samples;
  };
  std::vector<Candidate> candidates(count);
  double best = infinity;
  auto begin = Clock::now();
  for (int round = -warm_rounds; round < rounds; ++round) {
    if (round == 0) begin = Clock::now();
    if (round >= rounds_at_least && Seconds(Clock::now() - begin).count() > budget) break;
    for (std::size_t i = 0; i < count; ++i) {
      Candidate& c = candidates[i];
      if (round > -warm_rounds && c.first > hopeless * best && c.first > sample) continue;
      if (round == 0) c.calls = static_cast<int>(std::clamp(sample / c.first, 1.0, 100.0));
      const auto start = Clock::now();
      for (int call = 0; call < c.calls; ++call) run(i);
      const double seconds = Seconds(Clock::now() - start).count() / c.calls;
      if (round >= 0) c.samples.push_back(seconds);
      if (round < 0) best = std::min(best, c.first = std::min(c.first, seconds));
    }
  }
  std::vector<double> result;
  for (auto& [first, calls, samples] : candidates) {
    const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
    if (!samples.empty()) std::nth_element(samples.begin(), middle, samples.end());
    result.push_back(samples.empty() ? first : *middle);
  }
  return result;
}

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
  ComposedPeer(const Problem& problem, const std::vector<ProductLibrary>& libraries)
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

  void forward(Matrix& y) override {
    for (const Choice& choice : choices_) choice.products->follow_threads();
    const Outputs to{&y, nullptr, nullptr, nullptr, nullptr};
    run(project, to);
    if (problem_.routed()) mix();
    run(expand_up, to);
  }
  void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) override {
    for (const Choice& choice : choices_) choice.products->follow_threads();
    const Outputs to{nullptr, &dA, &dgate, &dB, &dx};
    run(shrink_up, to);
    run(accumulate_up, to);
    if (problem_.routed()) unmix();
    run(accumulate_down, to);
    run(expand_down, to);
  }

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

  std::vector<Choice> candidates(Step step, const std::vector<ProductLibrary>& libraries) const {
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

  void choose(const std::vector<ProductLibrary>& libraries) {
    const Problem& p = problem_;
    Matrix y = Matrix::Zero(p.out, p.tokens), dx = Matrix::Zero(p.in, p.tokens), dA = Matrix::Zero(p.rank, p.in);
    Matrix dgate = Matrix::Zero(p.gate.rows(), p.in), dB = Matrix::Zero(p.out, p.B.cols());
    const Outputs scratch{&y, &dA, &dgate, &dB, &dx};

    std::vector<std::string> names{""};  // of the plans: the fastest for each product, then the fastest of each library
    for (const ProductLibrary& library : libraries) {
      if (library.gemm == nullptr) continue;
      library.gemm->follow_threads();
      names.push_back(library.name);
    }
    std::vector<Choices> plans(names.size());
    for (std::size_t step = 0; step < steps; ++step) {
      const auto all = candidates(static_cast<Step>(step), libraries);
      const auto seconds =
          seconds_in_rotation(all.size(), [&](std::size_t i) { run(static_cast<Step>(step), all[i], scratch); });
      for (std::size_t plan = 0; plan < plans.size(); ++plan) {
        double best = infinity;
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

  void run(Step step, const Outputs& to) { run(step, choices_[step], to); }
  void run(Step step, const Choice& choice, const Outputs& to) {
    const Products& products = *choice.products;
    const std::size_t layout = choice.layout == Layout::tall ? 0 : 1;
    const StackShape down{choice.layout, problem_.in, p_.rows()}, up{choice.layout, problem_.out, v_.rows()};
    const float* const down_weights = down_[layout].data();
    const float* const up_weights = up_[layout].data();
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
        return accumulate_dp(products, down, *to.dA, *to.dgate);
      case expand_down:
        return products.expand(down, down_weights, dp.data(), tokens, 1, to.dx->data());
      case steps:
        break;
    }
  }

  /// One product for dA and dG together, so that x is read once; only LoRA's can go straight to where it belongs.
  void accumulate_dp(const Products& products, const StackShape& down, Matrix& dA, Matrix& dgate) {
    const Matrix& dp = problem_.routed() ? dp_ : v_;
    const bool wide = down.layout == Layout::wide, direct = wide && !problem_.routed();
    float* const to = direct ? dA.data() : down_gradient_.data();
    products.accumulate(down, dp.data(), problem_.x.data(), problem_.tokens, 1, direct, to);
    if (direct) return;
    if (wide) {
      dA += down_gradient_.topRows(problem_.rank);
      dgate += down_gradient_.bottomRows(dgate.rows());
    } else {
      const Eigen::Map<const Matrix> tall(down_gradient_.data(), down.features, down.rows);
      dA += tall.leftCols(problem_.rank).transpose();
      dgate += tall.rightCols(dgate.rows()).transpose();
    }
  }

  /// ω = softmax of P's lower rows; u_i = ω_i h. The exponentials of a slice of tokens run as one vector.
  void mix() {
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
  void unmix() {
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

  const Problem& problem_;
  std::array<Matrix, 2> down_, up_;  // by layout
  Matrix p_, omega_, u_, v_, dp_;    // columns are tokens; unrouted, u is p and dp is v
  Matrix down_gradient_;
  Choices choices_{};
};

PeerKind composed(const std::string& name, const std::string& version, const std::vector<ProductLibrary>& libraries) {
  PeerKind kind{name, version, "", nullptr};
  for (const ProductLibrary& library : libraries) {
    if (library.gemm != nullptr) {
      kind.make = [libraries](const Problem& problem) { return std::make_unique<ComposedPeer>(problem, libraries); };
      return kind;
    }
    kind.missing = library.missing;
  }
  return kind;
}

void add_torch_peers(std::vector<PeerKind>& all) {
  std::string version, missing = "libtorch not found at configure time (Debian: libtorch-dev)";
  TorchMake* make = nullptr;
#ifdef BENCH_TORCH_MODULE
  if (void* const module = dlopen(BENCH_TORCH_MODULE, RTLD_NOW | RTLD_LOCAL)) {
    version = reinterpret_cast<TorchVersion*>(dlsym(module, torch_version_name))();
    make = reinterpret_cast<TorchMake*>(dlsym(module, torch_make_name));
    missing.clear();
  } else {
    missing = dlerror();
  }
#endif
  for (const auto& [name, style] :
       {std::pair{"torch_released", TorchStyle::released}, std::pair{"torch_smart", TorchStyle::smart}}) {
    all.push_back(
        {name, version, missing, [make, s = style](const Problem& p) { return std::unique_ptr<Peer>(make(p, s)); }});
  }
}

}  // namespace

const std::vector<ProductLibrary>& product_libraries() {
  // OpenBLAS before torch, which brings the same file: it reads the environment when it is loaded.
  static const std::vector<ProductLibrary> libraries{eigen_library(), openblas_library(), onednn_library(),
                                                     blis_library()};
  return libraries;
}

const std::vector<PeerKind>& peers() {
  static const std::vector<PeerKind> kinds = [] {
    std::vector<PeerKind> all;
    for (const ProductLibrary& library : product_libraries()) {
      all.push_back(composed(library.name, library.version, {library}));
    }
    all.push_back(composed("best", "each product by the fastest of the above", product_libraries()));
    add_torch_peers(all);
    return all;
  }();
  return kinds;
}

}  // namespace bench
