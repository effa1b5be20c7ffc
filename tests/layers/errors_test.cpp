// SPDX-License-Identifier: MIT
//
// Every mistake in an argument throws std::invalid_argument with both sides of the disagreement, and writes nothing.
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Function>
void refused(Function&& f, const std::string& part) {
  CHECK(message_of(f) == containing(part));
}

template <class Layer>
void check_config() {
  using Config = typename Layer::Config;
  const Config good{8, 6, 2};
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  constexpr Index most = std::numeric_limits<Index>::max();
  const auto changed = [&](auto change, const char* part) {
    Config c = good;
    change(c);
    refused([&] { Layer layer(c); }, part);
    refused([&] { typename Layer::Gradients g(c); }, part);
  };
  changed([](Config& c) { c.rank = 0; }, "rank 0 must be at least 1");
  changed([](Config& c) { c.rank = -3; }, "rank -3 must be at least 1");
  changed([](Config& c) { c.in_features = 0; }, "in_features 0");
  changed([](Config& c) { c.out_features = -1; }, "out_features -1");
  changed([](Config& c) { c.alpha = nan; }, "alpha nan must be finite");
  changed([](Config& c) { c.alpha = inf; }, "alpha inf must be finite");
  changed([](Config& c) { c.dropout = nan; }, "dropout nan must be in [0, 1)");
  changed([](Config& c) { c.dropout = 1; }, "dropout 1 must be in [0, 1)");
  changed([](Config& c) { c.dropout = -0.1; }, "dropout -0.1 must be in [0, 1)");
  changed([](Config& c) { c.in_features = most / 2; }, "are too many");
  changed([](Config& c) { c.rank = most; }, "are too many");
  // each fits, the sum does not
  changed([](Config& c) { c.in_features = c.out_features = Index{1} << 61; }, "are too many");
  if constexpr (!std::is_same_v<Config, LoRAConfig>) {
    changed([](Config& c) { c.heads = 0; }, "heads 0 must be at least 1");
    changed([](Config& c) { c.heads = -2; }, "heads -2 must be at least 1");
  }
  std::vector<float> buffer(10);
  refused([&] { Layer layer(good, ParameterMap<float>(buffer.data(), 10)); }, "the lent buffer has 10 numbers");
  refused([&] { Layer layer(good, ParameterMap<float>(nullptr, 0)); }, "null");
}

}  // namespace

TEST_CASE("configs that make no sense are refused before anything is allocated") {
  check_config<LoRA<float>>();
  check_config<SplitLoRA<float>>();
  check_config<HydraLoRA<float>>();
  check_config<SharedBLoRA<float>>();
  SharedBLoRAConfig summed{8, 6, 2};
  summed.routing = Routing::uniform;
  CHECK(message_of([&] { SharedBLoRA<float> layer(summed); }) ==
        "SharedBLoRA: Routing::uniform would be one LoRA with A = A_1 + ... + A_N");
}

