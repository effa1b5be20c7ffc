// SPDX-License-Identifier: MIT
//
// Against torch itself: its own autograd of the textbook formula, its allocator, its optimisers and files.
#include "hydralora/interop/torch.hpp"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <functional>
#include <map>

#include "hydralora/hydralora.hpp"
#include "hydralora/io/peft.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace hydralora;
using namespace support;
using torch::Tensor;

namespace {

template <class Scalar>
torch::TensorOptions type_of() {
  return torch::TensorOptions(torch::CppTypeToScalarType<Scalar>::value);
}

double relative(const Tensor& found, const Tensor& expected) {
  return (found - expected).norm().item<double>() / std::max(1e-300, expected.norm().item<double>());
}

template <class Scalar>
constexpr double tolerance = sizeof(Scalar) == 4 ? 1e-5 : 1e-10;

template <class Layer>
TorchAdapter<Layer> random_adapter(const typename Layer::Config& config) {
  TorchAdapter<Layer> adapter(config, /*seed=*/3);
  const torch::NoGradGuard no_gradients;
  hydralora::detail::for_each_tensor(adapter->layer(), [](const char*, Index, auto matrix) {
    as_tensor(matrix).copy_(0.4 * torch::randn({matrix.rows(), matrix.cols()}, torch::kDouble));
  });
  return adapter;
}

/// A layer's tensors as leaves of their own, and ΔW(x) in torch's words.
template <class Layer>
struct Textbook {
  explicit Textbook(const Layer& the_layer) : layer(the_layer) {
    hydralora::detail::for_each_tensor(layer, [&](const char* name, Index head, auto matrix) {
      leaves[key(name, head)] = as_tensor(matrix).clone().requires_grad_();
    });
  }
  static std::string key(const char* name, Index head) { return name + (head < 0 ? "" : std::to_string(head)); }
  Tensor operator()(const Tensor& x, const Tensor& given) const {
    const Index heads = layer.shape().heads;
    Tensor weights = given;
    if (layer.shape().gated()) weights = torch::softmax(torch::linear(x, leaves.at("lora_route")), -1);
    Tensor sum;
    for (Index i = 0; i < heads; ++i) {
      const auto of_head = [&](const std::string& part) {  // its own, or the one that there is
        return leaves.at(leaves.count(part) > 0 ? part : part + std::to_string(i));
      };
      Tensor head = torch::linear(torch::linear(x, of_head("lora_A")), of_head("lora_B"));
      if (weights.defined()) head = head * weights.select(-1, i).unsqueeze(-1);
      sum = i == 0 ? head : sum + head;
    }
    return sum * static_cast<double>(layer.scaling());
  }
  const Layer& layer;
  std::map<std::string, Tensor> leaves;
};

/// y, dx and every gradient of a loss over several leading dimensions, ours and torch's.
template <class Layer>
void check_against_autograd(const typename Layer::Config& config, const std::vector<std::int64_t>& leading) {
  using Scalar = typename Layer::Scalar;
  const auto type = type_of<Scalar>();
  auto adapter = random_adapter<Layer>(config);
  const Textbook<Layer> textbook(adapter->layer());
  const auto shape = [&](Index features) {
    std::vector<std::int64_t> all = leading;
    all.push_back(features);
    return all;
  };
  const Tensor W = torch::randn({config.out_features, config.in_features}, type),
               x0 = torch::randn(shape(config.in_features), type),
               target = torch::randn(shape(config.out_features), type);
  Tensor given0;
  if (adapter->layer().shape().takes_weights) given0 = torch::rand(shape(adapter->layer().shape().heads), type);
  const auto run = [&](const std::function<Tensor(const Tensor&, const Tensor&)>& model) {
    Tensor x = x0.clone().requires_grad_(), given = given0.defined() ? given0.clone().requires_grad_() : Tensor();
    const Tensor y = model(x, given), activation = torch::tanh(y);
    (activation * target).sum().backward();
    return std::vector<Tensor>{y.detach(), x.grad(), given.defined() ? given.grad() : torch::zeros({1}, type)};
  };
  const auto found =
      run([&](const Tensor& x, const Tensor& given) { return adapter->forward(x, torch::linear(x, W), given); });
  const auto expected =
      run([&](const Tensor& x, const Tensor& given) { return torch::linear(x, W) + textbook(x, given); });
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(relative(found[i], expected[i]) <= tolerance<Scalar>);
  }
  Tensor flat = torch::cat({adapter->down.grad(), adapter->up.grad()});
  typename Layer::Gradients g(config, ParameterMap<Scalar>(flat.template data_ptr<Scalar>(), flat.numel()));
  hydralora::detail::for_each_tensor(g, [&](const char* name, Index head, auto matrix) {
    CAPTURE(name);
    CAPTURE(head);
    const Tensor expected_gradient = textbook.leaves.at(Textbook<Layer>::key(name, head)).grad();
    CHECK(expected_gradient.norm().template item<double>() > 0);
    CHECK(relative(as_tensor(matrix), expected_gradient) <= tolerance<Scalar>);
  });
}

