// SPDX-License-Identifier: MIT
//
// Compiled several times for different instruction sets. Lane counts tell whose kernels a unit really runs: a function
// whose symbol did not carry the instruction set would be one and the same in all units.
#include <hydralora/hydralora.hpp>

namespace {
/// Goes through an inline function of the library that is not a template on the architecture.
hydralora::HydraLoRAConfig config() { return {16, 16, 4, 16, false, 0, 3}; }
}  // namespace

const void* UNIT(int& lanes, float& result) {
  lanes = static_cast<int>(hydralora::simd::lanes<float, hydralora::simd::DefaultArch>);
  const hydralora::HydraLoRA<float> layer(config());
  const Eigen::MatrixXf x = Eigen::MatrixXf::Ones(16, 3);
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(16, 3);
  layer.forward(x, y);
  result = y.sum();
  using Door = void (*)(hydralora::ConstStack<float>, hydralora::ConstTokens<float>, hydralora::Tokens<float>);
  return reinterpret_cast<const void*>(static_cast<Door>(&hydralora::kernels::contract<float>));
}
