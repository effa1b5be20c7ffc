// SPDX-License-Identifier: MIT
//
// HydraLoRA finds out by itself that its data are two tasks: tokens of two clusters, each wanting another change of W.
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>
#include <iomanip>
#include <iostream>

using namespace hydralora;

/// Numbers that are the same on every platform.
Eigen::MatrixXf random_matrix(Index rows, Index cols, std::uint64_t stream) {
  const CounterRandom random(/*seed=*/2, stream);
  return Eigen::MatrixXf::NullaryExpr(rows, cols, [&](Index i, Index j) {
    return static_cast<float>(random.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j)));
  });
}

int main() {
  const Index in = 24, out = 16, tokens = 128, half = tokens / 2;
  Eigen::MatrixXf x =
      random_matrix(in, tokens, 0);  // the first half of the columns belongs to one task, the rest to the other
  x.row(0).head(half).array() += 4;
  x.row(1).tail(half).array() += 4;
  Eigen::MatrixXf target(out, tokens);  // what the adapter should add to W x
  target.leftCols(half) = 0.3F * random_matrix(out, in, 1) * x.leftCols(half);
  target.rightCols(half) = 0.3F * random_matrix(out, in, 2) * x.rightCols(half);

  HydraLoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = 8;
  config.heads = 2;
  HydraLoRA<float> adapter(config, /*seed=*/7);
  HydraLoRA<float>::Cache cache;
  HydraLoRA<float>::Gradients gradients(adapter.config());
  AdamW<float> optimizer({{adapter.parameters(), gradients.parameters(), /*learning_rate=*/0.02}});

  for (int step = 0; step < 400; ++step) {
    Eigen::MatrixXf y = Eigen::MatrixXf::Zero(out, tokens);
    adapter.forward(x, y, cache);
    const Eigen::MatrixXf dy = (y - target) / static_cast<float>(tokens);
    gradients.set_zero();
    adapter.backward(x, dy, cache, gradients);
    optimizer.step(cosine_schedule(step, 400));
  }

  // cache.weights() are the router's weights of the last batch: how is each half of the tokens routed?
  std::cout << std::fixed << std::setprecision(1) << "          head 1  head 2\n";
  for (const Index task : {0, 1}) {
    RouterStats stats(2);
    stats.add(cache.weights().slice(task * half, half));
    std::cout << "task " << task + 1 << std::setw(10) << stats.usage()[0] << std::setw(8) << stats.usage()[1] << '\n';
  }
}
