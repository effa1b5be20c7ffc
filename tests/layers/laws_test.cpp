// SPDX-License-Identifier: MIT
//
// What must hold for every layer, written once.
#include <algorithm>

#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

TEST_CASE_TEMPLATE("a new layer adds nothing, and A, B and gate are initialised as documented", Scalar, float, double) {
  for_each_layer<Scalar>({{37, 21, 4, 3, 6}}, {0.0}, 11, [](auto& layer, const Inputs<Scalar>& in) {
    using Layer = std::decay_t<decltype(layer)>;
    layer.initialize();
    CHECK(apply(layer, in.x, in.weights).isZero(0));
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
    CHECK(same_bits<Scalar>(Layer(layer.config(), layer.seed()).parameters(), layer.parameters()));
    CHECK_FALSE(same_bits<Scalar>(Layer(layer.config(), layer.seed() + 1).parameters(), layer.parameters()));
  });
}

TEST_CASE("the scaling is alpha / rank, and alpha / sqrt(rank) where rank-stabilised") {
  CHECK(LoRA<double>(LoRAConfig{5, 6, 4, 12}).scaling() == 3);
  CHECK(LoRA<double>(LoRAConfig{5, 6, 4, 12, true}).scaling() == 6);
  CHECK(SplitLoRA<double>(SplitLoRAConfig{5, 6, 4, 12, true}).scaling() == 6);
  CHECK(HydraLoRA<double>(HydraLoRAConfig{5, 6, 4, 12, true}).scaling() == 6);
}

TEST_CASE_TEMPLATE("one head is LoRA, bit for bit at initialisation and in every result", Scalar, float, double) {
  LoRA<Scalar> lora(LoRAConfig{19, 23, 5}, 4);
  HydraLoRA<Scalar> hydra(HydraLoRAConfig{19, 23, 5, 16, false, 0, 1}, 4);
  SplitLoRA<Scalar> split(SplitLoRAConfig{19, 23, 5, 16, false, 0, 1}, 4);
  SharedBLoRA<Scalar> shared_b(SharedBLoRAConfig{19, 23, 5, 16, false, 0, 1}, 4);
  CHECK(same_bits<Scalar>(hydra.A(), lora.A()));
  CHECK(same_bits<Scalar>(split.A(0), lora.A()));
  CHECK(same_bits<Scalar>(shared_b.A(0), lora.A()));
  lora.B() = hydra.B(0) = split.B(0) = shared_b.B() = random_matrix<Scalar>(23, 5, 8);
  const Matrix<Scalar> x = random_matrix<Scalar>(19, 9, 5), dy = random_matrix<Scalar>(23, 9, 6);
  const TrainingCall l(lora, x, dy);
  const TrainingCall h(hydra, x, dy);
  CHECK(same_bits(h.y, l.y));
  CHECK(same_bits(h.dx, l.dx));
  CHECK(h.g.gate().isZero(0));
  const TrainingCall a(shared_b, x, dy);
  CHECK(same_bits(a.y, l.y));
  CHECK(same_bits(a.dx, l.dx));
  const TrainingCall p(split, x, dy);
  CHECK(same_bits(p.y, l.y));
  CHECK(same_bits<Scalar>(p.g.parameters(), l.g.parameters()));
}

TEST_CASE_TEMPLATE("SplitLoRA without a gate is one LoRA of rank heads times rank", Scalar, float, double) {
  const auto split = randomized(SplitLoRA<Scalar>(SplitLoRAConfig{31, 27, 3, 12, false, 0, 4}), 3);
  LoRA<Scalar> lora(LoRAConfig{31, 27, 12, 12 * 12 / 3.0});
  CHECK(lora.scaling() == split.scaling());
  for (Index i = 0; i < 4; ++i) {
    lora.A().middleRows(3 * i, 3) = split.A(i);
    lora.B().middleCols(3 * i, 3) = split.B(i);
  }
  const Matrix<Scalar> x = random_matrix<Scalar>(31, 10, 5);
  CHECK(relative_difference(apply(split, x), apply(lora, x)) <= tolerance::law<Scalar>);
}