/// Counts what torch allocates while it lives.
class CountedAllocations final : public c10::Allocator {
 public:
  CountedAllocations() : before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 1); }
  ~CountedAllocations() override { c10::SetCPUAllocator(before_, 1); }
  c10::DataPtr allocate(std::size_t bytes) const override {
    largest_ = std::max(largest_, bytes);
    return before_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return before_->raw_deleter(); }
  std::size_t largest() const { return largest_; }

 private:
  c10::Allocator* before_;
  mutable std::size_t largest_ = 0;
};

}  // namespace

TEST_CASE_TEMPLATE("torch: y, dx and every gradient are those of autograd on the formula", Scalar, float, double) {
  torch::manual_seed(1);
  const std::vector<std::vector<std::int64_t>> shapes = {{7}, {1}, {3, 5}, {2, 1, 4}, {130}};
  for (const auto& leading : shapes) {
    CAPTURE(leading.size());
    check_against_autograd<LoRA<Scalar>>({19, 11, 4}, leading);
    for (const Routing routing : {Routing::uniform, Routing::learned, Routing::given}) {
      check_against_autograd<SplitLoRA<Scalar>>({19, 11, 4, 16, false, 0, 3, routing}, leading);
      if (routing == Routing::uniform) continue;
      check_against_autograd<HydraLoRA<Scalar>>({19, 11, 4, 16, false, 0, 3, routing}, leading);
    }
  }
  check_against_autograd<HydraLoRA<Scalar>>({64, 1024, 8}, {33});  // columns of B are padded
}

TEST_CASE("torch: y may be a view: of a biased Linear's result on sequences, or of a wider tensor") {
  torch::manual_seed(5);
  for (const Index out : {6, 9}) {  // as many features as x has, and others
    CAPTURE(out);
    auto adapter = random_adapter<LoRA<double>>({6, out, 2});
    const Textbook<LoRA<double>> textbook(adapter->layer());
    torch::nn::Linear first(6, 6), base(6, out);
    first->to(torch::kDouble);
    base->to(torch::kDouble);
    const Tensor x0 = torch::randn({3, 5, 6}, torch::kDouble), target = torch::randn({3, 5, out}, torch::kDouble);
    for (const bool narrow : {false, true}) {
      CAPTURE(narrow);
      const auto gradients = [&](bool ours) {
        Tensor x = x0.clone().requires_grad_();
        const Tensor hidden = first(x);
        Tensor y = base(hidden);
        Tensor wide = torch::cat({y, y}, -1), part = narrow ? wide.narrow(-1, out, out) : y;
        part = ours ? adapter->forward(hidden, part) : part + textbook(hidden, {});
        const Tensor loss = narrow && ours ? (torch::tanh(wide) * torch::cat({target, target}, -1)).sum()
                            : narrow ? (torch::tanh(torch::cat({y, part}, -1)) * torch::cat({target, target}, -1)).sum()
                                     : (torch::tanh(part) * target).sum();
        first->zero_grad();
        base->zero_grad();
        loss.backward();
        return std::vector<Tensor>{x.grad(), first->weight.grad().clone(), base->weight.grad().clone(),
                                   base->bias.grad().clone()};
      };
      const auto found = gradients(true), expected = gradients(false);
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(relative(found[i], expected[i]) <= 1e-10);
    }
  }
}

