// SPDX-License-Identifier: MIT
//
// What a host pays to compile: one HydraLoRA, forward and backward.
#include <hydralora/hydralora.hpp>

void forward_backward(const Eigen::MatrixXf& x, Eigen::MatrixXf& y, const Eigen::MatrixXf& dy, Eigen::MatrixXf& dx) {
  hydralora::HydraLoRAConfig config;
  config.in_features = x.rows();
  config.out_features = y.rows();
  const hydralora::HydraLoRA<float> adapter(config);
  hydralora::HydraLoRA<float>::Cache cache;
  hydralora::HydraLoRA<float>::Gradients gradients(config);
  adapter.forward(x, y, cache);
  adapter.backward(x, dy, cache, gradients, dx);
}
