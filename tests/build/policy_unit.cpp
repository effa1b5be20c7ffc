// SPDX-License-Identifier: MIT
//
// Compiled several times for different instruction sets. Lane counts tell whose kernels a unit really runs: a function
// whose symbol did not carry the instruction set would be one and the same in all units.
#include <hydralora/hydralora.hpp>
#include <vector>

const void* UNIT(int& lanes, float& result) {
  lanes = static_cast<int>(hydralora::simd::lanes<float, hydralora::simd::DefaultArch>);
  // Plain buffers: Eigen's own memory is aligned for one instruction set, and its symbols do not say for which.
  const hydralora::HydraLoRA<float> layer(hydralora::HydraLoRAConfig{16, 16, 4, 16, false, 0, 3});
  const std::vector<float> x(16 * 3, 1.0F);
  std::vector<float> y(16 * 3, 0.0F);
  layer.forward({x.data(), 16, 3}, {y.data(), 16, 3});
  for (const float v : y) result += v;
  using Kernel = void (*)(hydralora::ConstStack<float>, hydralora::ConstTokens<float>, float, hydralora::Tokens<float>);
  return reinterpret_cast<const void*>(static_cast<Kernel>(&hydralora::kernels::shrink<float>));
}
