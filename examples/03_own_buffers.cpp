// SPDX-License-Identifier: MIT
//
// A model that knows nothing of Eigen: activations are float[tokens][features], parameters live in a buffer of its own
// (an arena, a mapped file, a tensor of another library). Nothing is copied on the way in or out.
#include <cstdio>
#include <hydralora/hydralora.hpp>
#include <vector>

using hydralora::Index;

/// The model's own linear layer, y[t] = W x[t], in whatever way it does that.
void host_linear(const float* weight, const float* x, float* y, Index tokens, Index in, Index out) {
  for (Index t = 0; t < tokens; ++t) {
    for (Index o = 0; o < out; ++o) {
      y[t * out + o] = 0;
      for (Index i = 0; i < in; ++i) y[t * out + o] += weight[o * in + i] * x[t * in + i];
    }
  }
}

int main() {
  const Index in = 4, out = 3, tokens = 2;
  const std::vector<float> weight(static_cast<std::size_t>(out * in), 0.5F);
  const std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8};  // two tokens of four features, row by row
  std::vector<float> y(static_cast<std::size_t>(tokens * out));

  hydralora::HydraLoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = 2;
  config.heads = 2;
  const Index count = hydralora::HydraLoRA<float>(config).parameter_count();
  std::vector<float> arena(static_cast<std::size_t>(count));  // the host's memory
  hydralora::HydraLoRA<float> adapter(config, hydralora::ParameterMap<float>(arena.data(), count));
  adapter.A().setConstant(0.25F);
  adapter.B(0).setConstant(1);  // the gate is zero, so both heads weigh one half
  adapter.B(1).setConstant(3);

  host_linear(weight.data(), x.data(), y.data(), tokens, in, out);
  adapter.forward({x.data(), in, tokens}, {y.data(), out, tokens});  // y += ΔW x, on the host's memory
  for (Index t = 0; t < tokens; ++t) {
    for (Index o = 0; o < out; ++o) std::printf("%6.1f", static_cast<double>(y[static_cast<std::size_t>(t * out + o)]));
    std::printf("\n");
  }
  std::printf("%td parameters in the host's arena, the first is %.2f\n", count, static_cast<double>(arena[0]));
}
