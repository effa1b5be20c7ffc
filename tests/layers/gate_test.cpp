// SPDX-License-Identifier: MIT
//
// Every gate, input, granularity and balance loss: values and gradients against the textbook by complex step, and the
// laws.
#include <complex>
#include <hydralora/train.hpp>

#include "support/layers.hpp"
#include "support/textbook_gate.hpp"

using namespace hydralora;
using namespace support;
using Complex = std::complex<double>;

namespace {

constexpr GateInput inputs[] = {GateInput::x, GateInput::projection, GateInput::rms_projection};
constexpr GateSelection selections[] = {GateSelection::dense, GateSelection::top_k, GateSelection::top_p,
                                        GateSelection::one_hot};
constexpr GateGranularity granularities[] = {GateGranularity::token, GateGranularity::segment, GateGranularity::causal};

/// f(gate) for every gate that is not refused, with k, p and temperature from the seed.
template <class Function>
void for_each_gate(Index heads, std::uint64_t seed, Function&& f) {
  const CounterRandom random(seed, 77);
  for (const GateInput input : inputs) {
    for (const GateSelection selection : selections) {
      for (const GateGranularity granularity : granularities) {
        GateConfig gate{input, selection, granularity};
        gate.top_k = 1 + static_cast<Index>(random.below(static_cast<std::uint64_t>(heads), 1));
        gate.top_p = random.uniform_between(0.1, 1.0, 2);
        gate.temperature = seed % 2 == 0 ? 1 : random.uniform_between(0.5, 2.0, 3);
        gate.keep_log_partition = true;
        if (input == GateInput::rms_projection && !gate.pools()) continue;
        INFO("input ", static_cast<int>(input), ", selection ", static_cast<int>(selection), ", granularity ",
             static_cast<int>(granularity));
        f(gate);
      }
    }
  }
}

template <class Layer>
void check_gate(const LayerShape& s, const GateConfig& config, std::uint64_t seed) {
  Layer layer(typename Layer::Config{s.in, s.out, s.rank, 3.0, false, 0, s.heads, Routing::learned, config});
  layer.parameters() = 0.7 * random_matrix<double>(layer.parameter_count(), 1, seed);
  const Matrix<double> x = random_matrix<double>(s.in, s.tokens, seed + 1),
                       dy = random_matrix<double>(s.out, s.tokens, seed + 2);
  const std::vector<Index> segments = some_segments(s.tokens, seed);
  Matrix<double> mask = Matrix<double>::Ones(1, s.tokens);
  if (seed % 3 == 1 && s.tokens > 1) mask(0, s.tokens / 2) = 0;
  BalanceWeights w;
  if (seed % 5 != 1) w.importance = 0.3;
  if (seed % 5 != 2) w.load = 0.2;
  if (seed % 5 != 3) w.z = 0.1;
  if (seed % 5 == 4) w = {};

  TextbookLoss<Complex> book(layer, segments);
  Matrix<Complex> xc = x.cast<Complex>();
  book(xc, dy, w, mask);
  if (config.selection != GateSelection::dense && s.heads > 1 && s.tokens > 0 &&
      book.gate.distance_from_a_tie() < 1e-6) {
    return;
  }

  CallOptions<double> options;
  options.segments = segments;
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config());
  Matrix<double> y = Matrix<double>::Zero(s.out, s.tokens), dx = Matrix<double>::Ones(s.in, s.tokens);
  Matrix<double> logits_gradient = Matrix<double>::Zero(s.heads, s.tokens);
  layer.forward(x, y, cache, options);
  const BalanceLosses losses = balance_losses(w, layer, cache, logits_gradient, mask);
  options.logits_gradient = logits_gradient;
  options.segments = {};  // the cache has them
  g.parameters().setOnes();
  layer.backward(x, dy, cache, g, dx, options);
  g.parameters().array() -= 1;
  dx.array() -= 1;

