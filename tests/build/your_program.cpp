// SPDX-License-Identifier: MIT
//
// What every way into a build (docs/building.md) compiles and runs: one step forward and one back, and the version.
#include <hydralora/hydralora.hpp>
#include <iostream>

int main() {
  hydralora::HydraLoRAConfig config{8, 8, 2};
  config.heads = 3;
  hydralora::HydraLoRA<float> adapter(config, 1);
  adapter.B(0).setOnes();  // as after some training
  hydralora::HydraLoRA<float>::Cache cache;
  hydralora::HydraLoRA<float>::Gradients gradients(config);
  const Eigen::MatrixXf x = Eigen::MatrixXf::Ones(8, 3);
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(8, 3), dx = y;
  adapter.forward(x, y, cache);
  adapter.backward(x, y, cache, gradients, dx);
  std::cout << HYDRALORA_VERSION_MAJOR << '.' << HYDRALORA_VERSION_MINOR << '.' << HYDRALORA_VERSION_PATCH << '\n';
  return y.norm() > 0 && dx.norm() > 0 && gradients.parameters().norm() > 0 ? 0 : 1;
}
