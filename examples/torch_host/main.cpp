// SPDX-License-Identifier: MIT
//
// A model written in libtorch, frozen, with a HydraLoRA on each of its layers: trained by torch's own autograd and
// Adam, the adapters' forward and backward passes and their parameters' memory are hydralora's.
#include <hydralora/hydralora.hpp>
#include <hydralora/interop/torch.hpp>
#include <iostream>

using Adapter = hydralora::TorchAdapter<hydralora::HydraLoRA<float>>;

/// A frozen torch::nn::Linear and an adapter on it.
struct AdaptedLinearImpl : torch::nn::Module {
  AdaptedLinearImpl(torch::nn::Linear frozen, const hydralora::HydraLoRAConfig& config, std::uint64_t seed)
      : base(register_module("base", std::move(frozen))), adapter(register_module("adapter", Adapter(config, seed))) {
    for (torch::Tensor& p : base->parameters()) p.requires_grad_(false);
  }
  torch::Tensor forward(const torch::Tensor& x) { return adapter->forward(x, base->forward(x)); }

  torch::nn::Linear base;
  Adapter adapter;
};
TORCH_MODULE(AdaptedLinear);

int main() {
  torch::manual_seed(1);
  const std::int64_t in = 32, hidden = 64, out = 16, tasks = 4, samples = 512;
  hydralora::HydraLoRAConfig first{in, hidden, 4}, second{hidden, out, 4};
  first.heads = second.heads = tasks;
  AdaptedLinear layer1(torch::nn::Linear(in, hidden), first, 1), layer2(torch::nn::Linear(hidden, out), second, 2);
  const auto model = [&](const torch::Tensor& x) { return layer2->forward(torch::relu(layer1->forward(x))); };

  // Four tasks that want different things of the same base; a constant in the input says which one it is.
  torch::Tensor x = torch::randn({samples, in}), target;
  {
    const torch::NoGradGuard no_gradients;
    const torch::Tensor task = torch::arange(samples) % tasks;
    x.narrow(1, 0, tasks).copy_(3 * torch::one_hot(task, tasks).to(torch::kFloat));
    target = model(x) +
             0.3 * torch::matmul(torch::randn({tasks, out, in}).index_select(0, task), x.unsqueeze(-1)).squeeze(-1);
  }

  torch::nn::ModuleList all(layer1, layer2);
  std::vector<torch::Tensor> trained;
  for (const torch::Tensor& p : all->parameters()) {
    if (p.requires_grad()) trained.push_back(p);
  }
  torch::optim::Adam optimizer(trained, torch::optim::AdamOptions(1e-2));
  float before = 0, after = 0;
  for (int step = 0; step < 300; ++step) {
    optimizer.zero_grad();
    const torch::Tensor loss = torch::mse_loss(model(x), target);
    loss.backward();
    optimizer.step();
    after = loss.item<float>();
    if (step == 0) before = after;
  }

  // What torch trained is what the layer holds: no copy in between.
  const auto B = layer1->adapter->layer().B(0);
  std::cout << "loss " << before << " -> " << after << "; " << trained.size()
            << " flat parameter tensors, |B_0| of layer 1 = " << B.norm() << '\n';
  return after < 0.5F * before && B.norm() > 0 ? 0 : 1;
}
