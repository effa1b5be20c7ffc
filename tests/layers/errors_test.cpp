// SPDX-License-Identifier: MIT
//
// Every mistake in an argument throws std::invalid_argument with both sides of the disagreement, and writes nothing.
#include <doctest/doctest.h>

#include <limits>
#include <string>

#include "support/errors.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  INFO(part);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

template <class Layer, class Config>
void check_config(Config good) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [&](auto change, const char* part) {
    Config c = good;
    change(c);
    contains(message_of([&] { Layer layer(c); }), part);
    contains(message_of([&] { typename Layer::Gradients g(c); }), part);
  };
  refused([](Config& c) { c.rank = 0; }, "rank 0 must be at least 1");
  refused([](Config& c) { c.rank = -3; }, "rank -3 must be at least 1");
  refused([](Config& c) { c.in_features = 0; }, "in_features 0");
  refused([](Config& c) { c.out_features = -1; }, "out_features -1");
  refused([&](Config& c) { c.alpha = nan; }, "alpha nan must be finite");
  refused([](Config& c) { c.alpha = std::numeric_limits<double>::infinity(); }, "alpha inf must be finite");
  refused([&](Config& c) { c.dropout = nan; }, "dropout nan must be in [0, 1)");
  refused([](Config& c) { c.dropout = 1; }, "dropout 1 must be in [0, 1)");
  refused([](Config& c) { c.dropout = -0.1; }, "dropout -0.1 must be in [0, 1)");
  refused([](Config& c) { c.in_features = std::numeric_limits<Index>::max() / 2; }, "are too many");
  refused([](Config& c) { c.rank = std::numeric_limits<Index>::max(); }, "are too many");
  refused([](Config& c) { c.in_features = c.out_features = Index{1} << 61; },
          "are too many");  // each fits, the sum does not
  if constexpr (!std::is_same_v<Config, LoRAConfig>) {
    refused([](Config& c) { c.heads = 0; }, "heads 0 must be at least 1");
    refused([](Config& c) { c.heads = -2; }, "heads -2 must be at least 1");
  }
  std::vector<float> buffer(10);
  contains(message_of([&] { Layer layer(good, ParameterMap<float>(buffer.data(), 10)); }),
           "the lent buffer has 10 numbers");
  contains(message_of([&] { Layer layer(good, ParameterMap<float>(nullptr, 0)); }), "null");
}

}  // namespace

TEST_CASE("configs that make no sense are refused before anything is allocated") {
  check_config<LoRA<float>>(LoRAConfig{8, 6, 2});
  check_config<SplitLoRA<float>>(SplitLoRAConfig{8, 6, 2});
  check_config<HydraLoRA<float>>(HydraLoRAConfig{8, 6, 2});
  check_config<SharedBLoRA<float>>(SharedBLoRAConfig{8, 6, 2});
  SharedBLoRAConfig summed{8, 6, 2};
  summed.routing = Routing::uniform;
  CHECK(message_of([&] { SharedBLoRA<float> layer(summed); }) ==
        "SharedBLoRA: Routing::uniform would be one LoRA with A = A_1 + ... + A_N");
}

