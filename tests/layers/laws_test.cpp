// SPDX-License-Identifier: MIT
//
// What must hold for every layer, written once.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/layers.hpp"
#include "support/threads.hpp"
#include "support/tolerances.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Scalar, class Layer>
Matrix<Scalar> apply(const Layer& layer, const Matrix<Scalar>& x, const Matrix<Scalar>& weights = {}) {
  Matrix<Scalar> y = Matrix<Scalar>::Zero(layer.config().out_features, x.cols());
  CallOptions<Scalar> options;
  options.weights = weights;
  layer.forward(x, y, options);
  return y;
}

/// Everything one training call gives.
template <class Scalar>
struct Result {
  Matrix<Scalar> y, dx, parameters;
};

template <class Scalar, class Layer>
Result<Scalar> train_call(const Layer& layer, ConstTokens<Scalar> x, ConstTokens<Scalar> dy,
                          ConstTokens<Scalar> weights, std::uint64_t first_token = 0) {
  Result<Scalar> r{
      Matrix<Scalar>::Ones(dy.features(), dy.tokens()), Matrix<Scalar>::Ones(x.features(), x.tokens()), {}};
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config());
  CallOptions<Scalar> options;
  options.weights = weights;
  options.step = 3;
  options.first_token = first_token;
  layer.forward(x, r.y, cache, options);
  layer.backward(x, dy, cache, g, r.dx);
  r.parameters = g.parameters();
  return r;
}

}  // namespace

TEST_CASE_TEMPLATE("a new layer adds nothing, and A, B and gate are initialised as documented", Scalar, float, double) {
  for (const Kind kind : all_kinds) {
    CAPTURE(name(kind));
    const LayerShape s{37, 21, 4, 3, 6};
    with_layer<Scalar>(kind, s, 0, 11, [&](auto layer) {
      const Matrix<Scalar> x = random_matrix<Scalar>(s.in, s.tokens, 1);
      layer.initialize();
      CHECK(apply<Scalar>(layer, x, given_weights<Scalar>(kind, s, 2)).isZero(0));
      CHECK(layer.up_parameters().isZero(0));
      const double bound = 1 / std::sqrt(37.0);
      const auto down = layer.down_parameters().template cast<double>().eval();
      CHECK(down.cwiseAbs().maxCoeff() <= bound);
      CHECK(down.cwiseAbs().maxCoeff() > 0.9 * bound);
      CHECK(std::abs(down.mean()) < 5 * bound / std::sqrt(3.0 * static_cast<double>(down.size())));
      std::vector<Scalar> draws(layer.down_parameters().begin(), layer.down_parameters().end());
      std::sort(draws.begin(), draws.end());
      // no stream or head draws another's numbers; two chance meetings among some 600 floats are one in ten million
      CHECK(std::unique(draws.begin(), draws.end()) >= draws.end() - 1);
      CHECK(layer.parameter_count() == layer.down_parameters().size() + layer.up_parameters().size());
      const auto same_seed = std::decay_t<decltype(layer)>(layer.config(), layer.seed());
      CHECK(same_bits<Scalar>(same_seed.parameters(), layer.parameters()));
      const auto other_seed = std::decay_t<decltype(layer)>(layer.config(), layer.seed() + 1);
      CHECK_FALSE(same_bits<Scalar>(other_seed.parameters(), layer.parameters()));
    });
  }
}

TEST_CASE("the scaling is alpha / rank, and alpha / sqrt(rank) where rank-stabilised") {
  CHECK(LoRA<double>(LoRAConfig{5, 6, 4, 12}).scaling() == 3);
  CHECK(LoRA<double>(LoRAConfig{5, 6, 4, 12, true}).scaling() == 6);
  CHECK(SplitLoRA<double>(SplitLoRAConfig{5, 6, 4, 12, true}).scaling() == 6);
  CHECK(HydraLoRA<double>(HydraLoRAConfig{5, 6, 4, 12, true}).scaling() == 6);
}