TEST_CASE("torch: nothing is copied") {
  torch::manual_seed(2);
  const HydraLoRAConfig config{256, 192, 8};
  auto adapter = random_adapter<HydraLoRA<float>>(config);
  CHECK(adapter->down.data_ptr() == adapter->layer().parameters().data());
  CHECK(adapter->up.data_ptr() == adapter->layer().up_parameters().data());
  Tensor x = torch::randn({64, 256}).requires_grad_(), target = torch::randn({64, 192});
  const Tensor y = torch::randn({64, 192});
  void* const address = y.data_ptr();
  Tensor result;
  {
    const CountedAllocations counted;
    result = adapter->forward(x, y);
    CHECK(counted.largest() < 1024);
    const torch::NoGradGuard no_gradients;
    adapter->forward(x, y);
    CHECK(counted.largest() < 1024);
  }
  CHECK(result.data_ptr() == address);
  (result * target).sum().backward();
  // torch took the two gradients over as they are: they still lie in one piece of memory.
  CHECK(adapter->down.grad().storage().data() == adapter->up.grad().storage().data());

  // x is read where it lies: what is written there behind torch's back is what the backward pass sees.
  const LoRAConfig lora{5, 4, 2};
  auto plain = random_adapter<LoRA<double>>(lora);
  Tensor small = torch::randn({6, 5}, torch::kDouble);
  const auto gradient = [&](double factor) {
    const Tensor seen = small.clone();
    plain->zero_grad();
    const Tensor out = plain->forward(seen, torch::zeros({6, 4}, torch::kDouble));
    for (std::int64_t i = 0; i < seen.numel(); ++i) seen.data_ptr<double>()[i] *= factor;
    (out * torch::ones({6, 4}, torch::kDouble)).sum().backward();
    return plain->down.grad().clone();
  };
  CHECK(torch::equal(gradient(2), 2 * gradient(1)));
}

TEST_CASE("torch: strided tokens are taken as they are, what would need a copy is refused") {
  auto adapter = random_adapter<LoRA<float>>({6, 4, 2});
  const Tensor wide = torch::randn({3, 5, 10}), x = wide.narrow(2, 2, 6), out = torch::zeros({3, 5, 9});
  adapter->forward(x, out.narrow(2, 0, 4));
  const Tensor expected = adapter->forward(x.contiguous(), torch::zeros({3, 5, 4}));
  CHECK(torch::equal(out.narrow(2, 0, 4), expected));
  CHECK(out.narrow(2, 4, 5).abs().max().item<float>() == 0);
  const auto refused = [&](const Tensor& bad_x, const Tensor& bad_y) {
    return message_of([&] { adapter->forward(bad_x, bad_y); });
  };
  const Tensor y = torch::zeros({3, 5, 4});
  for (const Tensor& uneven :
       {torch::randn({6, 15}).t(), x.transpose(0, 1), torch::randn({1, 1, 6}).expand({3, 5, 6})}) {
    CHECK(refused(uneven, y) == containing("x: its tokens are not evenly spaced"));
  }
  CHECK(refused(x.to(torch::kDouble), y) == containing("x holds Double, the layer Float"));
  CHECK(refused(torch::randn({3, 5, 7}), y) == containing("x is 7x15, expected 6x15"));
  CHECK(refused(x, torch::zeros({14, 4})) == containing("y is 4x14, expected 4x15"));
  CHECK(refused(Tensor(), y) == containing("x is undefined"));
  CHECK(y.abs().max().item<float>() == 0);
  CHECK_THROWS_WITH_AS(TorchAdapter<LoRA<float>>(LoRAConfig{0, 4, 2}), doctest::Contains("in_features 0"),
                       std::invalid_argument);
  adapter->forward(torch::randn({0, 6}), torch::zeros({0, 4})).sum().backward();  // no tokens: no gradient, no error
  CHECK(adapter->up.grad().abs().sum().item<float>() == 0);
}

