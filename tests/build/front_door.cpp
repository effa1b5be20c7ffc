// SPDX-License-Identifier: MIT
//
// The front door, with nothing but plain Eigen arguments: what an embedding host writes must always compile and run.
#include <hydralora/hydralora.hpp>

int main() {
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(24, 10), dy = Eigen::MatrixXf::Random(16, 10);
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(16, 10), dx = Eigen::MatrixXf::Zero(24, 10);

  hydralora::HydraLoRAConfig config;
  config.in_features = 24;
  config.out_features = 16;
  config.rank = 4;
  config.heads = 3;
  hydralora::HydraLoRA<float> layer(config, 42);
  layer.B(1).setConstant(0.5F);
  layer.A() = Eigen::MatrixXf::Ones(4, 24);
  layer.gate().setZero();
  layer.parameters() *= layer.scaling();

  hydralora::HydraLoRA<float>::Cache cache;
  hydralora::HydraLoRA<float>::Gradients g(layer.config());
  layer.forward(x, y);
  layer.forward(x, y, cache);
  layer.backward(x, dy, cache, g, dx);
  layer.backward(x, dy, cache, g);
  const float seen =
      g.A().sum() + g.B(1).sum() + g.gate().sum() + g.parameters().sum() + cache.weights().matrix().sum();
  g.set_zero();

  hydralora::LoRA<double> lora(hydralora::LoRAConfig{24, 16, 4});
  hydralora::SplitLoRA<float> split(hydralora::SplitLoRAConfig{24, 16, 4});
  split.forward(x, y.leftCols(10));
  const auto count = lora.parameter_count() + split.A(1).size() + lora.B().size();
  return seen == seen && count > 0 && y.allFinite() && dx.squaredNorm() > 0 ? 0 : 1;
}