TEST_CASE_TEMPLATE("one head is LoRA, bit for bit at initialisation and in every result", Scalar, float, double) {
  const LoRA<Scalar> lora(LoRAConfig{19, 23, 5}, 4);
  HydraLoRA<Scalar> hydra(HydraLoRAConfig{19, 23, 5, 16, false, 0, 1}, 4);
  SplitLoRA<Scalar> split(SplitLoRAConfig{19, 23, 5, 16, false, 0, 1}, 4);
  CHECK(same_bits<Scalar>(hydra.A(), lora.A()));
  SharedBLoRA<Scalar> shared_b(SharedBLoRAConfig{19, 23, 5, 16, false, 0, 1}, 4);
  CHECK(same_bits<Scalar>(split.A(0), lora.A()));
  CHECK(same_bits<Scalar>(shared_b.A(0), lora.A()));
  LoRA<Scalar> trained = lora;
  trained.B() = random_matrix<Scalar>(23, 5, 8);
  hydra.B(0) = trained.B();
  split.B(0) = trained.B();
  shared_b.B() = trained.B();
  const Matrix<Scalar> x = random_matrix<Scalar>(19, 9, 5), dy = random_matrix<Scalar>(23, 9, 6);
  const auto l = train_call<Scalar>(trained, x, dy, {}), h = train_call<Scalar>(hydra, x, dy, {}),
             p = train_call<Scalar>(split, x, dy, {}), a = train_call<Scalar>(shared_b, x, dy, {});
  CHECK(same_bits(h.y, l.y));
  CHECK(same_bits(h.dx, l.dx));
  CHECK(same_bits(a.y, l.y));
  CHECK(same_bits(a.dx, l.dx));
  CHECK(same_bits(p.y, l.y));
  CHECK(same_bits(p.parameters, l.parameters));
  typename HydraLoRA<Scalar>::Gradients g(
      hydra.config(), ParameterMap<Scalar>(const_cast<Scalar*>(h.parameters.data()), h.parameters.size()));
  CHECK(g.gate().isZero(0));
}

TEST_CASE_TEMPLATE("ungated SplitLoRA is one LoRA of rank heads times rank with the same scaling", Scalar, float,
                   double) {
  SplitLoRA<Scalar> split(SplitLoRAConfig{31, 27, 3, 12, false, 0, 4});
  split.parameters() = random_matrix<Scalar>(split.parameter_count(), 1, 3);
  LoRA<Scalar> lora(LoRAConfig{31, 27, 12, 12 * 12 / 3.0});
  CHECK(lora.scaling() == split.scaling());
  for (Index i = 0; i < 4; ++i) {
    lora.A().middleRows(3 * i, 3) = split.A(i);
    lora.B().middleCols(3 * i, 3) = split.B(i);
  }
  const Matrix<Scalar> x = random_matrix<Scalar>(31, 10, 5);
  CHECK(relative_difference(apply<Scalar>(split, x), apply<Scalar>(lora, x)) <= tolerance::law<Scalar>);
}

TEST_CASE_TEMPLATE("permuting heads together with gate rows changes nothing", Scalar, float, double) {
  HydraLoRA<Scalar> layer(HydraLoRAConfig{20, 18, 4, 16, false, 0, 3});
  layer.parameters() = random_matrix<Scalar>(layer.parameter_count(), 1, 3);
  HydraLoRA<Scalar> permuted = layer;
  for (Index i = 0; i < 3; ++i) {
    permuted.B(i) = layer.B((i + 1) % 3);
    permuted.gate().row(i) = layer.gate().row((i + 1) % 3);
  }
  const Matrix<Scalar> x = random_matrix<Scalar>(20, 10, 5);
  CHECK(relative_difference(apply<Scalar>(permuted, x), apply<Scalar>(layer, x)) <= tolerance::law<Scalar>);
}

