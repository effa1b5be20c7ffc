// SPDX-License-Identifier: MIT
//
// A task whose components are known: tokens of K clusters, each of which wants its own low-rank change of W on a subspace
// that all share,  x = μ_k + noise,  y = C_k S x.  Does HydraLoRA find the clusters, and what is it worth against one LoRA
// with as many parameters? Prints docs/evidence/controlled_task.md.
//
//   controlled_task [seeds] [steps]
#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>
#include <hydralora/train/initialize.hpp>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>

#include "mean_interval.hpp"

namespace {

using namespace hydralora;
using Matrix = Eigen::MatrixXf;

constexpr Index features = 64, rank = 4, batch = 128, test_tokens = 4096;
constexpr double learning_rate = 5e-3;

Matrix normal_matrix(Index rows, Index cols, std::uint64_t seed, std::uint64_t stream, double deviation = 1) {
  const CounterRandom random(seed, stream);
  return Matrix::NullaryExpr(rows, cols, [&](Index i, Index j) {
    return static_cast<float>(deviation * random.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j)));
  });
}

struct Task {
  Index clusters = 4;
  double norm = 4;  ///< of the cluster means; the noise around them has deviation 1 in every direction
};

/// The truth of one seed, and tokens from it.
struct World {
  World(const Task& wanted, std::uint64_t its_seed) : task(wanted), seed(its_seed) {
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

  Task task;
  std::uint64_t seed;
  Matrix means, shared;
  std::vector<Matrix> change;
};

struct Outcome {
  double loss = 0;        ///< squared error on held-out tokens, as a share of the target's square
  double rand_index = 0;  ///< of the head with the largest weight against the clusters
};

struct Training {
  Index steps = 1500;
  double balance = 0;         ///< weight of the Switch load
  Index warmup = 0;           ///< steps of HeadWarmup
  bool even_weights = false;  ///< Routing::given with 1/N
};

template <class Layer>
Outcome train(Layer layer, const World& world, const Training& how) {
  typename Layer::Cache cache;
  typename Layer::Gradients gradients(layer.config());
  AdamW<float> optimizer({{layer.parameters(), gradients.parameters(), learning_rate}});
  const Index heads = layer.shape().heads;
  Matrix x, target, y, dy, balance;
  std::vector<Index> labels;
  CallOptions<float> options;
  const auto forward = [&](Index tokens) {
    const Matrix even = Matrix::Constant(heads, how.even_weights ? tokens : 0, 1 / static_cast<float>(heads));
    if (how.even_weights) options.weights = even;
    y.setZero(features, tokens);
    layer.forward(x, y, cache, options);
    options.weights = {};
  };
  for (Index step = 0; step < how.steps; ++step) {
    world.draw(batch, 1000 + 2 * static_cast<std::uint64_t>(step), x, target, labels);
    forward(batch);
    dy = (y - target) * (2 / static_cast<float>(batch * features));
    if constexpr (std::is_same_v<Layer, HydraLoRA<float>>) {
      if (how.balance > 0) {
        balance.setZero(heads, batch);
        BalanceWeights weights;
        weights.load = how.balance;
        balance_losses(weights, layer, cache, balance);
        options.logits_gradient = balance;
      }
    }
    gradients.set_zero();
    layer.backward(x, dy, cache, gradients, options);
    if constexpr (std::is_same_v<Layer, HydraLoRA<float>>) {
      if (how.warmup > 0) HeadWarmup(heads, how.warmup, world.seed).apply(step, gradients);
    }
    optimizer.step(cosine_schedule(step, how.steps));
  }
  options = {};
  world.draw(test_tokens, 10, x, target, labels);
  forward(test_tokens);
  std::vector<Index> chosen(labels.size(), 0);
  if (cache.weights().features() > 0) {
    for (Index t = 0; t < test_tokens; ++t)
      cache.weights().matrix().col(t).maxCoeff(&chosen[static_cast<std::size_t>(t)]);
  }
  return {static_cast<double>((y - target).squaredNorm() / target.squaredNorm()), adjusted_rand_index(labels, chosen)};
}

HydraLoRAConfig hydra(Index heads) {
  HydraLoRAConfig config;
  config.in_features = config.out_features = features;
  config.rank = rank;
  config.alpha = rank;
  config.heads = heads;
  return config;
}

/// A LoRA with the parameters of this HydraLoRA, rounded up.
Index equal_rank(Index heads) {
  const Index parameters = HydraLoRA<float>(hydra(heads)).parameter_count();
  return (parameters + 2 * features - 1) / (2 * features);
}
Outcome lora(Index its_rank, const World& world, const Training& how) {
  LoRAConfig config;
  config.in_features = config.out_features = features;
  config.rank = its_rank;
  config.alpha = static_cast<double>(its_rank);
  return train(LoRA<float>(config, world.seed), world, how);
}

struct Row {
  std::vector<double> loss, ratio, rand_index;
};

std::string cells(const Row& row) {
  return MeanInterval(row.loss).text(4) + " | " + MeanInterval(row.ratio).text(3) + " | " +
         MeanInterval(row.rand_index).text(3);
}

void study(Index seeds, Index steps) {
  Training how;
  how.steps = steps;
  // LoRAs that rows have in common, by clusters, norm, heads and seed.
  std::map<std::tuple<Index, double, Index, Index>, Outcome> baselines;
  const auto over_seeds = [&](const Task& task, const std::function<Outcome(const World&)>& method, Index heads) {
    Row row;
    for (Index seed = 0; seed < seeds; ++seed) {
      const World world(task, static_cast<std::uint64_t>(seed));
      const auto [found, is_new] = baselines.try_emplace({task.clusters, task.norm, heads, seed});
      if (is_new) found->second = lora(equal_rank(heads), world, how);
      const Outcome one = method(world), base = found->second;
      row.loss.push_back(one.loss);
      row.ratio.push_back(one.loss / base.loss);
      row.rand_index.push_back(one.rand_index);
    }
    return row;
  };
  const auto dense = [&](Index heads) {
    return [&how, heads](const World& world) { return train(HydraLoRA<float>(hydra(heads), world.seed), world, how); };
  };

  std::cout
      << "# A task whose components are known\n\n"
         "Printed by [examples/controlled_task.cpp](../../examples/controlled_task.cpp); nothing here is typed by "
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
    const Row row = over_seeds({4, norm}, dense(4), 4);
    Index recovered = 0;
    for (std::size_t i = 0; i < row.ratio.size(); ++i)
      recovered += row.ratio[i] <= 0.1 && row.rand_index[i] >= 0.95 ? 1 : 0;
    std::cout << "| " << norm << " | " << cells(row) << " | " << recovered << " of " << seeds << " |" << std::endl;
  }
  std::cout << "\n## Number of clusters (norm 4)\n\n| K | heads | loss | ratio to LoRA | Rand index "
               "|\n|---|---|---|---|---|\n";
  for (const auto& [clusters, heads] :
       {std::pair<Index, Index>{1, 4}, {2, 2}, {4, 2}, {4, 3}, {4, 4}, {4, 8}, {6, 6}, {8, 8}}) {
    std::cout << "| " << clusters << " | " << heads << " | " << cells(over_seeds({clusters, 4}, dense(heads), heads))
              << " |" << std::endl;
  }