  CHECK(relative_difference(y, book.y(xc).real()) < tolerance::complex_step);
  CHECK(relative_difference(cache.weights().matrix(), book.gate.weights.real()) < tolerance::complex_step);
  CHECK(relative_difference(cache.probabilities().matrix(), book.gate.probabilities.real()) < tolerance::complex_step);
  CHECK(relative_difference(cache.log_partition().matrix(), book.gate.log_partition.real()) < tolerance::complex_step);
  const double balance = losses.weighted(w);
  CHECK(std::abs(balance - book.gate.balance(w, mask).real()) <= tolerance::complex_step * std::max(1.0, balance));
  if (s.tokens == 0) return;

  const double largest = std::max({1.0, g.parameters().cwiseAbs().maxCoeff(), dx.cwiseAbs().maxCoeff()});
  const CounterRandom random(seed, 79);
  const auto check_some = [&](const std::string& tensor, const auto& gradient, Matrix<Complex>& twin) {
    INFO(tensor);
    for (std::uint64_t n = 0; n < 3; ++n) {
      const auto at = static_cast<Index>(random.below(static_cast<std::uint64_t>(twin.size()), n));
      const Complex before = twin(at % twin.rows(), at / twin.rows());
      twin(at % twin.rows(), at / twin.rows()) += Complex(0, 1e-30);
      const double expected = book(xc, dy, w, mask).imag() / 1e-30;
      twin(at % twin.rows(), at / twin.rows()) = before;
      CHECK(std::abs(gradient(at % twin.rows(), at / twin.rows()) - expected) <= tolerance::complex_step * largest);
    }
  };
  check_some("gate", g.gate(), book.gate.G);
  if constexpr (Layer::Middle::shares_A) {
    check_some("A", g.A(), book.A[0]);
  } else {
    check_some("A", g.A(s.heads - 1), book.A.back());
  }
  if constexpr (Layer::Middle::shares_B) {
    check_some("B", g.B(), book.B[0]);
  } else {
    check_some("B", g.B(s.heads - 1), book.B.back());
  }
  check_some("x", dx, xc);
}

}  // namespace

TEST_CASE("gradients of every gate, input, granularity and balance loss by complex step") {
  for (std::uint64_t index = 0; index < 110; ++index) {
    LayerShape s = layer_shape(index);
    s.in = s.in % 13 + 1;
    s.out = s.out % 11 + 1;
    s.rank = s.rank % 4 + 1;
    s.tokens = std::min<Index>(s.tokens, 14);
    for_each_gate(s.heads, index, [&](const GateConfig& gate) {
      CAPTURE(s);
      CAPTURE(index);
      check_gate<HydraLoRA<double>>(s, gate, index);
      check_gate<SplitLoRA<double>>(s, gate, index + 1000);
      check_gate<SharedBLoRA<double>>(s, gate, index + 2000);
    });
  }
}

TEST_CASE_TEMPLATE("all heads kept is the dense gate; of equal heads the lower is kept", Scalar, float, double) {
  const Matrix<Scalar> x = random_matrix<Scalar>(9, 33, 1), dy = random_matrix<Scalar>(7, 33, 2);
  const auto call = [&](const GateConfig& gate, bool zero_gate = false) {
    auto layer = randomized(HydraLoRA<Scalar>(HydraLoRAConfig{9, 7, 3, 16, false, 0, 4, Routing::learned, gate}), 3);
    if (zero_gate) layer.gate().setZero();
    return TrainingCall(layer, x, dy);
  };
  const auto gate_of = [](GateSelection selection, Index top_k, double top_p) {
    return GateConfig{GateInput::x, selection, GateGranularity::token, 1, top_k, top_p};
  };
  const auto dense = call({});
  for (const GateSelection selection : {GateSelection::top_k, GateSelection::top_p}) {
    const auto r = call(gate_of(selection, 4, 1));
    CHECK(same_bits(r.y, dense.y));
    CHECK(same_bits(r.dx, dense.dx));
    CHECK(same_bits<Scalar>(r.g.parameters(), dense.g.parameters()));
  }
  const auto all_tokens_get = [&](const GateConfig& gate, std::initializer_list<double> expected) {
    const Matrix<Scalar> weights = call(gate, true).cache.weights().matrix();
    Index i = 0;
    for (const double weight : expected) CHECK((weights.row(i++).array() == static_cast<Scalar>(weight)).all());
  };
  all_tokens_get(gate_of(GateSelection::top_k, 2, 1), {0.5, 0.5, 0, 0});
  all_tokens_get(gate_of(GateSelection::top_p, 1, 0.5), {0.5, 0.5, 0, 0});
  all_tokens_get(gate_of(GateSelection::one_hot, 1, 1), {1, 0, 0, 0});
}