TEST_CASE_TEMPLATE("equal heads make the gate irrelevant: HydraLoRA is LoRA", Scalar, float, double) {
  HydraLoRA<Scalar> layer(HydraLoRAConfig{20, 18, 4, 16, false, 0, 3});
  layer.parameters() = random_matrix<Scalar>(layer.parameter_count(), 1, 3);
  LoRA<Scalar> lora(LoRAConfig{20, 18, 4});
  lora.A() = layer.A();
  lora.B() = layer.B(0);
  for (Index i = 1; i < 3; ++i) layer.B(i) = layer.B(0);
  const Matrix<Scalar> x = random_matrix<Scalar>(20, 10, 5);
  CHECK(relative_difference(apply<Scalar>(layer, x), apply<Scalar>(lora, x)) <= tolerance::law<Scalar>);
}

TEST_CASE("adjoint: where the layer is linear, <J v, u> = <v, J^T u>") {
  for (const Kind kind : {Kind::lora, Kind::split_uniform, Kind::split_given,
                          Kind::shared_b_given}) {  // a learned gate is not linear in x
    CAPTURE(name(kind));
    const LayerShape s{29, 17, 4, 3, 8};
    with_layer<double>(kind, s, 0.25, 5, [&](const auto& layer) {
      const Matrix<double> v = random_matrix<double>(s.in, s.tokens, 1), u = random_matrix<double>(s.out, s.tokens, 2);
      const Matrix<double> weights = given_weights<double>(kind, s, 3);
      const auto r = train_call<double>(layer, v, u, weights);
      const double left = (r.y.array() - 1).matrix().cwiseProduct(u).sum(),
                   right = (r.dx.array() - 1).matrix().cwiseProduct(v).sum();
      CHECK(left == doctest::Approx(right).epsilon(tolerance::law<double>));
    });
  }
}

TEST_CASE_TEMPLATE("a token's y and dx are the same bits alone and in any batch, and all bits the same on any threads",
                   Scalar, float, double) {
  // Sizes around the kernels' blocks (256 features, 48 and 128 tokens), and enough work (parallel_work_minimum) for
  // every loop but head mixing to go parallel in one of them.
  for (const LayerShape& s :
       {LayerShape{64, 48, 8, 4, 1700}, LayerShape{600, 35, 5, 3, 203}, LayerShape{33, 700, 16, 2, 131}}) {
    for (const Kind kind : all_kinds) {
      for (const double dropout : {0.0, 0.2}) {
        CAPTURE(name(kind));
        CAPTURE(s);
        CAPTURE(dropout);
        with_layer<Scalar>(kind, s, dropout, 5, [&](const auto& layer) {
          const Matrix<Scalar> x = random_matrix<Scalar>(s.in, s.tokens, 1),
                               dy = random_matrix<Scalar>(s.out, s.tokens, 2);
          const Matrix<Scalar> weights = given_weights<Scalar>(kind, s, 3);
          const auto columns = [&](const Matrix<Scalar>& m, Index begin, Index count) -> ConstTokens<Scalar> {
            return m.size() == 0 ? ConstTokens<Scalar>() : ConstTokens<Scalar>(m).slice(begin, count);
          };
          Result<Scalar> whole;
          for (const int threads : thread_counts) {
            const Threads use(threads);
            const auto r = train_call<Scalar>(layer, x, dy, weights);
            if (threads == 1) whole = r;
            CHECK(same_bits(r.y, whole.y));
            CHECK(same_bits(r.dx, whole.dx));
            CHECK(same_bits(r.parameters, whole.parameters));
          }
          for (const Index count : {1, 2, 5, 6, 7, 50}) {
            for (Index begin = 0; begin + count <= s.tokens; begin += count * 3 + 1) {
              const auto part = train_call<Scalar>(layer, columns(x, begin, count), columns(dy, begin, count),
                                                   columns(weights, begin, count), static_cast<std::uint64_t>(begin));
              CHECK(same_bits<Scalar>(part.y, whole.y.middleCols(begin, count)));
              CHECK(same_bits<Scalar>(part.dx, whole.dx.middleCols(begin, count)));
            }
          }
          // another order of the same tokens, in a strided and misaligned buffer
          if (dropout > 0) return;
          Matrix<Scalar> reversed_x = x.rowwise().reverse(), reversed_dy = dy.rowwise().reverse(),
                         reversed_w = weights.rowwise().reverse();
          Strided<Scalar> xs(reversed_x, 1, 2), dys(reversed_dy, 3, 0);
          const auto reversed = train_call<Scalar>(layer, xs.view(), dys.view(), reversed_w);
          CHECK(same_bits<Scalar>(reversed.y.rowwise().reverse(), whole.y));
          CHECK(same_bits<Scalar>(reversed.dx.rowwise().reverse(), whole.dx));
          // inference without a cache gives training's bits
          const Matrix<Scalar> inferred = apply<Scalar>(layer, x, weights);
          Matrix<Scalar> trained = Matrix<Scalar>::Zero(s.out, s.tokens);
          typename std::decay_t<decltype(layer)>::Cache cache;
          CallOptions<Scalar> options;
          options.weights = weights;
          layer.forward(x, trained, cache, options);
          CHECK(same_bits(inferred, trained));
        });
      }
    }
  }
}

