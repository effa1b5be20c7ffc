// SPDX-License-Identifier: MIT
//
// Parameters and activations of 16 bits, and 16-bit activations with float parameters: against the same layer in
// double, whose inputs are the same numbers.
#include <cmath>
#include <hydralora/train.hpp>
#include <limits>
#include <utility>

#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Parameters, class Activations>
struct Types {
  using Scalar = Parameters;
  using Activation = Activations;
};
// Two of the combinations: each costs a compiler 10 seconds.
using BFloat16 = Types<Eigen::bfloat16, Eigen::bfloat16>;
using HalfActivations = Types<float, Eigen::half>;

/// |actual − expected| ≤ roundings · u · |expected| + tolerance, entry by entry; NaN fails.
template <class Scalar>
bool near(const Matrix<Scalar>& actual, const Matrix<double>& expected, double roundings, double tolerance) {
  const auto bound = roundings * ::tolerance::rounding<Scalar> * expected.array().abs() + tolerance;
  return ((exact(actual) - expected).array().abs() <= bound).all();
}

/// f(layer, the same layer in double) for all kinds, shapes and dropouts.
template <class T, class Function>
void for_each_pair(std::initializer_list<LayerShape> shapes, std::initializer_list<double> dropouts, Function&& f) {
  for (const LayerShape& s : shapes) {
    for (const Kind kind : all_kinds) {
      for (const double dropout : dropouts) {
        with_twin<typename T::Scalar, typename T::Activation>(
            kind, s, dropout, 7, [&](auto& layer, auto& twin) { f(kind, s, layer, twin); });
      }
    }
  }
}

/// Numbers that a conversion can get wrong: halves between two numbers, the ends of the range, denormals.
Matrix<float> hard_numbers() {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Matrix<float> m = random_matrix<float>(4003, 1, 3);
  Index i = 0;
  for (const float f : {0.0F, -0.0F, infinity, -infinity, nan, -nan, 3.3e38F, 3.4e38F, 65504.0F, 65519.9F, 65520.0F,
                        1e-40F, 6e-8F, 2.9e-8F, 3e-8F, 1.00390625F, 1.01171875F, 1.00048828125F, 1.00146484375F}) {
    m(i++) = f;
  }
  return m;
}

}  // namespace

TEST_CASE_TEMPLATE("numbers of 16 bits widen exactly and round as Eigen's", Narrow, Eigen::bfloat16, Eigen::half) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto number = Eigen::numext::bit_cast<Narrow>(static_cast<std::uint16_t>(bits));
    const float wide = widen(number);
    if (std::isnan(static_cast<float>(number))) {
      CHECK(std::isnan(wide));
      CHECK(std::isnan(widen(narrow<Narrow>(wide))));
    } else {
      CHECK(same_bits<float>(Matrix<float>::Constant(1, 1, wide), Matrix<float>::Constant(1, 1, float(number))));
      CHECK(Eigen::numext::bit_cast<std::uint16_t>(narrow<Narrow>(wide)) == bits);
    }
  }
  const Matrix<float> numbers = hard_numbers();
  for (Index i = 0; i < numbers.size(); ++i) {  // one by one
    const auto expected = static_cast<Narrow>(numbers(i)), got = narrow<Narrow>(numbers(i));
    if (!std::isnan(numbers(i))) {
      CHECK(Eigen::numext::bit_cast<std::uint16_t>(got) == Eigen::numext::bit_cast<std::uint16_t>(expected));
    }
  }
  for (Index count = 1; count <= numbers.size(); count = count < 70 ? count + 1 : 4 * count) {
    Matrix<Narrow> narrowed(count, 1);
    Matrix<float> widened(count, 1);
    kernels::copy<float, Narrow>(Matrix<float>(numbers.topRows(count)), narrowed);
    kernels::copy<Narrow, float>(narrowed, widened);
    for (Index i = 0; i < count; ++i) {
      CAPTURE(numbers(i));
      const auto expected = static_cast<Narrow>(numbers(i));
      if (std::isnan(numbers(i))) {
        CHECK(std::isnan(widened(i)));
      } else {
        CHECK(Eigen::numext::bit_cast<std::uint16_t>(narrowed(i)) == Eigen::numext::bit_cast<std::uint16_t>(expected));
        CHECK(widened(i) == static_cast<float>(expected));
      }
    }
  }
}