TEST_CASE("one routed head is LoRA with every gate") {
  const Matrix<double> x = random_matrix<double>(8, 12, 1), dy = random_matrix<double>(6, 12, 2);
  for_each_gate(1, 5, [&](const GateConfig& gate) {
    HydraLoRA<double> hydra(HydraLoRAConfig{8, 6, 3, 16, false, 0, 1, Routing::learned, gate}, 1);
    LoRA<double> lora(LoRAConfig{8, 6, 3, 16}, 1);
    hydra.B(0) = lora.B() = random_matrix<double>(6, 3, 4);
    const TrainingCall routed(hydra, x, dy);
    const TrainingCall plain(lora, x, dy);
    CHECK(relative_difference(routed.y, plain.y) <= tolerance::law<double>);
    CHECK(relative_difference(routed.dx, plain.dx) <= tolerance::law<double>);
    CHECK(relative_difference(routed.g.A(), plain.g.A()) <= tolerance::law<double>);
    CHECK(relative_difference(routed.g.B(0), plain.g.B()) <= tolerance::law<double>);
    CHECK(routed.g.gate().cwiseAbs().maxCoeff() <= tolerance::law<double>);
  });
}

TEST_CASE_TEMPLATE("a result depends on the segment, or on the tokens before if causal", Scalar, float, double) {
  const std::vector<Index> segments{3, 0, 17, 1, 9};
  const Matrix<Scalar> x = random_matrix<Scalar>(8, 30, 1);
  for_each_gate(4, 6, [&](const GateConfig& gate) {
    const auto layer =
        randomized(HydraLoRA<Scalar>(HydraLoRAConfig{8, 40, 3, 16, false, 0, 4, Routing::learned, gate}), 3);
    const auto forward = [&](const Matrix<Scalar>& input, const std::vector<Index>& lengths) {
      Matrix<Scalar> y = Matrix<Scalar>::Zero(40, input.cols());
      CallOptions<Scalar> options;
      options.segments = lengths;
      layer.forward(input, y, options);
      return y;
    };
    const Matrix<Scalar> y = forward(x, segments);
    // alone
    for (Index i = 0, first = 0; i < 5; first += segments[static_cast<std::size_t>(i++)]) {
      const Index length = segments[static_cast<std::size_t>(i)];
      CHECK(same_bits<Scalar>(forward(x.middleCols(first, length), {length}), y.middleCols(first, length)));
    }
    // a token inside the third segment changes
    Matrix<Scalar> changed = x;
    changed.col(12) *= Scalar(-3);
    const Matrix<Scalar> after = forward(changed, segments);
    CHECK(same_bits<Scalar>(after.leftCols(3), y.leftCols(3)));
    CHECK(same_bits<Scalar>(after.rightCols(10), y.rightCols(10)));
    if (gate.granularity != GateGranularity::segment)
      CHECK(same_bits<Scalar>(after.middleCols(3, 9), y.middleCols(3, 9)));
    if (gate.granularity == GateGranularity::token)
      CHECK(same_bits<Scalar>(after.middleCols(13, 7), y.middleCols(13, 7)));
    if (gate.granularity == GateGranularity::causal)  // and a prefix gives the same numbers
      CHECK(same_bits<Scalar>(forward(x.middleCols(3, 9), {9}), y.middleCols(3, 9)));
    if (gate.pools() && gate.selection == GateSelection::dense)
      CHECK(!same_bits<Scalar>(after.middleCols(13, 7), y.middleCols(13, 7)));
  });
}