TEST_CASE("a call with the wrong shapes, overlaps, cache or gradients throws and leaves everything untouched") {
  for_each_layer<float>({{8, 6, 2, 3, 5}}, {0.0}, 1, [](const auto& layer, const Inputs<float>& in) {
    using Layer = std::decay_t<decltype(layer)>;
    const Matrix<float>& weights = in.weights;
    Matrix<float> x = in.x, dy = in.dy, y = random_matrix<float>(6, 5, 4), dx = random_matrix<float>(8, 5, 5);
    const Matrix<float> y0 = y, dx0 = dx;
    CallOptions<float> options = in.options, wrong;
    typename Layer::Cache cache, empty;
    typename Layer::Gradients g(layer.config());

    // forward
    refused([&] { layer.forward(x.topRows(7), y, cache, options); },
            "::forward: x is 7x5, expected 8x5 (in_features x tokens)");
    refused([&] { layer.forward(x, y.leftCols(4), cache, options); }, "y is 6x4, expected 6x5 (out_features x tokens)");
    refused([&] { layer.forward(x, y.topRows(5), options); }, "y is 5x5, expected 6x5");
    refused([&] { layer.forward(x, x.topRows(6), options); }, "x 8x5 and y 6x5 overlap");
    CHECK(cache.tokens() == 0);
    CHECK(same_bits(y, y0));
    if (weights.size() > 0) {
      refused([&] { layer.forward(x, y); }, "weights are 0x0, expected 3x5 (heads x tokens)");
      const Matrix<float> few = weights.topRows(2);
      wrong.weights = few;
      refused([&] { layer.forward(x, y, wrong); }, "weights are 2x5, expected 3x5");
      wrong.weights = y.topRows(3);
      refused([&] { layer.forward(x, y, wrong); }, "weights 3x5 and y 6x5 overlap");
    } else {
      const Matrix<float> unwanted = random_matrix<float>(3, 5, 1);
      wrong.weights = unwanted;
      refused([&] { layer.forward(x, y, wrong); }, "weights are 3x5, but this layer takes none");
    }
    CHECK(same_bits(y, y0));

    // backward
    layer.forward(x, y, cache, options);
    refused([&] { layer.backward(x, dy, empty, g, dx); }, "the cache is from empty");
    refused([&] { layer.backward(x.leftCols(4), dy.leftCols(4), cache, g, dx.leftCols(4)); },
            "with 5 tokens, expected");
    refused([&] { layer.backward(x, dy.topRows(5), cache, g, dx); }, "dy is 5x5, expected 6x5");
    refused([&] { layer.backward(x, dy, cache, g, dx.topRows(7)); }, "dx is 7x5, expected 8x5");
    refused([&] { layer.backward(x, dy, cache, g, x); }, "dx 8x5 and x 8x5 overlap");
    Matrix<float> dweights = Matrix<float>::Zero(4, 5), joined = Matrix<float>::Zero(14, 5);
    typename Layer::Gradients own(layer.config());
    wrong = {};
    wrong.weights_gradient = dweights;
    refused([&] { layer.backward(x, dy, cache, g, dx, wrong); }, "weights_gradient are 4x5");
    if (weights.size() > 0) {
      wrong.weights_gradient = dy.topRows(3);
      refused([&] { layer.backward(x, dy, cache, g, wrong); }, "weights_gradient 3x5 overlaps x or dy");
      wrong.weights_gradient = dx.topRows(3);
      refused([&] { layer.backward(x, dy, cache, g, dx, wrong); }, "dx 8x5 and weights_gradient 3x5 overlap");
      wrong.weights_gradient = dweights.topLeftCorner(0, 0);  // empty, though not null: none wanted
      CHECK(message_of([&] { layer.backward(x, dy, cache, own, wrong); }) == "nothing thrown");
    }
    CHECK(dweights.isZero(0));
    refused([&] { layer.backward(x, joined.middleRows(3, 6), cache, g, joined.topRows(8)); },
            "dx 8x5 and dy 6x5 overlap");
    CHECK(message_of([&] { layer.backward(x, joined.bottomRows(6), cache, own, joined.topRows(8)); }) ==
          "nothing thrown");
    auto other = layer.config();
    other.rank = 3;
    typename Layer::Gradients other_g(other);
    refused([&] { layer.backward(x, dy, cache, other_g, dx); }, "the gradients are for");
    refused([&] { layer.backward(x, dy, cache, other_g, dx); }, "rank 3");
    if constexpr (!std::is_same_v<typename Layer::Config, LoRAConfig>) {
      auto more = layer.config();
      more.heads = 4;
      typename Layer::Gradients more_g(more);
      refused([&] { layer.backward(x, dy, cache, more_g, dx); }, "heads 4");
      if constexpr (!std::is_same_v<typename Layer::Config, SharedBLoRAConfig>) {
        refused([&] { typename Layer::Gradients(layer.config()).B(3); }, "head 3 of 3 heads");
      }
      if constexpr (!std::is_same_v<typename Layer::Config, HydraLoRAConfig>) {
        refused([&] { typename Layer::Gradients(layer.config()).A(3); }, "head 3 of 3 heads");
        refused([&] { static_cast<void>(layer.A(-1)); }, "head -1 of 3 heads");
      }
    }
    // a cache of the same type from another layer
    const TrainingCall foreign(Layer(other), x, dy, options);
    refused([&] { layer.backward(x, dy, foreign.cache, g, dx); }, "the cache is from");
    CHECK((same_bits(dx, dx0) && g.parameters().isZero(0)));
  });
}

TEST_CASE("zero tokens are a no-op everywhere") {
  for_each_layer<float>({{8, 6, 2, 3, 0}}, {0.1}, 1, [](const auto& layer, const Inputs<float>& in) {
    TrainingCall call(layer, in.x, in.dy);
    layer.forward(in.x, call.y);
    layer.backward(in.x, in.dy, call.cache, call.g);
    CHECK(call.g.parameters().isZero(0));
  });
}

TEST_CASE("AdaptedLinear refuses a base and an adapter of different shapes; DenseLinear refuses wrong views") {
  using Adapted = AdaptedLinear<DenseLinear<float>, LoRA<float>>;
  refused(
      [] {
        Adapted(DenseLinear<float>(Matrix<float>(6, 9)), LoRA<float>(LoRAConfig{8, 6, 2}));
      },
      "the base's weight is 6x9, the adapter's is 6x8");
  const DenseLinear<float> base(Matrix<float>::Ones(6, 8));
  Matrix<float> x = Matrix<float>::Ones(8, 5), y = Matrix<float>::Zero(6, 5);
  refused([&] { base.forward(x.topRows(7), y); }, "the input is 7x5, expected 8x5");
  refused([&] { base.forward(x, y.leftCols(3)); }, "the output is 6x3, expected 6x5");
  refused([&] { base.forward(x, x.topRows(6)); }, "overlap");
  CHECK(y.isZero(0));
}