TEST_CASE_TEMPLATE("permuting heads and gate rows changes nothing, equal heads are a LoRA", Scalar, float, double) {
  auto layer = randomized(HydraLoRA<Scalar>(HydraLoRAConfig{20, 18, 4, 16, false, 0, 3}), 3);
  HydraLoRA<Scalar> permuted = layer;
  for (Index i = 0; i < 3; ++i) {
    permuted.B(i) = layer.B((i + 1) % 3);
    permuted.gate().row(i) = layer.gate().row((i + 1) % 3);
  }
  const Matrix<Scalar> x = random_matrix<Scalar>(20, 10, 5);
  CHECK(relative_difference(apply(permuted, x), apply(layer, x)) <= tolerance::law<Scalar>);
  LoRA<Scalar> lora(LoRAConfig{20, 18, 4});
  lora.A() = layer.A();
  lora.B() = layer.B(0);
  for (Index i = 1; i < 3; ++i) layer.B(i) = layer.B(0);
  CHECK(relative_difference(apply(layer, x), apply(lora, x)) <= tolerance::law<Scalar>);
}

TEST_CASE("adjoint: where the layer is linear, <J v, u> = <v, J^T u>") {
  const LayerShape s{29, 17, 4, 3, 8};
  for (const Kind kind : {Kind::lora, Kind::split_uniform, Kind::split_given, Kind::shared_b_given}) {
    const Inputs<double> in(kind, s);  // of a kind whose gate, if any, does not read x
    with_layer<double>(kind, s, 0.25, 5, [&](const auto& layer) {
      const TrainingCall r(layer, in.x, in.dy, in.options);
      const double left = (r.y.array() - 1).matrix().cwiseProduct(in.dy).sum(),
                   right = (r.dx.array() - 1).matrix().cwiseProduct(in.x).sum();
      CHECK(left == doctest::Approx(right).epsilon(tolerance::law<double>));
    });
  }
}

TEST_CASE_TEMPLATE("a token's bits are the same alone, in any batch and on any threads", Scalar, float, double) {
  const auto check = [](const auto& layer, const Inputs<Scalar>& in) {
    const auto columns = [](const Matrix<Scalar>& m, Index begin, Index count) -> ConstTokens<Scalar> {
      return m.size() == 0 ? ConstTokens<Scalar>() : ConstTokens<Scalar>(m).slice(begin, count);
    };
    const auto call = [&](ConstTokens<Scalar> x, ConstTokens<Scalar> dy, ConstTokens<Scalar> w, Index first = 0) {
      CallOptions<Scalar> options;
      options.weights = w;
      options.step = 3;
      options.first_token = static_cast<std::uint64_t>(first);
      return TrainingCall(layer, x, dy, options);
    };
    const auto whole = [&] {
      const Threads one(1);
      return call(in.x, in.dy, in.weights);
    }();
    for (const int threads : thread_counts) {
      const Threads use(threads);
      const auto r = call(in.x, in.dy, in.weights);
      CHECK(same_bits(r.y, whole.y));
      CHECK(same_bits(r.dx, whole.dx));
      CHECK(same_bits<Scalar>(r.g.parameters(), whole.g.parameters()));
    }
    for (const Index count : {1, 2, 5, 6, 7, 50}) {
      for (Index begin = 0; begin + count <= in.s.tokens; begin += count * 3 + 1) {
        const auto part =
            call(columns(in.x, begin, count), columns(in.dy, begin, count), columns(in.weights, begin, count), begin);
        CHECK(same_bits<Scalar>(part.y, whole.y.middleCols(begin, count)));
        CHECK(same_bits<Scalar>(part.dx, whole.dx.middleCols(begin, count)));
      }
    }
    // another order of the same tokens, in a strided and misaligned buffer
    if (layer.config().dropout > 0) return;
    const Matrix<Scalar> reversed_w = in.weights.rowwise().reverse();
    Guarded<Scalar> xs(in.x.rowwise().reverse(), 1, 3), dys(in.dy.rowwise().reverse(), 3, 3);
    const auto reversed = call(xs.view(), dys.view(), reversed_w);
    CHECK(same_bits<Scalar>(reversed.y.rowwise().reverse(), whole.y));
    CHECK(same_bits<Scalar>(reversed.dx.rowwise().reverse(), whole.dx));
    // inference without a cache gives training's bits
    Matrix<Scalar> trained = Matrix<Scalar>::Zero(in.s.out, in.s.tokens);
    typename std::decay_t<decltype(layer)>::Cache cache;
    layer.forward(in.x, trained, cache, in.options);
    CHECK(same_bits(apply(layer, in.x, in.weights), trained));
  };
  // Sizes around the kernels' blocks (256 features, 48 and 128 tokens), and enough work (parallel_work_minimum) for
  // every loop but head mixing to go parallel in one of them.
  for_each_layer<Scalar>({{64, 48, 8, 4, 1700}, {600, 35, 5, 3, 203}, {33, 700, 16, 2, 131}}, {0.0, 0.2}, 5, check);
}