TEST_CASE("a gate that pools a segment's prompt uses its weights for the whole segment, and reads nothing else") {
  const std::vector<Index> segments{5, 7}, prompts{2, 7};
  for (const GateInput input : {GateInput::x, GateInput::projection, GateInput::rms_projection}) {
    const GateConfig gate{input, GateSelection::dense, GateGranularity::segment};
    const auto layer =
        randomized(HydraLoRA<double>(HydraLoRAConfig{8, 9, 3, 16, false, 0, 4, Routing::learned, gate}), 3);
    const Matrix<double> x = random_matrix<double>(8, 12, 1), dy = random_matrix<double>(9, 12, 2);
    HydraLoRA<double>::Cache cache;
    const auto forward = [&](const Matrix<double>& input_of, Index first, const std::vector<Index>& lengths,
                             const Index* pooled) {
      Matrix<double> y = Matrix<double>::Zero(9, input_of.cols());
      CallOptions<double> options;
      options.segments = lengths;
      options.segments.prompts = pooled;
      layer.forward(input_of, y, cache, options);
      return Matrix<double>(cache.weights().matrix().middleCols(first, 5));
    };
    const Matrix<double> w = forward(x, 0, segments, prompts.data());
    const Matrix<double> alone = forward(x.leftCols(5), 0, {5}, nullptr),
                         two = forward(x.leftCols(5), 0, {2, 3}, nullptr);
    CHECK((w.colwise() - two.col(0)).isZero(1e-15));
    CHECK(!w.isApprox(alone));
    Matrix<double> changed = x;
    changed.col(2) *= -3;
    CHECK(forward(changed, 0, segments, prompts.data()) == w);
    // Σ dy ∘ y changes with a number of x as dx says.
    const auto loss = [&](const Matrix<double>& at) {
      Matrix<double> y = Matrix<double>::Zero(9, 12);
      CallOptions<double> options;
      options.segments = segments;
      options.segments.prompts = prompts.data();
      layer.forward(at, y, cache, options);
      return (y.array() * dy.array()).sum();
    };
    loss(x);
    Matrix<double> dx = Matrix<double>::Zero(8, 12);
    HydraLoRA<double>::Gradients gradients(layer.config());
    layer.backward(x, dy, cache, gradients, dx);
    for (Index i = 0; i < x.size(); ++i) {
      Matrix<double> above = x, below = x;
      above.data()[i] += 1e-6;
      below.data()[i] -= 1e-6;
      CHECK(std::abs((loss(above) - loss(below)) / 2e-6 - dx.data()[i]) < 1e-6);
    }
  }
}

TEST_CASE("weights from the caller and the plain sum of the heads, in HydraLoRA too") {
  const Matrix<double> x = random_matrix<double>(8, 5, 1), w = random_matrix<double>(3, 5, 2),
                       dy = random_matrix<double>(6, 5, 9);
  const auto given = randomized(HydraLoRA<double>(HydraLoRAConfig{8, 6, 2, 16, false, 0, 3, Routing::given}), 3),
             uniform = randomized(HydraLoRA<double>(HydraLoRAConfig{8, 6, 2, 16, false, 0, 3, Routing::uniform}), 3);
  CHECK(given.gate().size() == 0);
  Matrix<double> dw = Matrix<double>::Ones(3, 5), sum = Matrix<double>::Zero(6, 5), expected = sum, expected_sum = sum;
  CallOptions<double> options;
  options.weights = w;
  options.weights_gradient = dw;
  const TrainingCall call(given, x, dy, options);
  uniform.forward(x, sum);
  for (Index i = 0; i < 3; ++i) {
    const Matrix<double> head = given.scaling() * given.B(i) * given.A() * x;
    expected += head * w.row(i).asDiagonal();
    expected_sum += head;
    for (Index t = 0; t < 5; ++t) CHECK(std::abs(dw(i, t) - 1 - head.col(t).dot(dy.col(t))) < 1e-12);
  }
  CHECK(relative_difference((call.y.array() - 1).matrix(), expected) < 1e-13);
  CHECK(relative_difference(sum, expected_sum) < 1e-13);
}