  std::cout << "\n## Gates and starts (K = N = 4, norm 4)\n\n| variant | loss | ratio to LoRA | Rand index |\n"
               "|---|---|---|---|\n";
  const auto variant = [&](const std::string& name, auto&& change, Training training,
                           const std::function<void(HydraLoRA<float>&, const World&)>& start = {}) {
    HydraLoRAConfig config = hydra(4);
    change(config);
    std::cout << "| " << name << " | "
              << cells(over_seeds(
                     {4, 4},
                     [&](const World& world) {
                       HydraLoRA<float> layer(config, world.seed);
                       if (start) start(layer, world);
                       return train(layer, world, training);
                     },
                     4))
              << " |" << std::endl;
  };
  const auto nothing = [](HydraLoRAConfig&) {};
  Training even = how, balanced = how, warmed = how;
  even.even_weights = true;
  balanced.balance = 1e-2;
  warmed.warmup = std::max<Index>(1, steps / 15);
  variant("dense softmax", nothing, how);
  variant(
      "no gate (weights 1/N)", [](HydraLoRAConfig& c) { c.routing = Routing::given; }, even);
  variant(
      "temperature 2", [](HydraLoRAConfig& c) { c.gate.temperature = 2; }, how);
  variant(
      "top-2", [](HydraLoRAConfig& c) { c.gate.selection = GateSelection::top_k, c.gate.top_k = 2; }, how);
  variant(
      "top-1", [](HydraLoRAConfig& c) { c.gate.selection = GateSelection::top_k, c.gate.top_k = 1; }, how);
  variant(
      "top-p, p = 0.9", [](HydraLoRAConfig& c) { c.gate.selection = GateSelection::top_p, c.gate.top_p = 0.9; }, how);
  variant(
      "straight-through", [](HydraLoRAConfig& c) { c.gate.selection = GateSelection::one_hot; }, how);
  variant(
      "gate on A x", [](HydraLoRAConfig& c) { c.gate.input = GateInput::projection; }, how);
  variant("load balance 0.01", nothing, balanced);
  variant("head warm-up", nothing, warmed);
  variant("orthogonal start", nothing, how,
          [](HydraLoRA<float>& layer, const World& w) { initialize_orthogonal(layer, w.seed); });
  variant("Gaussian start, B of 0.01", nothing, how,
          [](HydraLoRA<float>& layer, const World& w) { initialize_gaussian(layer, w.seed, 0.01); });
  variant("gate from k-means", nothing, how, [](HydraLoRA<float>& layer, const World& w) {
    Matrix x, y;
    std::vector<Index> labels;
    w.draw(1024, 20, x, y, labels);
    KMeansConfig config;
    config.clusters = 4;
    config.seed = w.seed;
    initialize_gate(layer, kmeans(x, config).centroids);
  });
  const auto split = [&](Routing routing, Index heads) {
    return [&how, routing, heads](const World& world) {
      SplitLoRAConfig config;
      config.in_features = config.out_features = features;
      config.rank = rank;
      config.alpha = rank;
      config.heads = heads;
      config.routing = routing;
      return train(SplitLoRA<float>(config, world.seed), world, how);
    };
  };
  std::cout << "| SplitLoRA, 3 heads summed (as many parameters) | "
            << cells(over_seeds({4, 4}, split(Routing::uniform, 3), 4)) << " |" << std::endl;
  std::cout << "| SplitLoRA, 4 heads routed (more parameters) | "
            << cells(over_seeds({4, 4}, split(Routing::learned, 4), 4)) << " |" << std::endl;
  std::cout << "| LoRA of the same rank (fewer parameters) | "
            << cells(over_seeds(
                   {4, 4}, [&](const World& w) { return lora(rank, w, how); }, 4))
            << " |" << std::endl;
}

/// A whole number from 1 to `most`, or the program ends with 2.
Index argument(const char* text, Index most) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < 1 || value > most) {
    std::cerr << "controlled_task: " << text << " is not a number from 1 to " << most << '\n';
    std::exit(2);
  }
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 3) {
    std::cerr << "usage: controlled_task [seeds] [steps]\n";
    return 2;
  }
  study(argc > 1 ? argument(argv[1], 1000) : 5, argc > 2 ? argument(argv[2], 1000000) : 1500);
}