TEST_CASE("dropout: the mask is a function of seed, step, token and feature, drops a share p, and inference has none") {
  LoRA<double> layer(LoRAConfig{50, 1, 1, 1, false, 0.3}, 9);
  layer.A().setOnes();
  layer.B().setOnes();
  const Matrix<double> x = Matrix<double>::Ones(50, 400);
  const auto sums = [&](const LoRA<double>& l, std::uint64_t step, std::uint64_t first) {
    Matrix<double> y = Matrix<double>::Zero(1, 400);
    LoRA<double>::Cache cache;
    CallOptions<double> options;
    options.step = step;
    options.first_token = first;
    l.forward(x, y, cache, options);
    return y;
  };
  const Matrix<double> y = sums(layer, 1, 0);
  CHECK(std::abs(y.mean() / 50 - 1) < 5 * std::sqrt(0.3 / 0.7 / 20000));
  CHECK(same_bits(y, sums(layer, 1, 0)));
  CHECK_FALSE(same_bits(y, sums(layer, 2, 0)));
  CHECK(same_bits<double>(sums(layer, 1, 7).leftCols(393), y.rightCols(393)));
  CHECK_FALSE(same_bits(y, sums(LoRA<double>(layer.config(), layer.parameters(), 10), 1, 0)));
  CHECK((apply<double>(layer, x).array() == 50).all());
}

TEST_CASE("parameters may be lent by the host, and accessors write through") {
  const HydraLoRAConfig config{7, 5, 2, 16, false, 0, 3};
  HydraLoRA<float> own(config, 3);
  own.B(1).setConstant(2.0F);
  own.gate().row(2).setZero();
  std::vector<float> memory(static_cast<std::size_t>(own.parameter_count()));
  ParameterMap<float> lent(memory.data(), own.parameter_count());
  HydraLoRA<float> layer(config, lent, 3);
  CHECK(layer.parameters().data() == memory.data());
  CHECK(layer.parameters().isZero(0));  // taken as it is
  layer.parameters() = own.parameters();
  const Matrix<float> x = random_matrix<float>(7, 4, 1);
  CHECK(same_bits(apply<float>(layer, x), apply<float>(own, x)));
  HydraLoRA<float> copy_of_own = own, copy_of_lent = layer;
  own.B(0).setConstant(9.0F);
  CHECK(copy_of_own.B(0).isZero(0));
  layer.B(0).setConstant(9.0F);
  CHECK(copy_of_lent.B(0)(4, 1) == 9.0F);
  layer.initialize();
  CHECK(same_bits<float>(layer.parameters(), HydraLoRA<float>(config, 3).parameters()));
  // documented layout: per input feature A then gate, then B_1 … B_N column-major
  own.parameters() =
      Eigen::VectorXf::LinSpaced(own.parameter_count(), 0, static_cast<float>(own.parameter_count() - 1));
  CHECK(own.A()(1, 2) == 2 * 5 + 1);
  CHECK(own.gate()(2, 3) == 3 * 5 + 2 + 2);
  CHECK(own.B(2)(4, 1) == 7 * 5 + 2 * 10 + 5 + 4);
}