TEST_CASE("gates that make no sense are refused with the values") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const auto refused = [](auto change, const std::string& reason) {
    HydraLoRAConfig hydra{8, 6, 2, 16, false, 0, 3};
    SplitLoRAConfig split{8, 6, 2, 16, false, 0, 3, Routing::learned};
    change(hydra);
    change(split);
    CHECK(message_of([&] { HydraLoRA<float> layer(hydra); }) == "HydraLoRA: " + reason);
    CHECK(message_of([&] { SplitLoRA<float> layer(split); }) == "SplitLoRA: " + reason);
  };
  for (const Index k : {4, 0}) {
    refused([&](auto& c) { c.gate.top_k = k; },
            "gate.top_k " + std::to_string(k) + " must be in [1, 3], the number of heads");
  }
  for (const auto& [p, text] : {std::pair(0.0, "0"), std::pair(1.5, "1.5"), std::pair(nan, "nan")}) {
    refused([p = p](auto& c) { c.gate.top_p = p; }, std::string("gate.top_p ") + text + " must be in (0, 1]");
  }
  for (const auto& [temperature, text] : {std::pair(0.0, "0"), std::pair(-1.0, "-1"), std::pair(1e-46, "1e-46"),
                                          std::pair(inf, "inf"), std::pair(nan, "nan")}) {
    refused([t = temperature](auto& c) { c.gate.temperature = t; },
            std::string("gate.temperature ") + text + " must be finite and above 0");
  }
  refused([](auto& c) { c.gate.input = GateInput::rms_projection; },
          "GateInput::rms_projection is a mean over tokens: it needs GateGranularity::segment or causal");
  refused([](auto& c) { c.gate.input = GateInput::projection, c.dropout = 0.25; },
          "a gate that reads A x would read x with dropout 0.25 in training and without it at inference: "
          "use GateInput::x or dropout 0");
  refused([](auto& c) { c.gate.temperature = 2, c.routing = Routing::given; },
          "gate settings without Routing::learned would have no effect");
}

TEST_CASE("segments that do not cover the tokens are refused, and nothing is written") {
  const GateConfig gate{GateInput::x, GateSelection::dense, GateGranularity::segment};
  const HydraLoRA<float> layer(HydraLoRAConfig{4, 4, 2, 16, false, 0, 3, Routing::learned, gate});
  const Matrix<float> x = random_matrix<float>(4, 6, 1);
  Matrix<float> y = Matrix<float>::Ones(4, 6);
  HydraLoRA<float>::Cache cache;
  const auto refused = [&](const std::vector<Index>& lengths, const std::string& reason) {
    CallOptions<float> options;
    options.segments = lengths;
    CHECK(message_of([&] { layer.forward(x, y, cache, options); }) == "HydraLoRA::forward: " + reason);
    CHECK(y.isOnes(0));
    CHECK(cache.tokens() == 0);
  };
  refused({2, 3}, "the segments hold 5 of 6 tokens");
  refused({2, 5}, "segments 0 to 1 hold more than the 6 tokens");
  refused({8, -2}, "segments 0 to 0 hold more than the 6 tokens");
  refused({2, -2, 6}, "segment 1 has length -2");
  refused({6, std::numeric_limits<Index>::max()}, "segments 0 to 1 hold more than the 6 tokens");
  const std::vector<Index> lengths{2, 0, 4}, prompts{2, 0, 5};
  CallOptions<float> options;
  options.segments = lengths;
  options.segments.prompts = prompts.data();
  CHECK(message_of([&] { layer.forward(x, y, cache, options); }) ==
        "HydraLoRA::forward: prompt 2 has 5 tokens, its segment 4");
  CallOptions<float> null;
  null.segments = Segments(nullptr, 2);
  CHECK(message_of([&] { layer.forward(x, y, null); }) == "HydraLoRA::forward: segments: 2 lengths (null)");
  using Forward = SlicedForward<HydraLoRA<float>>;
  CHECK_THROWS_WITH_AS(Forward(layer, x, y, cache),
                       "HydraLoRA: a gate that pools tokens cannot be cut into slices: use forward() and backward()",
                       std::invalid_argument);
  CHECK(y.isOnes(0));
}

