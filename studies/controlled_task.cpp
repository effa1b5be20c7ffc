// SPDX-License-Identifier: MIT
//
// A task whose components are known: tokens of K clusters, each of which wants its own low-rank change of W on a
// subspace that all share,  x = μ_k + noise,  y = C_k S x.  Does HydraLoRA find the clusters, and what is it worth
// against one LoRA with as many parameters? Prints docs/evidence/controlled_task.md.
//
//   controlled_task [seeds] [steps]
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <tuple>

#include <hydralora/analysis/silhouette.hpp>
#include <hydralora/train/adamw.hpp>
#include <hydralora/train/schedule.hpp>

#include "mean_interval.hpp"
#include "variants.hpp"

namespace {

using namespace hydralora;
using namespace finetune;

constexpr Index features = 64, rank = 4, batch = 128, test_tokens = 4096;
constexpr double learning_rate = 5e-3;

Matrix normal_matrix(Index rows, Index cols, std::uint64_t seed, std::uint64_t stream, double deviation = 1) {
  const CounterRandom random(seed, stream);
  return Matrix::NullaryExpr(rows, cols, [&](Index i, Index j) {
    return static_cast<float>(deviation * random.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j)));
  });
}

struct Truth {
  Index clusters;
  double norm;  ///< of the cluster means; the noise around them has deviation 1 in every direction
};

/// The truth of one seed, and tokens from it.
struct World {
  World(const Truth& wanted, std::uint64_t its_seed) : task(wanted), seed(its_seed) {
    means = normal_matrix(features, task.clusters, seed, 100);
    for (Index k = 0; k < task.clusters; ++k) means.col(k) *= static_cast<float>(task.norm) / means.col(k).norm();
    shared = normal_matrix(rank, features, seed, 101, 1 / std::sqrt(static_cast<double>(features)));
    for (Index k = 0; k < task.clusters; ++k) {
      change.push_back(normal_matrix(features, rank, seed, 102 + static_cast<std::uint64_t>(k),
                                     1 / std::sqrt(static_cast<double>(rank))) *
                       shared);
    }
  }
  void draw(Index tokens, std::uint64_t stream, Matrix& x, Matrix& y, std::vector<Index>& labels) const {
    const CounterRandom random(seed, stream);
    x = normal_matrix(features, tokens, seed, stream + 1);
    y.resize(features, tokens);
    labels.resize(static_cast<std::size_t>(tokens));
    for (Index t = 0; t < tokens; ++t) {
      const auto k =
          static_cast<Index>(random.below(static_cast<std::uint64_t>(task.clusters), static_cast<std::uint64_t>(t)));
      labels[static_cast<std::size_t>(t)] = k;
      x.col(t) += means.col(k);
      y.col(t).noalias() = change[static_cast<std::size_t>(k)] * x.col(t);
    }
  }

  Truth task;
  std::uint64_t seed;
  Matrix means, shared;
  std::vector<Matrix> change;
};

struct Outcome {
  double loss = 0;        ///< squared error on held-out tokens, as a share of the target's square
  double rand_index = 0;  ///< of the head with the largest weight against the clusters
};

Outcome train(const Variant& method, const World& world, Index steps) {
  Matrix x, target, y, dy;
  std::vector<Index> labels;
  if (method.start == Variant::Start::clusters) world.draw(1024, 20, x, y, labels);
  // On a frozen weight of zeros.
  const auto layer = make_layer(method, Matrix::Zero(features, features), Settings(), world.seed, x);
  AdamW<float> optimizer(layer->groups(method.learning_rate));
  Batch tokens;  // of no part: given weights are all alike
  for (Index step = 0; step < steps; ++step) {
    world.draw(batch, 1000 + 2 * static_cast<std::uint64_t>(step), x, target, labels);
    tokens.contexts.resize(0, batch);
    y.setZero(features, batch);
    layer->forward(x, y, tokens, static_cast<std::uint64_t>(step));
    dy = (y - target) * (2 / static_cast<float>(batch * features));
    layer->zero_gradients();
    layer->backward(x, dy, {});
    optimizer.step(cosine_schedule(step, steps));
  }
  world.draw(test_tokens, 10, x, target, labels);
  tokens.contexts.resize(0, test_tokens);
  y.setZero(features, test_tokens);
  layer->infer(x, y, tokens);
  const Matrix weights = layer->routing(x, tokens);
  std::vector<Index> chosen(labels.size(), 0);
  for (Index t = 0; weights.rows() > 0 && t < test_tokens; ++t)
    weights.col(t).maxCoeff(&chosen[static_cast<std::size_t>(t)]);
  return {static_cast<double>((y - target).squaredNorm() / target.squaredNorm()), adjusted_rand_index(labels, chosen)};
}

Variant method(Method::Kind kind, Index its_rank, Index heads) {
  Variant variant = Method{kind, "", its_rank, heads, learning_rate};
  variant.scaling = 1;
  return variant;
}
Variant hydra(Index heads) { return method(Method::Kind::hydra_lora, rank, heads); }

/// A LoRA with the parameters of this HydraLoRA, rounded up.
Variant lora_like(Index heads) {
  const Index parameters = trainable_parameters(hydra(heads), features, features);
  return method(Method::Kind::lora, (parameters + 2 * features - 1) / (2 * features), 1);
}

