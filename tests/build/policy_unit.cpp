// SPDX-License-Identifier: MIT
//
// Compiled several times for different instruction sets. Lane counts tell whose kernels a unit really runs: a function
// whose symbol did not carry the instruction set would be one and the same in all units. merge() uses Eigen's products
// and memory, whose symbols do not carry it: these units have a namespace of Eigen each.
#include <hydralora/hydralora.hpp>
#include <hydralora/layers/merge.hpp>
#include <vector>

const void* UNIT(int& lanes, float& result) {
  lanes = static_cast<int>(hydralora::simd::lanes<float, hydralora::simd::DefaultArch>);
  const hydralora::HydraLoRA<float> layer(hydralora::HydraLoRAConfig{16, 16, 4, 16, false, 0, 3});
  const std::vector<float> x(16 * 3, 1.0F);
  std::vector<float> y(16 * 3, 0.0F);
  layer.forward({x.data(), 16, 3}, {y.data(), 16, 3});
  for (const float v : y) result += v;
  hydralora::LoRA<float> merged(hydralora::LoRAConfig{33, 17, 3, 3});
  merged.parameters().setConstant(0.5F);
  std::vector<float> weight(33 * 17, 0.25F);
  hydralora::merge(merged, Eigen::Map<Eigen::MatrixXf>(weight.data(), 17, 33));
  for (const float v : weight) result += v - 1;  // 0.25 + 3 * 0.5 * 0.5
  using Kernel = void (*)(hydralora::ConstStack<float>, hydralora::ConstTokens<float>, float, hydralora::Tokens<float>);
  return reinterpret_cast<const void*>(static_cast<Kernel>(&hydralora::kernels::shrink<float>));
}