TEST_CASE("a NaN or infinite logit shows in that token's weights, whatever is selected") {
  for_each_gate(3, 2, [&](const GateConfig& gate) {
    if (gate.pools()) return;
    HydraLoRA<float> layer(HydraLoRAConfig{4, 4, 2, 16, false, 0, 3, Routing::learned, gate});
    Matrix<float> x = random_matrix<float>(4, 3, 1);
    x(2, 1) = std::numeric_limits<float>::quiet_NaN();
    const Matrix<float> weights = TrainingCall(layer, x, x).cache.weights().matrix();
    CHECK(weights.col(0).allFinite());
    CHECK(weights.col(1).array().isNaN().all());
    CHECK(weights.col(2).allFinite());
  });
}

TEST_CASE("balance losses: known values, padding, and what is refused") {
  HydraLoRA<double> layer(HydraLoRAConfig{4, 4, 2, 16, false, 0, 2});
  layer.gate().setZero();
  layer.gate()(0, 0) = 1000;  // x_0 > 0: head 0 alone, x_0 < 0: head 1 alone
  Matrix<double> x = Matrix<double>::Zero(4, 4), gradient = Matrix<double>::Zero(2, 4);
  x.row(0) << 1, 1, 1, -1;
  const auto cache = TrainingCall(layer, x, x).cache;
  BalanceLosses losses = balance_losses({}, layer, cache, gradient);
  CHECK(losses.importance == doctest::Approx(0.5));  // importance 3, 1: mean 2, unbiased variance 2
  CHECK(losses.load == doctest::Approx(2 * (0.75 * 0.75 + 0.25 * 0.25)));
  CHECK(gradient.isZero(0));  // weights are 0 by default
  Matrix<double> mask(1, 4);
  mask << 1, 0, 0, 1;
  losses = balance_losses({}, layer, cache, gradient, mask);
  CHECK(losses.importance == doctest::Approx(0));
  CHECK(losses.load == doctest::Approx(1));
  mask.setZero();
  losses = balance_losses({1, 1, 0}, layer, cache, gradient, mask);
  CHECK(losses.importance == 0);
  CHECK(gradient.isZero(0));

  const HydraLoRA<double> given(HydraLoRAConfig{4, 4, 2, 16, false, 0, 2, Routing::given});
  const auto refused = [&](const BalanceWeights& w, const auto& of, Tokens<double> into, ConstTokens<double> counted) {
    return message_of([&] { balance_losses(w, of, cache, into, counted); });
  };
  CHECK(refused({0, 0, 1}, layer, gradient, {}) ==
        "balance_losses: the z-loss needs GateConfig::keep_log_partition in this layer");
  CHECK(refused({}, layer, gradient.leftCols(3), {}) ==
        "balance_losses: gradient is 2x3, expected 2x4 (heads x tokens)");
  CHECK(refused({}, layer, gradient, mask.leftCols(3)) == "balance_losses: mask is 1x3, expected 1x4 (1 x tokens)");
  mask(0, 2) = -1;
  CHECK(refused({}, layer, gradient, mask) == "balance_losses: mask of token 2 is -1, expected finite and >= 0");
  CHECK(gradient.isZero(0));
  CHECK(refused({}, given, gradient, {}) == containing("has no learned gate"));
}

TEST_CASE("large logits keep a finite log partition") {
  GateConfig gate;
  gate.keep_log_partition = true;
  HydraLoRA<float> layer(HydraLoRAConfig{2, 2, 1, 16, false, 0, 2, Routing::learned, gate});
  layer.gate().setZero();
  layer.gate()(0, 0) = 1000;
  Matrix<float> x = Matrix<float>::Zero(2, 2);
  x.row(0) << 1, -1;
  const TrainingCall call(layer, x, x);
  CHECK(call.cache.log_partition()(0, 0) == 1000);
  CHECK(call.cache.log_partition()(0, 1) == 0);
}

