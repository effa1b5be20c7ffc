// SPDX-License-Identifier: MIT
//
// libtorch, on plain tensors without autograd: a C++ server, or a trainer that writes its own backward pass. A
// contiguous [tokens, features] tensor is a batch of tokens as it lies. Weights are row-major there, [out, in], and
// column-major in an adapter: torch looks at the adapter's through strides, and copies into them with copy_().
#include <ATen/ATen.h>

#include <cstdio>
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>

using hydralora::Index;

/// Rows of a tensor on the CPU as tokens, on its memory: all, or a slice of rows or columns. What would need a copy is
/// refused.
hydralora::Tokens<float> tokens(const at::Tensor& t) {
  TORCH_CHECK(t.device().is_cpu() && t.dim() == 2 && t.stride(1) == 1,
              "not rows of contiguous features on the CPU: .contiguous()");
  return {t.data_ptr<float>(), t.size(1), t.size(0), t.stride(0)};
}

/// A matrix of an adapter as a tensor on the same memory: weight(adapter.A()).copy_(lora_A) loads one.
at::Tensor weight(hydralora::MatrixMap<float> m) {
  return at::from_blob(m.data(), {m.rows(), m.cols()}, {1, m.outerStride()}, at::kFloat);
}

bool close(const char* what, const at::Tensor& actual, const at::Tensor& expected) {
  const double error = ((actual - expected).norm() / expected.norm()).item<double>();
  if (error <= 1e-5) return true;  // some hundred roundings of 6e-8; a wrong formula is off by far more
  std::printf("libtorch: %s is off by %g\n", what, error);
  return false;
}

int main() {
  constexpr std::int64_t in = 24, out = 16, count = 64, rank = 3, heads = 2;
  const c10::InferenceMode no_autograd;
  at::manual_seed(1);
  const at::Tensor W = at::randn({out, in}), x = at::randn({count, in});
  const at::Tensor change = at::randn({out, rank}).mm(at::randn({rank, in})) / in;
  const at::Tensor target = at::linear(x, W + change);  // what the frozen layer should have learnt

  hydralora::HydraLoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = rank;
  config.heads = heads;
  // The parameters are a tensor's: an adapter says how many it wants, and torch owns the memory.
  at::Tensor parameters = at::zeros({hydralora::HydraLoRA<float>(config).parameter_count()});
  hydralora::HydraLoRA<float> adapter(config, {parameters.data_ptr<float>(), parameters.numel()}, /*seed=*/1);
  adapter.initialize();
  hydralora::HydraLoRA<float>::Cache cache;
  hydralora::HydraLoRA<float>::Gradients gradients(config);
  hydralora::AdamW<float> optimizer({{adapter.parameters(), gradients.parameters(), /*learning_rate=*/1e-2}});

  at::Tensor y, dy, dx;
  const auto forward_and_backward = [&](const at::Tensor& goal) {
    y = at::linear(x, W);                          // the host's own layer
    adapter.forward(tokens(x), tokens(y), cache);  // y += ΔW(x)
    dy = (y - goal) / count;
    dx = dy.mm(W);
    gradients.set_zero();
    adapter.backward(tokens(x), tokens(dy), cache, gradients, tokens(dx));  // gradients += …, dx += …
    return (y - goal).square().sum().item<double>() / (2 * count);
  };
  const double first = forward_and_backward(target);
  for (int step = 0; step < 400; ++step) {
    optimizer.step();
    forward_and_backward(target);
  }
  const double last = forward_and_backward(target);
  forward_and_backward(at::zeros_like(target));  // for the comparison: at the minimum the terms of a gradient cancel

  // The same in torch, from what the adapter has trained:  y = x Wᵀ + s Σ ω_i (x Aᵀ) B_iᵀ,  ω = softmax(x Gᵀ)
  const double s = adapter.scaling();
  const at::Tensor A = weight(adapter.A()), omega = at::linear(x, weight(adapter.gate())).softmax(1),
                   h = at::linear(x, A);
  at::Tensor expected = at::linear(x, W), dh = at::zeros_like(h), domega = at::zeros_like(omega);
  bool good = true;
  for (std::int64_t i = 0; i < heads; ++i) {
    const at::Tensor B = weight(adapter.B(i)), w = omega.narrow(1, i, 1), v = s * dy.mm(B);
    expected += s * w * at::linear(h, B);
    dh += w * v;
    domega.narrow(1, i, 1).copy_((v * h).sum(1, true));
    good &= close("dB", weight(gradients.B(i)), s * dy.t().mm(w * h));
  }
  const at::Tensor dlogits = omega * (domega - (omega * domega).sum(1, true));
  good &= close("y", y, expected);
  good &= close("dA", weight(gradients.A()), dh.t().mm(x));
  good &= close("dG", weight(gradients.gate()), dlogits.t().mm(x));
  good &= close("dx", dx, dy.mm(W) + dh.mm(A) + dlogits.mm(weight(adapter.gate())));

  // Weights that were trained elsewhere, row-major as torch stores them, and a batch that is a slice of a larger one.
  hydralora::HydraLoRA<float> loaded(config);
  weight(loaded.A()).copy_(A.contiguous());
  weight(loaded.gate()).copy_(weight(adapter.gate()).contiguous());
  for (std::int64_t i = 0; i < heads; ++i) weight(loaded.B(i)).copy_(weight(adapter.B(i)).contiguous());
  at::Tensor wide = at::zeros({count, out + 8});
  const at::Tensor part = wide.narrow(0, 5, 20).narrow(1, 4, out);
  part.copy_(at::linear(x, W).narrow(0, 5, 20));
  loaded.forward(tokens(x.narrow(0, 5, 20)), tokens(part));
  good &= close("a slice of y", part, y.narrow(0, 5, 20)) && wide.narrow(1, 0, 4).eq(0).all().item<bool>();

  good &= last < first / 50 && tokens(y).data() == y.data_ptr<float>() &&
          A.data_ptr<float>() == parameters.data_ptr<float>();
  std::printf("libtorch: loss %g -> %g, %td parameters in a tensor of torch's%s\n", first, last,
              adapter.parameter_count(), good ? "" : ": FAILED");
  return good ? 0 : 1;
}