TEST_CASE_TEMPLATE("layers of 16 bits round only their results", T, BFloat16, HalfActivations) {
  using Activation = typename T::Activation;
  const auto check = [](Kind kind, const LayerShape& s, const auto& layer, const auto& twin) {
    using Layer = std::decay_t<decltype(layer)>;
    using Twin = std::decay_t<decltype(twin)>;
    const Matrix<Activation> x = random_matrix<Activation>(s.in, s.tokens, 1),
                             dy = random_matrix<Activation>(s.out, s.tokens, 2);
    Matrix<Activation> y = random_matrix<Activation>(s.out, s.tokens, 4),
                       dx = random_matrix<Activation>(s.in, s.tokens, 5);
    const Matrix<float> weights = given_weights<float>(kind, s, 3);
    const Matrix<double> wide_weights = exact(weights), wide_x = exact(x), wide_dy = exact(dy);
    Matrix<double> wide_y = exact(y), wide_dx = exact(dx);
    CallOptions<float> options;
    CallOptions<double> wide_options;
    options.weights = weights;
    wide_options.weights = wide_weights;
    options.step = wide_options.step = 3;

    typename Layer::Cache cache;
    typename Layer::Gradients g(layer.config());
    layer.forward(x, y, cache, options);
    layer.backward(x, dy, cache, g, dx, options);
    typename Twin::Cache wide_cache;
    typename Twin::Gradients wide_g(twin.config());
    twin.forward(wide_x, wide_y, wide_cache, wide_options);
    twin.backward(wide_x, wide_dy, wide_cache, wide_g, wide_dx, wide_options);

    const auto size = [](const auto& m) { return m.size() == 0 ? 1.0 : m.cwiseAbs().maxCoeff() + 1; };
    const double sums = tolerance::product_sum<float>(double(s.in + s.out + s.rank * s.heads), 8);
    const double roundings = layer.config().dropout > 0 ? 3 : 1.01;  // dx is rounded twice with dropout
    CHECK(near<Activation>(y, wide_y, 1.01, sums * size(wide_y)));
    CHECK(
        near<Activation>(dx, wide_dx, roundings,
                         sums * size(wide_dx) + (roundings > 2 ? tolerance::rounding<Activation> * size(wide_dx) : 0)));
    CHECK((g.parameters().template cast<double>() - wide_g.parameters()).cwiseAbs().maxCoeff() <=
          sums * std::sqrt(double(s.tokens + 1)) * size(wide_g.parameters()));
  };
  for_each_pair<T>({{37, 70, 4, 3, 131}, {130, 21, 8, 5, 7}, {300, 1024, 3, 2, 1}, {1, 1, 1, 1, 3}, {9, 40, 17, 2, 5}},
                   {0.0, 0.3}, check);
}

TEST_CASE_TEMPLATE("activations of 16 bits round what the float layer computes", Activation, Eigen::half) {
  for (const LayerShape& s : {LayerShape{300, 1030, 4, 3, 70}, LayerShape{1030, 50, 9, 2, 1}}) {
    for (const Kind kind : {Kind::lora, Kind::split_learned, Kind::hydra, Kind::shared_b}) {
      const Matrix<Activation> x = random_matrix<Activation>(s.in, s.tokens, 1);
      Matrix<Activation> y = random_matrix<Activation>(s.out, s.tokens, 2);
      Matrix<float> y_float = y.template cast<float>();
      with_layer<float, Activation>(kind, s, 0.0, 7, [&](auto& layer) { layer.forward(x, y); });
      with_layer<float>(kind, s, 0.0, 7, [&](auto& layer) { layer.forward(x.template cast<float>().eval(), y_float); });
      CHECK(same_bits<Activation>(y, y_float.unaryExpr([](float v) { return narrow<Activation>(v); }).eval()));
    }
  }
}