TEST_CASE("torch: what it watches over, it watches over here too") {
  auto adapter = random_adapter<LoRA<float>>({6, 4, 2});
  const Tensor x = torch::randn({5, 6});
  const auto fails = [](const std::function<void()>& f) { return message_of<std::exception>(f); };
  const Tensor written = x.clone(), y = adapter->forward(written, torch::zeros({5, 4}));
  written.add_(1);
  CHECK(fails([&] { y.sum().backward(); }) == containing("modified by an inplace operation"));
  const Tensor again = adapter->forward(x, torch::zeros({5, 4}));
  {
    const torch::NoGradGuard no_gradients;
    adapter->up.mul_(2);
  }
  CHECK(fails([&] { again.sum().backward(); }) == containing("modified by an inplace operation"));
  Tensor needs = x.clone().requires_grad_();
  const Tensor twice = adapter->forward(needs, torch::zeros({5, 4}));
  CHECK(fails([&] { torch::autograd::grad({twice.sum()}, {needs}, {}, true, true); }) ==
        containing("once differentiable"));
  {
    const Tensor root = torch::zeros({5, 4}).requires_grad_(),
                 grown = torch::exp(root);  // its backward needs its values
    const Tensor loss = grown.sum();
    {
      const torch::NoGradGuard no_gradients;
      adapter->forward(x, grown);
    }
    CHECK(fails([&] { loss.backward(); }) == containing("modified by an inplace operation"));
  }
  Tensor leaf = torch::zeros({5, 4}).requires_grad_();
  CHECK(fails([&] { adapter->forward(x, leaf); }) == containing("leaf"));
  // A graph that outlives its module.
  Tensor result;
  {
    auto short_lived = random_adapter<LoRA<float>>({6, 4, 2});
    result = short_lived->forward(needs, torch::zeros({5, 4}));
  }
  result.sum().backward();
  CHECK(needs.grad().abs().sum().item<float>() > 0);
}

TEST_CASE("torch: dropout is the layer's own, in training and nowhere else; a pooling gate takes each sequence alone") {
  HydraLoRAConfig config{12, 7, 3};
  config.dropout = 0.5;
  auto adapter = random_adapter<HydraLoRA<float>>(config);
  const HydraLoRA<float>& layer = adapter->layer();
  const Tensor x = torch::randn({9, 12});
  const auto library = [&](bool training, std::uint64_t step) {
    const Tensor y = torch::zeros({9, 7});
    HydraLoRA<float>::Cache cache;
    CallOptions<float> options;
    options.step = step;
    if (training) {
      layer.forward(tokens_of<float>(x, "x"), tokens_of<float>(y, "y"), cache, options);
    } else {
      layer.forward(tokens_of<float>(x, "x"), tokens_of<float>(y, "y"));
    }
    return y;
  };
  const auto forward = [&] { return adapter->forward(x, torch::zeros({9, 7})); };
  const auto without_gradients = [&] {
    const torch::NoGradGuard no_gradients;
    return forward();
  };
  CHECK(torch::equal(forward(), library(true, 0)));
  CHECK(torch::equal(forward(), library(true, 1)));
  CHECK(torch::equal(without_gradients(), library(true, 2)));
  CHECK_FALSE(torch::equal(library(true, 0), library(true, 1)));
  adapter->eval();
  CHECK(torch::equal(forward(), library(false, 0)));
  CHECK(torch::equal(without_gradients(), library(false, 0)));
  CHECK(adapter->step == 3);

  config.gate.granularity = GateGranularity::segment;
  auto pooling = random_adapter<HydraLoRA<float>>(config);
  pooling->eval();
  const Tensor batch = torch::randn({4, 5, 12}), together = pooling->forward(batch, torch::zeros({4, 5, 7}));
  for (std::int64_t sequence = 0; sequence < 4; ++sequence) {
    CHECK(torch::equal(together[sequence], pooling->forward(batch[sequence], torch::zeros({5, 7}))));
  }
}

