// SPDX-License-Identifier: MIT
//
// A layer with a middle of the user's has everything that the library's layers have.
#include <complex>
#include <hydralora/layers/adapter_set.hpp>
#include <hydralora/train.hpp>
#include <memory>

#include "support/layers.hpp"
#include "support/middles.hpp"

namespace {

using namespace hydralora;
using namespace support;
using Complex = std::complex<double>;

/// Every gradient and dx against the complex step of the layer itself.
template <class Layer>
void check_gradients(Layer layer, CallOptions<Complex> options = {}) {
  const AdapterShape& s = layer.shape();
  const Index tokens = 6, count = layer.parameter_count();
  layer.parameters() = 0.5 * random_matrix<Complex>(count, 1, 1).real().cast<Complex>();
  Matrix<Complex> x = random_matrix<Complex>(s.in, tokens, 2).real().cast<Complex>();
  const Matrix<Complex> dy = random_matrix<Complex>(s.out, tokens, 3).real().cast<Complex>();
  Matrix<Complex> y = Matrix<Complex>::Zero(s.out, tokens), dx = Matrix<Complex>::Zero(s.in, tokens);
  options.step = 7;
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config());
  layer.forward(x, y, cache, options);
  layer.backward(x, dy, cache, g, dx, options);
  for (Index i = 0; i < count + x.size(); ++i) {
    Complex& number = i < count ? layer.parameters()[i] : x.data()[i - count];
    const double gradient = (i < count ? g.parameters()[i] : dx.data()[i - count]).real();
    number += Complex(0, 1e-30);
    y.setZero();
    layer.forward(x, y, cache, options);
    number = number.real();
    CHECK(dy.cwiseProduct(y).sum().imag() / 1e-30 == doctest::Approx(gradient).epsilon(1e-12));
  }
}

template <class Layer>
void check_everything(const Layer& layer) {
  const AdapterShape& s = layer.shape();
  const Index tokens = 40;
  const Matrix<float> x = random_matrix<float>(s.in, tokens, 1), dy = random_matrix<float>(s.out, tokens, 2);
  TrainingCall whole(layer, x, dy);

  // a token by itself has the same bits
  CallOptions<float> third;
  third.first_token = 3;
  CHECK(same_bits<float>(TrainingCall(layer, x.col(3), dy.col(3), third).y, whole.y.col(3)));

  // slices
  Matrix<float> y = Matrix<float>::Ones(s.out, tokens), dx = Matrix<float>::Ones(s.in, tokens), frozen_dx = dx;
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config()), frozen(layer.config());
  const SlicedForward<Layer> forward(layer, x, y, cache);
  for (Index i = 3; i-- > 0;) forward.run(i, 3);
  const SlicedBackward<Layer> backward(layer, x, dy, cache, g, dx);
  for (int phase = 0; phase < 2; ++phase) {
    for (Index i = 3; i-- > 0;) backward.run(phase, i, 3);
  }
  CHECK(same_bits(y, whole.y));
  CHECK(same_bits(dx, whole.dx));
  CHECK(same_bits<float>(g.parameters(), whole.g.parameters()));

  // A frozen: B gets the same bits, A nothing
  layer.backward_frozen_A(dy, cache, frozen, frozen_dx);
  CHECK(same_bits<float>(frozen.up_parameters(), g.up_parameters()));
  CHECK(same_bits(frozen_dx, dx));
  CHECK(frozen.down_parameters().isZero(0));

  // sets
  AdapterSet<Layer> set;
  const Index place = set.add("own", std::make_unique<Layer>(layer));
  Matrix<float> set_y = Matrix<float>::Zero(s.out, tokens);
  set.forward(x, set_y, {{place, 30}, {base_only, 10}});
  CHECK(same_bits<float>(set_y.leftCols(30), apply(layer, x).leftCols(30)));
  CHECK(set_y.rightCols(10).isZero(0));

  // the optimiser, on a frozen base
  AdaptedLinear<DenseLinear<float>, Layer> adapted(DenseLinear<float>(random_matrix<float>(s.out, s.in, 9)), layer);
  AdamW<float> optimizer({{adapted.adapter.parameters(), g.parameters(), 1e-3}});
  optimizer.step();
  CHECK_FALSE(same_bits<float>(adapted.adapter.parameters(), layer.parameters()));

  // parameters in the host's memory
  std::vector<float> buffer(static_cast<std::size_t>(layer.parameter_count()));
  const ParameterMap<float> lent(buffer.data(), layer.parameter_count());
  Layer guest(layer.config(), lent, layer.seed());
  guest.parameters() = layer.parameters();
  CHECK(same_bits(TrainingCall(guest, x, dy).y, whole.y));

  // checks
  CHECK(message_of([&] { layer.forward(x.topRows(s.in - 1), y); }).find(std::string(s.layer) + "::forward: x is ") ==
        0);
  CHECK(message_of([&] { layer.backward(x.leftCols(5), dy.leftCols(5), cache, g); }) ==
        containing("with 40 tokens, expected"));
  const std::vector<Index> few{1, 2};
  CallOptions<float> wrong;
  wrong.segments = few;
  CHECK(message_of([&] { layer.forward(x, y, wrong); }) == containing("the segments hold 3 of 40 tokens"));
  wrong = {};
  wrong.weights = dy;
  CHECK(message_of([&] { layer.forward(x, y, wrong); }) == containing("takes none"));
}

}  // namespace