TEST_CASE_TEMPLATE("a token of 16 bits has the same bits in any batch, slice and number of threads", T, BFloat16,
                   HalfActivations) {
  using Activation = typename T::Activation;
  for (const LayerShape& s : {LayerShape{37, 1030, 4, 3, 70}, LayerShape{600, 50, 9, 2, 9}}) {
    for (const Kind kind : {Kind::lora, Kind::split_learned, Kind::hydra, Kind::shared_b}) {
      with_layer<typename T::Scalar, Activation>(kind, s, 0.0, 7, [&](auto& layer) {
        using Layer = std::decay_t<decltype(layer)>;
        const Matrix<Activation> x = random_matrix<Activation>(s.in, s.tokens, 1),
                                 dy = random_matrix<Activation>(s.out, s.tokens, 2);
        struct Results {
          Matrix<Activation> y, dx;
          typename Layer::Gradients g;
          typename Layer::Cache cache;
        };
        const auto empty = [&](Index tokens) {
          return Results{Matrix<Activation>::Ones(s.out, tokens),
                         Matrix<Activation>::Ones(s.in, tokens),
                         typename Layer::Gradients(layer.config()),
                         {}};
        };
        const auto run = [&](int threads) {
          const Threads of_test(threads);
          Results r = empty(s.tokens);
          layer.forward(x, r.y, r.cache);
          layer.backward(x, dy, r.cache, r.g, r.dx);
          return r;
        };
        const Results whole = run(1), two = run(2);
        CHECK(same_bits<Activation>(whole.y, two.y));
        CHECK(same_bits<Activation>(whole.dx, two.dx));
        CHECK(same_bits<float>(whole.g.parameters(), two.g.parameters()));
        for (Index t = 0; t < s.tokens; ++t) {
          const Matrix<Activation> one_x = x.col(t), one_dy = dy.col(t);
          Results one = empty(1);
          layer.forward(one_x, one.y, one.cache);
          layer.backward(one_x, one_dy, one.cache, one.g, one.dx);
          CHECK(same_bits<Activation>(one.y, whole.y.col(t)));
          CHECK(same_bits<Activation>(one.dx, whole.dx.col(t)));
        }
        Results sliced = empty(s.tokens);
        const SlicedForward<Layer> forward(layer, x, sliced.y, sliced.cache);
        for (Index i = 0; i < 3; ++i) forward.run(i, 3);
        const SlicedBackward<Layer> backward(layer, x, dy, sliced.cache, sliced.g, sliced.dx);
        for (int phase = 0; phase < 2; ++phase) {
          for (Index i = 0; i < 3; ++i) backward.run(phase, i, 3);
        }
        CHECK(same_bits<Activation>(sliced.y, whole.y));
        CHECK(same_bits<Activation>(sliced.dx, whole.dx));
        CHECK(same_bits<float>(sliced.g.parameters(), whole.g.parameters()));
      });
    }
  }
}

TEST_CASE_TEMPLATE("NaN in a token of 16 bits stays in that token", Activation, Eigen::bfloat16) {
  const LayerShape s{40, 50, 4, 3, 9};
  with_layer<Activation>(Kind::hydra, s, 0.0, 7, [&](auto& layer) {
    Matrix<Activation> x = random_matrix<Activation>(s.in, s.tokens, 1);
    x(3, 4) = std::numeric_limits<Activation>::quiet_NaN();
    Matrix<Activation> y = Matrix<Activation>::Zero(s.out, s.tokens);
    layer.forward(x, y);
    for (Index t = 0; t < s.tokens; ++t) {
      for (Index j = 0; j < s.out; ++j) CHECK(std::isnan(static_cast<float>(y(j, t))) == (t == 4));
    }
  });
}

TEST_CASE("float master parameters train a layer of bfloat16") {
  using Number = Eigen::bfloat16;
  const HydraLoRAConfig config{24, 16, 4, 8.0, false, 0.0, 3};
  HydraLoRA<Number> layer(config, 1);
  const Matrix<Number> x = random_matrix<Number>(24, 40, 1), target = random_matrix<Number>(16, 40, 2);
  Eigen::VectorXf master = layer.parameters().cast<float>();
  HydraLoRA<Number>::Gradients g(config);
  AdamW<float> optimizer({{ParameterMap<float>(master.data(), master.size()), g.parameters(), 1e-2}});
  HydraLoRA<Number>::Cache cache;
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    Matrix<Number> y = Matrix<Number>::Zero(16, 40);
    layer.forward(x, y, cache);
    const Matrix<Number> dy = y - target;
    last = exact(dy).squaredNorm();
    if (step == 0) first = last;
    g.set_zero();
    layer.backward(x, dy, cache, g);
    optimizer.step();
    layer.parameters() = master.cast<Number>();
  }
  CHECK(last < 0.3 * first);
}