TEST_CASE("dropout: the mask is a function of seed, step, token and feature, drops a share p, and inference has none") {
  LoRA<double> layer(LoRAConfig{50, 1, 1, 1, false, 0.3}, 9);
  layer.A().setOnes();
  layer.B().setOnes();
  const Matrix<double> x = Matrix<double>::Ones(50, 400);
  const auto sums = [&](const LoRA<double>& l, std::uint64_t step, std::uint64_t first) -> Matrix<double> {
    CallOptions<double> options;
    options.step = step;
    options.first_token = first;
    return TrainingCall(l, x, x.topRows(1), options).y.array() - 1;
  };
  const Matrix<double> y = sums(layer, 1, 0);
  CHECK(std::abs(y.mean() / 50 - 1) < 5 * std::sqrt(0.3 / 0.7 / 20000));
  CHECK(same_bits(y, sums(layer, 1, 0)));
  CHECK_FALSE(same_bits(y, sums(layer, 2, 0)));
  CHECK(same_bits<double>(sums(layer, 1, 7).leftCols(393), y.rightCols(393)));
  CHECK_FALSE(same_bits(y, sums(LoRA<double>(layer.config(), layer.parameters(), 10), 1, 0)));
  CHECK((apply(layer, x).array() == 50).all());
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
  CHECK(same_bits(apply(layer, x), apply(own, x)));
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

TEST_CASE_TEMPLATE("parameters at the end of lent memory, misaligned, give the same bits", Scalar, float, double) {
  std::uint64_t seed = 0;
  for (const Kind kind : all_kinds) {
    for (const Index rank : {1, 2, 3, 5, 8, 13, 17}) {
      for (const Index out : {1, 2, 9, 40}) {
        for (const Index tokens : {1, 5, 9, 20}) {
          const LayerShape s{1 + rank % 4, out, rank, 1 + tokens % 3, tokens};  // few numbers follow the down stack
          const Inputs<Scalar> in(kind, s);
          with_layer<Scalar>(kind, s, 0, ++seed, [&](const auto& own) {
            using Layer = std::decay_t<decltype(own)>;
            std::vector<Scalar> memory(static_cast<std::size_t>(own.parameter_count() + 1));
            const ParameterMap<Scalar> lent(memory.data() + 1, own.parameter_count());
            Layer layer(own.config(), lent, own.seed());
            layer.parameters() = own.parameters();
            CHECK(same_bits(TrainingCall(own, in.x, in.dy, in.options), TrainingCall(layer, in.x, in.dy, in.options)));
          });
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("what lies between B's columns is not touched, and zero in a new layer", Scalar, float, double) {
  constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
  const auto check = [&](auto& own, const Inputs<Scalar>& in) {
    using Layer = std::decay_t<decltype(own)>;
    const Index stride = own.shape().up_stride();
    REQUIRE(stride == in.s.out + 32);
    REQUIRE(own.up_parameters().size() == own.shape().up_rows() * stride);
    if constexpr (!Layer::Middle::shares_B) {
      for (Index i = 0; i < in.s.heads; ++i) {
        CHECK(own.B(i).data() == own.up_parameters().data() + i * in.s.rank * stride);
      }
    }
    const auto between = [&](auto up) {
      using Map = Eigen::Map<Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;
      return Map(up.data() + in.s.out, 32, own.shape().up_rows(), Eigen::OuterStride<>(stride));
    };
    Layer layer = own;
    typename Layer::Gradients g(own.config());
    between(layer.up_parameters()).setConstant(nan);
    between(g.up_parameters()).setConstant(nan);

    const TrainingCall expected(own, in.x, in.dy, in.options);
    Matrix<Scalar> y = Matrix<Scalar>::Ones(in.s.out, in.s.tokens), dx = Matrix<Scalar>::Ones(in.s.in, in.s.tokens);
    typename Layer::Cache cache;
    layer.forward(in.x, y, cache, in.options);
    layer.backward(in.x, in.dy, cache, g, dx);
    CHECK((same_bits(y, expected.y) && same_bits(dx, expected.dx)));
    CHECK(between(g.up_parameters()).array().isNaN().all());
    between(g.up_parameters()).setZero();
    CHECK(same_bits<Scalar>(g.parameters(), expected.g.parameters()));

    layer.parameters().setConstant(nan);
    layer.initialize();
    CHECK(same_bits<Scalar>(layer.parameters(), Layer(own.config(), own.seed()).parameters()));
  };
  for_each_layer<Scalar>({{9, 1024, 3, 2, 70}, {5, 2048, 2, 3, 7}, {7, 1024, 5, 1, 1}}, {0.0}, 3, check);
}

TEST_CASE("the cache shows H and the heads' weights of the formulas, and Gradients start and restart at zero") {
  const auto layer = randomized(HydraLoRA<double>(HydraLoRAConfig{7, 5, 2, 16, false, 0, 3}), 3);
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
  const auto check = [](const auto& layer, const Inputs<Scalar>& in) {
    const TrainingCall whole(layer, Matrix<Scalar>(in.x), in.dy, in.options);  // nobody needs x after it
    typename std::decay_t<decltype(layer)>::Gradients frozen(layer.config());
    Matrix<Scalar> dx = Matrix<Scalar>::Ones(in.s.in, in.s.tokens);
    layer.backward_frozen_A(in.dy, whole.cache, frozen, dx, in.options);
    CHECK(same_bits(dx, whole.dx));
    CHECK(same_bits<Scalar>(frozen.up_parameters(), whole.g.up_parameters()));
    const Index down = layer.shape().down_rows() * in.s.in;  // A, and a gate that reads x
    CHECK(frozen.parameters().head(down).isZero(0));
    const Index own_gate = layer.shape().gate_size();
    CHECK(same_bits<Scalar>(frozen.parameters().segment(down, own_gate), whole.g.parameters().segment(down, own_gate)));
    const Matrix<Scalar> wrong = in.dy.topRows(in.s.out - 1);
    CHECK_THROWS_AS(layer.backward_frozen_A(wrong, whole.cache, frozen, dx, in.options), std::invalid_argument);
    CHECK(same_bits(dx, whole.dx));
  };
  const LayerShape s{21, 18, 3, 4, 33};
  for_each_layer<Scalar>({s}, {0.0, 0.4}, 6, check);
  HydraLoRAConfig config{s.in, s.out, s.rank, 16, false, 0, s.heads};
  config.gate.input = GateInput::projection;
  HydraLoRA<Scalar> projected(config, 3);
  projected.up_parameters() = random_matrix<Scalar>(projected.up_parameters().size(), 1, 5);
  check(projected, Inputs<Scalar>(Kind::hydra, s));
}