TEST_CASE("a call with the wrong shapes, overlaps, cache or gradients throws and leaves everything untouched") {
  const LayerShape s{8, 6, 2, 3, 5};
  for (const Kind kind : all_kinds) {
    CAPTURE(name(kind));
    with_layer<float>(kind, s, 0, 1, [&](const auto& layer) {
      using Layer = std::decay_t<decltype(layer)>;
      const Matrix<float> weights = given_weights<float>(kind, s, 3);
      CallOptions<float> options;
      options.weights = weights;
      Matrix<float> x = random_matrix<float>(8, 5, 1), y = random_matrix<float>(6, 5, 2),
                    dy = random_matrix<float>(6, 5, 3);
      Matrix<float> dx = random_matrix<float>(8, 5, 4);
      const Matrix<float> y0 = y, dx0 = dx;
      typename Layer::Cache cache, empty;
      typename Layer::Gradients g(layer.config());

      // forward
      contains(message_of([&] { layer.forward(x.topRows(7), y, cache, options); }),
               "::forward: x is 7x5, expected 8x5 (in_features x tokens)");
      contains(message_of([&] { layer.forward(x, y.leftCols(4), cache, options); }),
               "y is 6x4, expected 6x5 (out_features x tokens)");
      contains(message_of([&] { layer.forward(x, y.topRows(5), options); }), "y is 5x5, expected 6x5");
      contains(message_of([&] { layer.forward(x, x.topRows(6), options); }), "x 8x5 and y 6x5 overlap");
      CHECK(cache.tokens() == 0);
      CHECK(same_bits(y, y0));
      if (takes_weights(kind)) {
        contains(message_of([&] { layer.forward(x, y); }), "weights are 0x0, expected 3x5 (heads x tokens)");
        const Matrix<float> few = weights.topRows(2);
        CallOptions<float> wrong;
        wrong.weights = few;
        contains(message_of([&] { layer.forward(x, y, wrong); }), "weights are 2x5, expected 3x5");
        wrong.weights = y.topRows(3);
        contains(message_of([&] { layer.forward(x, y, wrong); }), "weights 3x5 and y 6x5 overlap");
      } else {
        const Matrix<float> unwanted = random_matrix<float>(3, 5, 1);
        CallOptions<float> wrong;
        wrong.weights = unwanted;
        contains(message_of([&] { layer.forward(x, y, wrong); }), "weights are 3x5, but this layer takes none");
      }
      CHECK(same_bits(y, y0));

      // backward
      layer.forward(x, y, cache, options);
      const auto untouched = [&] { return same_bits(dx, dx0) && g.parameters().isZero(0); };
      contains(message_of([&] { layer.backward(x, dy, empty, g, dx); }), "the cache is from empty");
      contains(message_of([&] { layer.backward(x.leftCols(4), dy.leftCols(4), cache, g, dx.leftCols(4)); }),
               "with 5 tokens, expected");
      contains(message_of([&] { layer.backward(x, dy.topRows(5), cache, g, dx); }), "dy is 5x5, expected 6x5");
      contains(message_of([&] { layer.backward(x, dy, cache, g, dx.topRows(7)); }), "dx is 7x5, expected 8x5");
      contains(message_of([&] { layer.backward(x, dy, cache, g, x); }), "dx 8x5 and x 8x5 overlap");
      Matrix<float> dweights = Matrix<float>::Zero(4, 5);
      CallOptions<float> wrong_gradient;
      wrong_gradient.weights_gradient = dweights;
      contains(message_of([&] { layer.backward(x, dy, cache, g, dx, wrong_gradient); }), "weights_gradient are 4x5");
      if (takes_weights(kind)) {
        wrong_gradient.weights_gradient = dy.topRows(3);
        contains(message_of([&] { layer.backward(x, dy, cache, g, wrong_gradient); }),
                 "weights_gradient 3x5 overlaps x or dy");
        wrong_gradient.weights_gradient = dx.topRows(3);
        contains(message_of([&] { layer.backward(x, dy, cache, g, dx, wrong_gradient); }),
                 "dx 8x5 and weights_gradient 3x5 overlap");
        wrong_gradient.weights_gradient = dweights.topLeftCorner(0, 0);  // empty, though not null: none wanted
        typename Layer::Gradients own(layer.config());
        CHECK(message_of([&] { layer.backward(x, dy, cache, own, wrong_gradient); }) == "nothing thrown");
      }
      CHECK(dweights.isZero(0));
      Matrix<float> joined(14, 5);
      contains(message_of([&] { layer.backward(x, joined.middleRows(3, 6), cache, g, joined.topRows(8)); }),
               "dx 8x5 and dy 6x5 overlap");
      CHECK(message_of([&] {
              typename Layer::Gradients own(layer.config());
              joined.setZero();
              layer.backward(x, joined.bottomRows(6), cache, own, joined.topRows(8));
            }) == "nothing thrown");
      auto other = layer.config();
      other.rank = 3;
      typename Layer::Gradients other_g(other);
      contains(message_of([&] { layer.backward(x, dy, cache, other_g, dx); }), "the gradients are for");
      contains(message_of([&] { layer.backward(x, dy, cache, other_g, dx); }), "rank 3");
      if constexpr (!std::is_same_v<typename Layer::Config, LoRAConfig>) {
        auto more = layer.config();
        more.heads = 4;
        typename Layer::Gradients more_g(more);
        contains(message_of([&] { layer.backward(x, dy, cache, more_g, dx); }), "heads 4");
        if constexpr (!std::is_same_v<typename Layer::Config, SharedBLoRAConfig>) {
          contains(message_of([&] { typename Layer::Gradients(layer.config()).B(3); }), "head 3 of 3 heads");
        }
        if constexpr (!std::is_same_v<typename Layer::Config, HydraLoRAConfig>) {
          contains(message_of([&] { typename Layer::Gradients(layer.config()).A(3); }), "head 3 of 3 heads");
          contains(message_of([&] { static_cast<void>(layer.A(-1)); }), "head -1 of 3 heads");
        }
      }
      // a cache of the same type from another layer
      typename Layer::Cache foreign;
      Layer foreign_layer(other);
      Matrix<float> foreign_y = Matrix<float>::Zero(6, 5);
      foreign_layer.forward(x, foreign_y, foreign, options);
      contains(message_of([&] { layer.backward(x, dy, foreign, g, dx); }), "the cache is from");
      CHECK(untouched());
    });
  }
}

TEST_CASE("zero tokens are a no-op everywhere") {
  for (const Kind kind : all_kinds) {
    with_layer<float>(kind, LayerShape{8, 6, 2, 3, 0}, 0.1, 1, [&](const auto& layer) {
      using Layer = std::decay_t<decltype(layer)>;
      Matrix<float> x(8, 0), y(6, 0), dx(8, 0);
      typename Layer::Cache cache;
      typename Layer::Gradients g(layer.config());
      layer.forward(x, y);
      layer.forward(x, y, cache);
      layer.backward(x, y, cache, g, dx);
      layer.backward(x, y, cache, g);
      CHECK(g.parameters().isZero(0));
    });
  }
}

TEST_CASE("AdaptedLinear refuses a base and an adapter of different shapes; DenseLinear refuses wrong views") {
  using Adapted = AdaptedLinear<DenseLinear<float>, LoRA<float>>;
  contains(message_of([] {
             Adapted(DenseLinear<float>(Matrix<float>(6, 9)), LoRA<float>(LoRAConfig{8, 6, 2}));
           }),
           "the base's weight is 6x9, the adapter's is 6x8");
  const DenseLinear<float> base(Matrix<float>::Ones(6, 8));
  Matrix<float> x = Matrix<float>::Ones(8, 5), y = Matrix<float>::Zero(6, 5);
  contains(message_of([&] { base.forward(x.topRows(7), y); }), "the input is 7x5, expected 8x5");
  contains(message_of([&] { base.forward(x, y.leftCols(3)); }), "the output is 6x3, expected 6x5");
  contains(message_of([&] { base.forward(x, x.topRows(6)); }), "overlap");
  CHECK(y.isZero(0));
}