TEST_CASE_TEMPLATE(
    "parameters lent at the very end of the host's memory, however misaligned, give the bits of own ones", Scalar,
    float, double) {
  std::uint64_t seed = 0;
  for (const Kind kind : all_kinds) {
    for (const Index rank : {1, 2, 3, 5, 8, 13, 17}) {
      for (const Index out : {1, 2, 9, 40}) {
        for (const Index tokens : {1, 5, 9, 20}) {
          const LayerShape s{1 + rank % 4, out, rank, 1 + tokens % 3, tokens};  // few numbers follow the down stack
          CAPTURE(name(kind));
          CAPTURE(s);
          with_layer<Scalar>(kind, s, 0, ++seed, [&](const auto& own) {
            using Layer = std::decay_t<decltype(own)>;
            std::vector<Scalar> memory(static_cast<std::size_t>(own.parameter_count() + 1));
            const ParameterMap<Scalar> lent(memory.data() + 1, own.parameter_count());
            Layer layer(own.config(), lent, own.seed());
            layer.parameters() = own.parameters();
            const Matrix<Scalar> x = random_matrix<Scalar>(s.in, s.tokens, 1),
                                 dy = random_matrix<Scalar>(s.out, s.tokens, 2), w = given_weights<Scalar>(kind, s, 3);
            const auto a = train_call<Scalar>(own, x, dy, w), b = train_call<Scalar>(layer, x, dy, w);
            CHECK((same_bits(a.y, b.y) && same_bits(a.dx, b.dx) && same_bits(a.parameters, b.parameters)));
          });
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("what lies between the columns of B is neither read nor written, and zero in a new layer", Scalar,
                   float, double) {
  constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
  for (const Kind kind : all_kinds) {
    for (const LayerShape& s :
         {LayerShape{9, 1024, 3, 2, 70}, LayerShape{5, 2048, 2, 3, 7}, LayerShape{7, 1024, 5, 1, 1}}) {
      CAPTURE(name(kind));
      CAPTURE(s);
      with_layer<Scalar>(kind, s, 0, 3, [&](const auto& own) {
        using Layer = std::decay_t<decltype(own)>;
        const Index stride = own.shape().up_stride();
        REQUIRE(stride == s.out + 32);
        REQUIRE(own.up_parameters().size() == own.shape().up_rows() * stride);
        const auto between = [&](auto up) {
          using Map = Eigen::Map<Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;
          return Map(up.data() + s.out, 32, own.shape().up_rows(), Eigen::OuterStride<>(stride));
        };
        std::vector<Scalar> memory(static_cast<std::size_t>(own.parameter_count())), sums = memory;
        Layer layer(own.config(), ParameterMap<Scalar>(memory.data(), own.parameter_count()), own.seed());
        typename Layer::Gradients g(own.config(), ParameterMap<Scalar>(sums.data(), own.parameter_count()));
        layer.parameters() = own.parameters();
        between(layer.up_parameters()).setConstant(nan);
        between(g.up_parameters()).setConstant(nan);

        const Matrix<Scalar> x = random_matrix<Scalar>(s.in, s.tokens, 1),
                             dy = random_matrix<Scalar>(s.out, s.tokens, 2), w = given_weights<Scalar>(kind, s, 3);
        const auto expected = train_call<Scalar>(own, x, dy, w);
        Matrix<Scalar> y = Matrix<Scalar>::Ones(s.out, s.tokens), dx = Matrix<Scalar>::Ones(s.in, s.tokens);
        typename Layer::Cache cache;
        CallOptions<Scalar> options;
        options.weights = w;
        layer.forward(x, y, cache, options);
        layer.backward(x, dy, cache, g, dx);
        CHECK((same_bits(y, expected.y) && same_bits(dx, expected.dx)));
        CHECK(between(g.up_parameters()).array().isNaN().all());
        between(g.up_parameters()).setZero();
        CHECK(same_bits<Scalar>(g.parameters(), expected.parameters));

        layer.parameters().setConstant(nan);
        layer.initialize();
        CHECK(same_bits<Scalar>(layer.parameters(), Layer(own.config(), own.seed()).parameters()));
      });
    }
  }
}

TEST_CASE(
    "the cache shows H and the heads' weights as the formulas define them, and Gradients start and restart at zero") {
  HydraLoRA<double> layer(HydraLoRAConfig{7, 5, 2, 16, false, 0, 3});
  layer.parameters() = random_matrix<double>(layer.parameter_count(), 1, 3);
  const Matrix<double> x = random_matrix<double>(7, 4, 1);
  Matrix<double> y = Matrix<double>::Zero(5, 4);
  HydraLoRA<double>::Cache cache;
  layer.forward(x, y, cache);
  const Matrix<double> e = (layer.gate() * x).array().exp();
  const Matrix<double> expected = e.array().rowwise() / e.colwise().sum().array();
  CHECK(cache.tokens() == 4);
  CHECK(relative_difference(cache.weights().matrix(), expected) <= tolerance::law<double>);
  CHECK(relative_difference(cache.h().matrix(), layer.A() * x) <= tolerance::law<double>);
  HydraLoRA<double>::Gradients g(layer.config());
  CHECK(g.parameters().isZero(0));
  layer.backward(x, y, cache, g);
  CHECK_FALSE((g.A().isZero(0) || g.B(2).isZero(0) || g.gate().isZero(0)));
  g.set_zero();
  CHECK(g.parameters().isZero(0));
}

TEST_CASE_TEMPLATE("with A frozen, B and dx get the bits of backward(), without x", Scalar, float, double) {
  const auto check = [](const auto& layer, const LayerShape& s, const CallOptions<Scalar>& options) {
    using Layer = std::decay_t<decltype(layer)>;
    const Matrix<Scalar> dy = random_matrix<Scalar>(s.out, s.tokens, 2),
                         before = random_matrix<Scalar>(s.in, s.tokens, 3);
    Matrix<Scalar> x = random_matrix<Scalar>(s.in, s.tokens, 1), y = Matrix<Scalar>::Zero(s.out, s.tokens);
    Matrix<Scalar> dx = before, frozen_dx = before;
    typename Layer::Cache cache;
    typename Layer::Gradients g(layer.config()), frozen(layer.config());
    layer.forward(x, y, cache, options);
    layer.backward(x, dy, cache, g, dx, options);
    x.resize(0, 0);  // nobody needs it any more
    layer.backward_frozen_A(dy, cache, frozen, frozen_dx, options);
    CHECK(same_bits(frozen_dx, dx));
    CHECK(same_bits<Scalar>(frozen.up_parameters(), g.up_parameters()));
    const Index down = layer.shape().down_rows() * s.in;  // A, and a gate that reads x
    CHECK(frozen.parameters().head(down).isZero(0));
    const Index own_gate = layer.shape().gate_size();
    CHECK(same_bits<Scalar>(frozen.parameters().segment(down, own_gate), g.parameters().segment(down, own_gate)));
    const Matrix<Scalar> wrong = dy.topRows(s.out - 1);
    CHECK_THROWS_AS(layer.backward_frozen_A(wrong, cache, frozen, frozen_dx, options), std::invalid_argument);
    CHECK(same_bits(frozen_dx, dx));
  };
  const LayerShape s{21, 18, 3, 4, 33};
  for (const Kind kind : all_kinds) {
    for (const double dropout : {0.0, 0.4}) {
      CAPTURE(name(kind));
      const Matrix<Scalar> weights = given_weights<Scalar>(kind, s, 4);
      CallOptions<Scalar> options;
      options.step = 2;
      options.weights = weights;
      with_layer<Scalar>(kind, s, dropout, 6, [&](const auto& layer) { check(layer, s, options); });
    }
  }
  HydraLoRAConfig config{s.in, s.out, s.rank, 16, false, 0, s.heads};
  config.gate.input = GateInput::projection;
  HydraLoRA<Scalar> projected(config, 3);
  projected.up_parameters() = random_matrix<Scalar>(projected.up_parameters().size(), 1, 5);
  check(projected, s, {});
}