TEST_CASE("a gradient of the logits: refused where it cannot go, cut with the tokens where they are cut") {
  const GateConfig gate{GateInput::x, GateSelection::top_k, GateGranularity::token, 1, 2};
  const auto layer = randomized(HydraLoRA<float>(HydraLoRAConfig{9, 7, 2, 16, false, 0, 3, Routing::learned, gate}), 1);
  const Matrix<float> x = random_matrix<float>(9, 8, 2), dy = random_matrix<float>(7, 8, 3),
                      extra = random_matrix<float>(3, 8, 4);
  CallOptions<float> options;
  options.logits_gradient = extra;
  const TrainingCall whole(layer, x, dy, options);
  Matrix<float> dx = Matrix<float>::Ones(9, 8);
  HydraLoRA<float>::Gradients g(layer.config());
  const SlicedBackward<HydraLoRA<float>> backward(layer, x, dy, whole.cache, g, dx, options);
  for (int phase = 0; phase < 2; ++phase) {
    for (Index i = 0; i < 3; ++i) backward.run(phase, i, 3);
  }
  CHECK(same_bits(dx, whole.dx));
  CHECK(same_bits<float>(g.parameters(), whole.g.parameters()));

  const Matrix<float> few = extra.topRows(2);
  const auto refused = [&] { return message_of([&] { layer.backward(x, dy, whole.cache, g, dx, options); }); };
  g.set_zero();
  options.logits_gradient = dx.topRows(3);
  CHECK(refused() == "HydraLoRA::backward: logits_gradient 3x8 overlaps dx");
  options.logits_gradient = few;
  CHECK(refused() == "HydraLoRA::backward: logits_gradient is 2x8, expected 3x8 (heads x tokens)");
  SplitLoRA<float> uniform(SplitLoRAConfig{9, 7, 2, 16, false, 0, 3});
  TrainingCall call(uniform, x, dy);
  options.logits_gradient = extra;
  CHECK(message_of([&] { uniform.backward(x, dy, call.cache, call.g, dx, options); }) ==
        "SplitLoRA::backward: logits_gradient is 3x8, but this layer has no gate");
  CHECK(same_bits(dx, whole.dx));
  CHECK(g.parameters().isZero(0));
}

TEST_CASE("a cache of one gate is refused by every other, with both in the message") {
  const Matrix<float> x = random_matrix<float>(5, 6, 1), dy = random_matrix<float>(4, 6, 2);
  std::vector<HydraLoRA<float>> layers;
  for_each_gate(3, 4, [&](GateConfig gate) {
    gate.keep_log_partition = false;
    layers.emplace_back(HydraLoRAConfig{5, 4, 2, 16, false, 0, 3, Routing::learned, gate});
  });
  layers.emplace_back(HydraLoRAConfig{5, 4, 2, 16, false, 0, 3, Routing::uniform});
  for (std::size_t i = 0; i < layers.size(); ++i) {
    TrainingCall call(layers[i], x, dy);
    for (std::size_t j = 0; j < layers.size(); ++j) {
      HydraLoRA<float>::Gradients g(layers[j].config());
      const std::string message = message_of([&] { layers[j].backward(x, dy, call.cache, g, call.dx); });
      CHECK((message == "nothing thrown") == (i == j));
      if (i == j) continue;
      CHECK(call.dx.allFinite());
      const auto from = message.find("from "), to = message.find(" with "), expected = message.find("expected ");
      CHECK(message.substr(from + 5, to - from - 5) != message.substr(expected + 9, to - from - 5));
    }
  }
}

TEST_CASE("a cache forgets the segments of the call before") {
  const GateConfig gate{GateInput::x, GateSelection::dense, GateGranularity::causal};
  const auto layer =
      randomized(HydraLoRA<double>(HydraLoRAConfig{5, 4, 2, 16, false, 0, 3, Routing::learned, gate}), 3);
  const Matrix<double> x = random_matrix<double>(5, 6, 1), dy = random_matrix<double>(4, 6, 2);
  TrainingCall fresh(layer, x, dy), used = fresh;
  const std::vector<Index> segments{2, 4};
  CallOptions<double> options;
  options.segments = segments;
  layer.forward(x, used.y, used.cache, options);
  for (auto* call : {&fresh, &used}) {
    call->dx.setZero();
    layer.forward(x, call->y, call->cache);
    layer.backward(x, dy, call->cache, call->g, call->dx);
  }
  CHECK(same_bits(used.dx, fresh.dx));
}