TEST_CASE("a middle of the user's: gradients, also with dropout, gates and segments") {
  check_gradients(Bottleneck<Complex>({7, 5, 3, 2.0}, 1));
  check_gradients(Bottleneck<Complex>({7, 5, 3, 2.0, true, 0.3}, 1));
  const std::vector<Index> segments{2, 4};
  CallOptions<Complex> options;
  options.segments = segments;
  for (const GateInput input : {GateInput::x, GateInput::projection}) {
    for (const GateGranularity granularity :
         {GateGranularity::token, GateGranularity::segment, GateGranularity::causal}) {
      const GateConfig gate{input, GateSelection::dense, granularity, 0.5};
      check_gradients(RoutedBottlenecks<Complex>({7, 5, 2, 3.0, false, 0, 3, Routing::learned, gate}, 1), options);
    }
  }
}

TEST_CASE("a middle of the user's: what every layer has") {
  check_everything(randomized(Bottleneck<float>({37, 21, 4, 2.0, false, 0.2}, 5), 6));
  check_everything(randomized(RoutedBottlenecks<float>({37, 21, 4, 2.0, false, 0.2, 3, Routing::learned}, 5), 6));
  CHECK(message_of([] {
          RoutedBottlenecks<float>({4, 4, 2, 2.0, false, 0, 0});
        }) == "SiLUHeads: heads 0 must be at least 1");
  const GateConfig gate{GateInput::x, GateSelection::dense, GateGranularity::token, 1, 4};
  CHECK(message_of([&] {
          RoutedBottlenecks<float>({4, 4, 2, 2.0, false, 0, 3, Routing::learned, gate});
        }) == "SiLUHeads: gate.top_k 4 must be in [1, 3], the number of heads");
}

TEST_CASE("a cache belongs to its gate and its dropout: the message names the setting and both values") {
  using Change = void (*)(HydraLoRAConfig&);
  const auto refused = [](Change change, Change change_first) {
    HydraLoRAConfig config{8, 6, 2, 16, false, 0, 3};
    change_first(config);
    const HydraLoRA<float> one(config);
    change(config);
    const HydraLoRA<float> other(config);
    const Matrix<float> x = random_matrix<float>(8, 5, 1), dy = random_matrix<float>(6, 5, 2);
    const TrainingCall call(one, x, dy);
    Matrix<float> dx = x;
    HydraLoRA<float>::Gradients g(config);
    const std::string message = message_of([&] { other.backward(x, dy, call.cache, g, dx); });
    const auto difference = message.rfind(" tokens, ");
    if (difference == std::string::npos) return message;
    CHECK(same_bits(dx, x));
    CHECK(g.parameters().isZero(0));
    CHECK(message_of([&] { other.backward_frozen_A(dy, call.cache, g, dx); }) == message);
    return message.substr(difference + 9);
  };
  using Config = HydraLoRAConfig;
  const Change nothing = [](Config&) {}, one_head = [](Config&c) { c.heads = 1; },
               top_k = [](Config&c) { c.gate.selection = GateSelection::top_k; },
               top_p = [](Config&c) { c.gate.selection = GateSelection::top_p; };
  CHECK(refused([](Config& c) { c.gate.temperature = 0.1; }, nothing) == "temperature 1, expected 0.1");
  CHECK(refused([](Config& c) { c.gate.top_k = 2; }, top_k) == "top_k 1, expected 2");
  CHECK(refused([](Config& c) { c.gate.top_p = 0.7; }, top_p) == "top_p 1, expected 0.7");
  CHECK(refused(top_k, nothing) == "selection GateSelection::dense, expected GateSelection::top_k");
  CHECK(refused([](Config& c) { c.gate.granularity = GateGranularity::causal; }, nothing) ==
        "granularity GateGranularity::token, expected GateGranularity::causal");
  CHECK(refused([](Config& c) { c.gate.input = GateInput::projection; }, nothing) ==
        "input GateInput::x, expected GateInput::projection");
  CHECK(refused([](Config& c) { c.gate.keep_log_partition = true; }, nothing) == "keep_log_partition 0, expected 1");
  CHECK(refused([](Config& c) { c.dropout = 0.25; }, [](Config& c) { c.dropout = 0.5; }) ==
        "dropout 0.5, expected 0.25");
  CHECK(refused([](Config& c) { c.dropout = 0.25; }, nothing) == "dropout 0, expected 0.25");

  // settings without effect do not matter
  CHECK(refused([](Config& c) { c.gate.top_k = 2, c.gate.top_p = 0.5; }, nothing) == "nothing thrown");
  CHECK(refused([](Config& c) { c.gate.temperature = 5; }, one_head) == "nothing thrown");
  CHECK(refused([](Config& c) { c.gate.top_p = 0.5; },
                [](Config& c) { c.heads = 1, c.gate.selection = GateSelection::top_p; }) == "nothing thrown");

  // dropout draws its masks from the layer's seed
  const HydraLoRA<float> one(Config{8, 6, 2, 16, false, 0.5, 3}, 1), other(one.config(), 2);
  const Matrix<float> x = random_matrix<float>(8, 5, 1), dy = random_matrix<float>(6, 5, 2);
  TrainingCall call(one, x, dy);
  CHECK(message_of([&] { other.backward(x, dy, call.cache, call.g); }) == containing(", dropout of another seed"));
}
