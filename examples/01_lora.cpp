// SPDX-License-Identifier: MIT
//
// LoRA in one page: a frozen weight W, an adapter on it, and gradient descent until the two together are the weight we
// want.
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>
#include <iomanip>
#include <iostream>

using namespace hydralora;

/// Numbers that are the same on every platform.
Eigen::MatrixXf random_matrix(Index rows, Index cols, std::uint64_t stream) {
  const CounterRandom random(/*seed=*/1, stream);
  return Eigen::MatrixXf::NullaryExpr(rows, cols, [&](Index i, Index j) {
    return static_cast<float>(random.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j)));
  });
}

int main() {
  const Index in = 24, out = 16, tokens = 64;
  const Eigen::MatrixXf W = random_matrix(out, in, 0);  // frozen: what the model was trained to do
  const Eigen::MatrixXf change =
      0.3F * random_matrix(out, 2, 1) * random_matrix(2, in, 2);  // rank 2: what we want beside
  const Eigen::MatrixXf x = random_matrix(in, tokens, 3);         // columns are tokens
  const Eigen::MatrixXf target = (W + change) * x;

  LoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = 4;
  LoRA<float> adapter(config, /*seed=*/7);
  LoRA<float>::Cache cache;
  LoRA<float>::Gradients gradients(adapter.config());
  AdamW<float> optimizer({{adapter.parameters(), gradients.parameters(), /*learning_rate=*/0.02}});

  const int steps = 200;
  for (int step = 0; step <= steps; ++step) {
    Eigen::MatrixXf y = W * x;     // the host computes the frozen part, however it likes
    adapter.forward(x, y, cache);  // y += s B A x
    const Eigen::MatrixXf error = y - target;
    if (step % 50 == 0) {
      const float mean_square = error.squaredNorm() / static_cast<float>(error.size());
      std::cout << "step " << step << ": mean squared error " << std::fixed << std::setprecision(3) << mean_square
                << '\n';
    }

    gradients.set_zero();
    const Eigen::MatrixXf dy = error / static_cast<float>(tokens);
    adapter.backward(x, dy, cache, gradients);
    optimizer.step(cosine_schedule(step, steps));
  }
  std::cout << adapter.parameter_count() << " numbers trained instead of " << W.size() << '\n';
}