TEST_CASE_TEMPLATE("a gate that reads A x has a matrix of its own, between the stacks", Scalar, float, double) {
  const GateConfig gate{GateInput::projection};
  const HydraLoRAConfig config{10, 7, 3, 16, false, 0, 4, Routing::learned, gate};
  HydraLoRA<Scalar> layer(config, 5), same(config, 5), other(config, 6);
  CHECK(layer.gate().rows() == 4);
  CHECK(layer.gate().cols() == 3);
  CHECK(layer.parameter_count() == 3 * 10 + 4 * 3 + 4 * 3 * 7);
  CHECK(layer.gate().cwiseAbs().maxCoeff() > 0);
  CHECK(layer.gate().cwiseAbs().maxCoeff() <= Scalar(1 / std::sqrt(3.0)));
  CHECK(same_bits<Scalar>(layer.gate(), same.gate()));
  CHECK_FALSE(same_bits<Scalar>(layer.gate(), other.gate()));
  // LoRA+ trains the two parts at different speeds
  CHECK(layer.up_parameters().isZero(0));
  layer.up_parameters().setOnes();
  for (Index i = 0; i < 4; ++i) CHECK(layer.B(i).isOnes(0));
  CHECK(same_bits<Scalar>(layer.gate(), same.gate()));
  layer.down_parameters().setZero();
  CHECK(layer.gate().isZero(0));
  CHECK(layer.A().isZero(0));
  // lent memory, all of it and nothing else
  std::vector<Scalar> lent(static_cast<std::size_t>(layer.parameter_count()) + 2, Scalar(9));
  HydraLoRA<Scalar> guest(config, ParameterMap<Scalar>(lent.data() + 1, layer.parameter_count()), 5);
  guest.initialize();
  CHECK(same_bits<Scalar>(guest.gate(), same.gate()));
  CHECK(lent.front() == 9);
  CHECK(lent.back() == 9);
  Matrix<Scalar> x = Matrix<Scalar>::Zero(10, 2), y = Matrix<Scalar>::Zero(7, 2);
  typename HydraLoRA<Scalar>::Cache cache;
  CHECK(message_of([&] { SlicedForward<HydraLoRA<Scalar>>(layer, x, y, cache); }) ==
        "HydraLoRA: a gate that reads A x cannot be cut into slices: use forward() and backward()");
  HydraLoRAConfig huge = config;
  huge.in_features = std::numeric_limits<Index>::max() - 8;
  CHECK_THROWS_WITH_AS(HydraLoRA<Scalar>{huge}, doctest::Contains("are too many"), std::invalid_argument);
}

TEST_CASE("balance losses refuse numbers that are not finite, and a cache of another layer") {
  const HydraLoRA<float> layer(HydraLoRAConfig{4, 4, 2, 16, false, 0, 3}),
      wider(HydraLoRAConfig{4, 4, 3, 16, false, 0, 3});
  Matrix<float> x = random_matrix<float>(4, 5, 1), gradient = Matrix<float>::Zero(3, 5);
  const auto cache = TrainingCall(layer, x, x).cache;
  const auto refused = [&](const BalanceWeights& w, const HydraLoRA<float>& of, ConstTokens<float> mask) {
    return message_of([&] { balance_losses(w, of, cache, gradient, mask); });
  };
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix<float> mask = Matrix<float>::Ones(1, 5);
    mask(0, 3) = static_cast<float>(bad);
    CHECK(refused({1, 1, 0}, layer, mask) == containing("mask of token 3 is"));
    CHECK(refused({0, bad, 0}, layer, {}) == containing("must be finite"));
  }
  CHECK(refused({1, 1, 0}, layer, gradient.topRows(1)) == "balance_losses: mask 1x5 and gradient 3x5 overlap");
  CHECK(refused({1, 1, 0}, wider, {}) == containing("the cache is from"));
  CHECK(gradient.isZero(0));
  const Matrix<float> tiny = Matrix<float>::Constant(1, 5, 1e-38F);
  balance_losses({1, 1, 0}, layer, cache, gradient, tiny);
  CHECK(gradient.allFinite());
}
