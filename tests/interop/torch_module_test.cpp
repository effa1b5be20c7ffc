// SPDX-License-Identifier: MIT
//
// TorchAdapter as a module among torch's: copies, and files with PEFT's names.
#include <set>
#include <string>
#include <vector>

#include "hydralora/hydralora.hpp"
#include "hydralora/interop/torch.hpp"
#include "hydralora/io/peft.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

namespace {

using namespace hydralora;

template <class Layer>
TorchAdapter<Layer> filled(const typename Layer::Config& config) {
  TorchAdapter<Layer> adapter(config, /*seed=*/5);
  const torch::NoGradGuard no_gradients;
  for (const auto& entry : adapter->peft_tensors("m")) entry.value().normal_();
  return adapter;
}

/// A host's module that contains an adapter.
struct Host : torch::nn::Cloneable<Host> {
  explicit Host(const HydraLoRAConfig& its_config) : config(its_config) { reset(); }
  void reset() override { adapter = register_module("adapter", TorchAdapter<HydraLoRA<float>>(config, /*seed=*/1)); }

  HydraLoRAConfig config;
  TorchAdapter<HydraLoRA<float>> adapter{nullptr};
};

}  // namespace

TEST_CASE("torch: a clone is the same module in memory of its own") {
  HydraLoRAConfig config{12, 7, 3};
  config.dropout = 0.5;
  const auto check = [&](TorchAdapterImpl<HydraLoRA<float>>& from, TorchAdapterImpl<HydraLoRA<float>>& to) {
    CHECK(to.layer().shape() == from.layer().shape());
    CHECK(to.layer().config().dropout == config.dropout);
    CHECK(to.layer().seed() == from.layer().seed());
    CHECK(to.layer().parameters() == from.layer().parameters());
    CHECK(to.down.data_ptr() == to.layer().parameters().data());
    CHECK(to.down.data_ptr() != from.down.data_ptr());
    CHECK(to.parameters()[0].is_same(to.down));
    CHECK_FALSE(to.down.grad().defined());
    CHECK_FALSE(to.up.requires_grad());
    CHECK(to.step == 4);
    CHECK(to.is_training());
    const torch::Tensor x = torch::randn({5, 12}), before = from.up.clone();
    const torch::Tensor y = to.forward(x, torch::zeros({5, 7}));  // with the same dropout
    CHECK(torch::equal(y, from.forward(x, torch::zeros({5, 7}))));
    y.sum().backward();
    CHECK(to.down.grad().defined());
    CHECK(torch::equal(from.down.grad(), torch::ones_like(from.down)));
    to.up.fill_(0);
    CHECK(torch::equal(from.up, before));
    from.step = 4;
  };
  auto adapter = filled<HydraLoRA<float>>(config);
  adapter->up.requires_grad_(false);
  adapter->down.mutable_grad() = torch::ones_like(adapter->down);
  adapter->step = 4;
  TorchAdapter<HydraLoRA<float>> copy(
      std::dynamic_pointer_cast<TorchAdapterImpl<HydraLoRA<float>>>(adapter->clone(torch::Device(torch::kCPU))));
  check(*adapter, *copy);
  adapter->eval();
  CHECK_FALSE(adapter->clone()->is_training());
  adapter->train();

  Host host(config);
  host.adapter->load_peft_tensors(adapter->peft_tensors("m"), "m");
  host.adapter->up.requires_grad_(false);
  host.adapter->down.mutable_grad() = torch::ones_like(adapter->down);
  host.adapter->step = 4;
  const auto host_copy = std::dynamic_pointer_cast<Host>(host.clone());
  check(*host.adapter, *host_copy->adapter);
  CHECK(host_copy->parameters()[0].is_same(host_copy->adapter->down));

  // The copy lives on without its original.
  TorchAdapter<HydraLoRA<float>> alone(
      std::dynamic_pointer_cast<TorchAdapterImpl<HydraLoRA<float>>>(filled<HydraLoRA<float>>(config)->clone()));
  CHECK(alone->layer().parameters().allFinite());
  CHECK(support::message_of([&] { adapter->clone(torch::Device("cuda")); }) == support::containing("on the CPU only"));
}

TEST_CASE("torch: a file of torch has the names and bits of an adapter directory") {
  const support::TemporaryFolder folder;
  const auto check = [&](auto adapter) {
    using Layer = std::decay_t<decltype(adapter->layer())>;
    PeftWriter writer;
    writer.add("a.up_proj", adapter->layer());
    writer.save(folder("adapter"));
    const std::vector<char> pickle = torch::pickle_save(adapter->peft_tensors("a.up_proj"));
    const auto read = torch::pickle_load(pickle).toGenericDict();
    const SafetensorsFile file(folder("adapter") / "adapter_model.safetensors");
    CHECK(read.size() == file.tensors().size());
    c10::Dict<std::string, torch::Tensor> tensors;
    for (const auto& entry : read) {
      const std::string name = entry.key().toStringRef();
      const torch::Tensor tensor = entry.value().toTensor();
      tensors.insert(name, tensor);
      Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic> written(tensor.size(0), tensor.size(1));
      file.read(name, written);
      CHECK(
          torch::equal(tensor, as_tensor(Eigen::Map<Eigen::MatrixXf>(written.data(), written.rows(), written.cols()))));
    }
    TorchAdapter<Layer> other(adapter->layer().config(), 9);
    other->load_peft_tensors(tensors, "a.up_proj");
    CHECK(other->layer().parameters() == adapter->layer().parameters());
    CHECK(other->layer().parameters() == PeftDirectory(folder("adapter")).load<Layer>("a.up_proj").parameters());

    // Of another type, and what is refused.
    for (const auto& entry : tensors) tensors.insert_or_assign(entry.key(), entry.value().to(torch::kDouble));
    const auto changed = other->layer().parameters().eval();
    other->down.detach().fill_(1);
    other->load_peft_tensors(tensors, "a.up_proj");
    CHECK(other->layer().parameters() == changed);
    const auto refused = [&](const auto& bad, const char* module) {
      return support::message_of([&] { other->load_peft_tensors(bad, module); });
    };
    CHECK(refused(tensors, "up_proj") == support::containing("no tensor base_model.model.up_proj.lora_A"));
    auto more = tensors.copy();
    more.insert("base_model.model.a.up_proj.lora_B17.weight", torch::zeros({1}));
    more.insert("base_model.model.other.lora_B17.weight", torch::zeros({1}));
    CHECK(refused(more, "a.up_proj") == support::containing("has no base_model.model.a.up_proj.lora_B17.weight"));
    auto turned = tensors.copy();
    turned.insert_or_assign(tensors.begin()->key(), tensors.begin()->value().t());
    CHECK(refused(turned, "a.up_proj") == support::containing(" 3], expected [3, "));
    CHECK(other->layer().parameters() == changed);
  };
  check(filled<LoRA<float>>({12, 7, 3}));
  SplitLoRAConfig split{12, 7, 3};
  check(filled<SplitLoRA<float>>(split));
  split.routing = Routing::learned;
  check(filled<SplitLoRA<float>>(split));
  check(filled<HydraLoRA<float>>({12, 7, 3}));
  check(filled<HydraLoRA<float>>({64, 1024, 3}));  // B with padding between its columns
}