void study(Index seeds, Index steps) {
  // LoRAs that rows have in common, by clusters, norm, heads and seed.
  std::map<std::tuple<Index, double, Index, Index>, Outcome> baselines;
  // Three cells of a table, and how many seeds recovered the clusters.
  const auto over_seeds = [&](const Truth& task, const Variant& variant, Index heads) {
    std::vector<double> loss, ratio, rand_index;
    Index recovered = 0;
    for (Index seed = 0; seed < seeds; ++seed) {
      const World world(task, static_cast<std::uint64_t>(seed));
      const auto [found, is_new] = baselines.try_emplace({task.clusters, task.norm, heads, seed});
      if (is_new) found->second = train(lora_like(heads), world, steps);
      const Outcome one = train(variant, world, steps), base = found->second;
      loss.push_back(one.loss);
      ratio.push_back(one.loss / base.loss);
      rand_index.push_back(one.rand_index);
      recovered += ratio.back() <= 0.1 && one.rand_index >= 0.95 ? 1 : 0;
    }
    const std::string cells =
        MeanInterval(loss).text(4) + " | " + MeanInterval(ratio).text(3) + " | " + MeanInterval(rand_index).text(3);
    return std::pair(cells, recovered);
  };

  std::cout << "# A task whose components are known\n\n"
               "Printed by [controlled_task.cpp](../../studies/controlled_task.cpp); nothing here is typed by "
               "hand. What it means: [evidence.md](../evidence.md).\n\n"
               "Tokens of K clusters, means of a given norm in noise of deviation 1 per feature, "
            << features << " features. Each cluster wants its own change C_k S of a weight, of rank " << rank
            << ", on a subspace S that all share. Adapters of rank " << rank << ", " << steps << " steps of " << batch
            << " fresh tokens, AdamW at " << learning_rate << " with a cosine schedule. Loss: squared error on "
            << test_tokens
            << " held-out tokens over the target's square. Ratio: that loss over the loss of one LoRA with as many "
               "parameters (rank rounded up), trained on the same tokens. Rand index: the head with the largest weight "
               "against the true cluster, adjusted for chance. Means over "
            << seeds << " seeds with 95 % intervals.\n";

  std::cout
      << "\n## Cluster separation (K = N = 4)\n\nRecovered: seeds with a ratio of at most 0.1 and a Rand index of at "
         "least 0.95.\n\n| norm of the means | loss | ratio to LoRA | Rand index | recovered |\n"
         "|---|---|---|---|---|\n";
  for (const double norm : {1.0, 2.0, 3.0, 4.0, 6.0}) {
    const auto [cells, recovered] = over_seeds({4, norm}, hydra(4), 4);
    std::cout << "| " << norm << " | " << cells << " | " << recovered << " of " << seeds << " |" << std::endl;
  }
  std::cout << "\n## Number of clusters (norm 4)\n\n| K | heads | loss | ratio to LoRA | Rand index "
               "|\n|---|---|---|---|---|\n";
  for (const auto& [clusters, heads] :
       {std::pair<Index, Index>{1, 4}, {2, 2}, {4, 2}, {4, 3}, {4, 4}, {4, 8}, {6, 6}, {8, 8}}) {
    std::cout << "| " << clusters << " | " << heads << " | " << over_seeds({clusters, 4}, hydra(heads), heads).first
              << " |" << std::endl;
  }

  std::cout << "\n## Gates and starts (K = N = 4, norm 4)\n\n| variant | loss | ratio to LoRA | Rand index |\n"
               "|---|---|---|---|\n";
  const auto row = [&](const char* name, const Variant& variant) {
    std::cout << "| " << name << " | " << over_seeds({4, 4}, variant, 4).first << " |" << std::endl;
  };
  const auto gated = [&](const char* name, auto&& change) {
    Variant variant = hydra(4);
    change(variant);
    row(name, variant);
  };
  const auto top = [](Index k) {
    return [k](Variant& v) { v.gate.selection = GateSelection::top_k, v.gate.top_k = k; };
  };
  const auto start = [](Variant::Start wanted) { return [wanted](Variant& v) { v.start = wanted; }; };
  row("dense softmax", hydra(4));
  gated("no gate (weights 1/N)", [](Variant& v) { v.routing = Routing::given; });
  gated("temperature 2", [](Variant& v) { v.gate.temperature = 2; });
  gated("top-2", top(2));
  gated("top-1", top(1));
  gated("top-p, p = 0.9", [](Variant& v) { v.gate.selection = GateSelection::top_p, v.gate.top_p = 0.9; });
  gated("straight-through", [](Variant& v) { v.gate.selection = GateSelection::one_hot; });
  gated("gate on A x", [](Variant& v) { v.gate.input = GateInput::projection; });
  gated("load balance 0.01", [](Variant& v) { v.balance = 1e-2; });
  gated("head warm-up", [&](Variant& v) { v.warmup = std::max<Index>(1, steps / 15); });
  gated("orthogonal start", start(Variant::Start::orthogonal));
  gated("Gaussian start, B of 0.01", start(Variant::Start::gaussian));
  gated("gate from k-means", start(Variant::Start::clusters));
  Variant summed = method(Method::Kind::split_lora, rank, 3);
  summed.routing = Routing::uniform;
  row("SplitLoRA, 3 heads summed (as many parameters)", summed);
  row("SplitLoRA, 4 heads routed (more parameters)", method(Method::Kind::split_lora, rank, 4));
  row("LoRA of the same rank (fewer parameters)", method(Method::Kind::lora, rank, 1));
}

/// A whole number from 1 to `most`, or the program ends with 2.
Index argument(const char* text, Index most) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*text != '\0' && *end == '\0' && value >= 1 && value <= most) return value;
  std::cerr << "controlled_task: " << text << " is not a number from 1 to " << most << '\n';
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 3) {
    std::cerr << "usage: controlled_task [seeds] [steps]\n";
    return 2;
  }
  study(argc > 1 ? argument(argv[1], 1000) : 5, argc > 2 ? argument(argv[2], 1000000) : 1500);
}