TEST_CASE("torch: its Adam trains the layer's own memory, its files bring it back") {
  torch::manual_seed(4);
  const HydraLoRAConfig config{16, 8, 4};
  TorchAdapter<HydraLoRA<float>> adapter(config, 1);
  torch::optim::Adam optimizer(adapter->parameters(), torch::optim::AdamOptions(0.02));
  const Tensor x = torch::randn({64, 16}), target = torch::randn({64, 16}).matmul(torch::randn({16, 8}));
  double first = 0, last = 0;
  for (int step = 0; step < 150; ++step) {
    optimizer.zero_grad();
    const Tensor loss = torch::mse_loss(adapter->forward(x, torch::zeros({64, 8})), target);
    loss.backward();
    torch::nn::utils::clip_grad_norm_(adapter->parameters(), 10.0);
    optimizer.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  CHECK(last < 0.5 * first);
  CHECK(adapter->layer().B(0).norm() > 0);
  const TemporaryFolder folder;
  torch::save(adapter, folder("adapter.pt").string());
  TorchAdapter<HydraLoRA<float>> other(config, 2);
  torch::load(other, folder("adapter.pt").string());
  CHECK(other->layer().parameters() == adapter->layer().parameters());
  CHECK(torch::equal(other->forward(x, torch::zeros({64, 8})), adapter->forward(x, torch::zeros({64, 8}))));
  CHECK(other->down.data_ptr() == other->layer().parameters().data());
  other->to(torch::kDouble);
  CHECK(message_of([&] { other->forward(x, torch::zeros({64, 8})); }) == containing("parameter down has become"));
}

TEST_CASE_TEMPLATE("modules with numbers of 16 bits", Layer, HydraLoRA<Eigen::bfloat16>, HydraLoRA<Eigen::half>,
                   HydraLoRA<float, Eigen::bfloat16>) {
  const HydraLoRAConfig config{24, 16, 4, 8.0, false, 0.0, 3};
  TorchAdapter<Layer> adapter = random_adapter<Layer>(config);
  TorchAdapter<HydraLoRA<double>> twin(config, 1);
  twin->load_peft_tensors(adapter->peft_tensors("m"), "m");
  const torch::ScalarType type = hydralora::detail::torch_type<typename Layer::Activation>;
  const Tensor x = torch::randn({7, 24}).to(type).requires_grad_(),
               wide_x = x.detach().to(torch::kDouble).requires_grad_();
  const Tensor y = adapter->forward(x, torch::zeros({7, 16}, type));
  const Tensor wide_y = twin->forward(wide_x, torch::zeros({7, 16}, torch::kDouble));
  const Tensor dy = torch::randn({7, 16}).to(type);
  y.backward(dy);
  wide_y.backward(dy.to(torch::kDouble));
  CHECK((y.scalar_type() == type));
  CHECK((adapter->down.grad().scalar_type() == adapter->down.scalar_type()));
  const double rounding = 4e-3;  // of bfloat16
  CHECK(relative(y.to(torch::kDouble), wide_y) < rounding);
  CHECK(relative(x.grad().to(torch::kDouble), wide_x.grad()) < rounding);
  CHECK(relative(adapter->down.grad().to(torch::kDouble), twin->down.grad()) < rounding);
  CHECK(relative(adapter->up.grad().to(torch::kDouble), twin->up.grad()) < rounding);
}
