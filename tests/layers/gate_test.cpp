// SPDX-License-Identifier: MIT
//
// Every gate, input, granularity and balance loss: values and gradients against the textbook by complex step, and the
// laws.
#include <doctest/doctest.h>

#include <complex>
#include <hydralora/train.hpp>
#include <limits>
#include <vector>

#include "support/errors.hpp"
#include "support/layers.hpp"
#include "support/textbook_gate.hpp"
#include "support/tolerances.hpp"

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
        GateConfig gate;
        gate.input = input;
        gate.selection = selection;
        gate.granularity = granularity;
        gate.top_k = 1 + static_cast<Index>(random.below(static_cast<std::uint64_t>(heads), 1));
        gate.top_p = random.uniform_between(0.1, 1.0, 2);
        gate.temperature = seed % 2 == 0 ? 1 : random.uniform_between(0.5, 2.0, 3);
        gate.keep_log_partition = true;
        if (input == GateInput::rms_projection && !gate.pools()) continue;
        f(gate);
      }
    }
  }
}

/// Lengths that sum to `tokens`, an empty one among them.
std::vector<Index> some_segments(Index tokens, std::uint64_t seed) {
  const CounterRandom random(seed, 78);
  std::vector<Index> lengths{0};
  for (std::uint64_t n = 0; tokens > 0; ++n) {
    const Index length =
        1 + static_cast<Index>(random.below(static_cast<std::uint64_t>(std::min<Index>(tokens, 5)), n));
    lengths.push_back(length);
    tokens -= length;
  }
  return lengths;
}

HydraLoRA<double> routed_layer(const HydraLoRA<double>*, const LayerShape& s, const GateConfig& gate) {
  return HydraLoRA<double>(HydraLoRAConfig{s.in, s.out, s.rank, 3.0, false, 0, s.heads, Routing::learned, gate});
}
SplitLoRA<double> routed_layer(const SplitLoRA<double>*, const LayerShape& s, const GateConfig& gate) {
  return SplitLoRA<double>(SplitLoRAConfig{s.in, s.out, s.rank, 3.0, false, 0, s.heads, Routing::learned, gate});
}

SharedBLoRA<double> routed_layer(const SharedBLoRA<double>*, const LayerShape& s, const GateConfig& gate) {
  return SharedBLoRA<double>(SharedBLoRAConfig{s.in, s.out, s.rank, 3.0, false, 0, s.heads, Routing::learned, gate});
}

template <class Layer>
constexpr bool shares_B = std::is_same_v<typename Layer::Config, SharedBLoRAConfig>;
template <class Layer>
constexpr bool is_hydra = std::is_same_v<typename Layer::Config, HydraLoRAConfig>;

/// The whole loss ⟨dY, ΔW(X)⟩ + balance of a layer in any scalar, in loops.
template <class Scalar, class Layer>
struct TextbookLoss {
  TextbookGate<Scalar> gate;
  std::vector<Matrix<Scalar>> A, B;
  double scaling;

  TextbookLoss(const Layer& layer, std::vector<Index> segments) : scaling(layer.scaling()) {
    gate.config = layer.config().gate;
    gate.segments = std::move(segments);
    gate.G = layer.gate().template cast<Scalar>();
    for (Index i = 0; i < layer.config().heads; ++i) {
      if constexpr (is_hydra<Layer>) {
        if (i == 0) A.push_back(layer.A().template cast<Scalar>());
      } else {
        A.push_back(layer.A(i).template cast<Scalar>());
      }
      if constexpr (!shares_B<Layer>) {
        B.push_back(layer.B(i).template cast<Scalar>());
      } else if (i == 0) {
        B.push_back(layer.B().template cast<Scalar>());
      }
    }
  }

  Matrix<Scalar> y(const Matrix<Scalar>& x) {
    const Index rank = A[0].rows();
    Matrix<Scalar> h = Matrix<Scalar>::Zero(rank * static_cast<Index>(A.size()), x.cols());
    for (std::size_t i = 0; i < A.size(); ++i) h.middleRows(static_cast<Index>(i) * rank, rank) = A[i] * x;
    gate.route(x, h);
    Matrix<Scalar> y = Matrix<Scalar>::Zero(B[0].rows(), x.cols());
    for (Index t = 0; t < x.cols(); ++t) {
      for (std::size_t i = 0; i < std::max(A.size(), B.size()); ++i) {
        const Index own = A.size() == 1 ? 0 : static_cast<Index>(i) * rank;
        const Matrix<Scalar>& up = B.size() == 1 ? B[0] : B[i];
        y.col(t) += scaling * gate.weights(static_cast<Index>(i), t) * (up * h.col(t).segment(own, rank));
      }
    }
    return y;
  }
  Scalar operator()(const Matrix<Scalar>& x, const Matrix<double>& dy, const BalanceWeights& w,
                    const Matrix<double>& mask) {
    const Matrix<Scalar> result = y(x);
    Scalar sum = gate.balance(w, mask);
    for (Index t = 0; t < x.cols(); ++t) {
      for (Index o = 0; o < dy.rows(); ++o) sum += dy(o, t) * result(o, t);
    }
    return sum;
  }
};

template <class Layer>
void check_gate(const LayerShape& s, const GateConfig& config, std::uint64_t seed) {
  Layer layer = routed_layer(static_cast<const Layer*>(nullptr), s, config);
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

  TextbookLoss<Complex, Layer> book(layer, segments);
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
  const auto check_some = [&](const char* tensor, const auto& gradient, Matrix<Complex>& twin) {
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
  if constexpr (is_hydra<Layer>) {
    check_some("A", g.A(), book.A[0]);
  } else {
    check_some("A", g.A(s.heads - 1), book.A.back());
  }
  if constexpr (shares_B<Layer>) {
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
      CAPTURE(static_cast<int>(gate.input));
      CAPTURE(static_cast<int>(gate.selection));
      CAPTURE(static_cast<int>(gate.granularity));
      check_gate<HydraLoRA<double>>(s, gate, index);
      check_gate<SplitLoRA<double>>(s, gate, index + 1000);
      check_gate<SharedBLoRA<double>>(s, gate, index + 2000);
    });
  }
}

TEST_CASE_TEMPLATE("all heads kept is the dense gate, bit for bit, and equal probabilities keep the lower head", Scalar,
                   float, double) {
  const Matrix<Scalar> x = random_matrix<Scalar>(9, 33, 1), dy = random_matrix<Scalar>(7, 33, 2);
  struct Results {
    Matrix<Scalar> y, dx, g, weights;
  };
  const auto results = [&](const GateConfig& gate, bool zero_gate = false) {
    HydraLoRA<Scalar> layer(HydraLoRAConfig{9, 7, 3, 16, false, 0, 4, Routing::learned, gate});
    layer.parameters() = random_matrix<Scalar>(layer.parameter_count(), 1, 3);
    if (zero_gate) layer.gate().setZero();
    typename HydraLoRA<Scalar>::Cache cache;
    typename HydraLoRA<Scalar>::Gradients g(layer.config());
    Results r{Matrix<Scalar>::Zero(7, 33), Matrix<Scalar>::Zero(9, 33), {}, {}};
    layer.forward(x, r.y, cache);
    layer.backward(x, dy, cache, g, r.dx);
    r.g = g.parameters();
    r.weights = cache.weights().matrix();
    return r;
  };
  const Results dense = results({});
  GateConfig gate;
  const auto is_dense = [&] {
    const Results r = results(gate);
    CHECK(same_bits(r.y, dense.y));
    CHECK(same_bits(r.dx, dense.dx));
    CHECK(same_bits(r.g, dense.g));
  };
  gate.selection = GateSelection::top_k;
  gate.top_k = 4;
  is_dense();
  gate.selection = GateSelection::top_p;
  gate.top_p = 1;
  is_dense();

  const auto all_tokens_get = [&](std::initializer_list<double> expected) {
    const Matrix<Scalar> weights = results(gate, true).weights;
    Index i = 0;
    for (const double weight : expected) CHECK((weights.row(i++).array() == static_cast<Scalar>(weight)).all());
  };
  gate.selection = GateSelection::top_k;
  gate.top_k = 2;
  all_tokens_get({0.5, 0.5, 0, 0});
  gate.selection = GateSelection::top_p;
  gate.top_p = 0.5;
  all_tokens_get({0.5, 0.5, 0, 0});
  gate.selection = GateSelection::one_hot;
  all_tokens_get({1, 0, 0, 0});
}

TEST_CASE("one routed head is LoRA with every gate") {
  const Matrix<double> x = random_matrix<double>(8, 12, 1), dy = random_matrix<double>(6, 12, 2);
  for_each_gate(1, 5, [&](const GateConfig& gate) {
    HydraLoRA<double> hydra(HydraLoRAConfig{8, 6, 3, 16, false, 0, 1, Routing::learned, gate}, 1);
    LoRA<double> lora(LoRAConfig{8, 6, 3, 16}, 1);
    hydra.B(0) = lora.B() = random_matrix<double>(6, 3, 4);
    Matrix<double> y = Matrix<double>::Zero(6, 12), dx = Matrix<double>::Zero(8, 12), lora_y = y, lora_dx = dx;
    HydraLoRA<double>::Cache cache;
    HydraLoRA<double>::Gradients g(hydra.config());
    LoRA<double>::Cache lora_cache;
    LoRA<double>::Gradients lora_g(lora.config());
    hydra.forward(x, y, cache);
    hydra.backward(x, dy, cache, g, dx);
    lora.forward(x, lora_y, lora_cache);
    lora.backward(x, dy, lora_cache, lora_g, lora_dx);
    CHECK(relative_difference(y, lora_y) <= tolerance::law<double>);
    CHECK(relative_difference(dx, lora_dx) <= tolerance::law<double>);
    CHECK(relative_difference(g.A(), lora_g.A()) <= tolerance::law<double>);
    CHECK(relative_difference(g.B(0), lora_g.B()) <= tolerance::law<double>);
    CHECK(g.gate().cwiseAbs().maxCoeff() <= tolerance::law<double>);
  });
}

TEST_CASE_TEMPLATE("a result depends on the token's own segment alone, and on its earlier tokens where causal", Scalar,
                   float, double) {
  const std::vector<Index> segments{3, 0, 17, 1, 9};
  const Matrix<Scalar> x = random_matrix<Scalar>(8, 30, 1);
  for_each_gate(4, 6, [&](const GateConfig& gate) {
    HydraLoRA<Scalar> layer(HydraLoRAConfig{8, 40, 3, 16, false, 0, 4, Routing::learned, gate});
    layer.parameters() = random_matrix<Scalar>(layer.parameter_count(), 1, 3);
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
    if (gate.granularity == GateGranularity::token) {
      CHECK(same_bits<Scalar>(after.middleCols(3, 9), y.middleCols(3, 9)));
      CHECK(same_bits<Scalar>(after.middleCols(13, 7), y.middleCols(13, 7)));
    }
    if (gate.granularity == GateGranularity::causal) {
      CHECK(same_bits<Scalar>(after.middleCols(3, 9), y.middleCols(3, 9)));
      // and a prefix gives the same numbers
      CHECK(same_bits<Scalar>(forward(x.middleCols(3, 9), {9}), y.middleCols(3, 9)));
    }
    if (gate.pools() && gate.selection == GateSelection::dense)
      CHECK(!same_bits<Scalar>(after.middleCols(13, 7), y.middleCols(13, 7)));
  });
}

TEST_CASE("weights from the caller and the plain sum of the heads, in HydraLoRA too") {
  const Matrix<double> x = random_matrix<double>(8, 5, 1), w = random_matrix<double>(3, 5, 2),
                       dy = random_matrix<double>(6, 5, 9);
  HydraLoRA<double> given(HydraLoRAConfig{8, 6, 2, 16, false, 0, 3, Routing::given});
  HydraLoRA<double> uniform(HydraLoRAConfig{8, 6, 2, 16, false, 0, 3, Routing::uniform});
  CHECK(given.gate().size() == 0);
  given.parameters() = random_matrix<double>(given.parameter_count(), 1, 3);
  uniform.parameters() = given.parameters();
  Matrix<double> y = Matrix<double>::Zero(6, 5), sum = y, dw = Matrix<double>::Ones(3, 5),
                 dx = Matrix<double>::Zero(8, 5);
  HydraLoRA<double>::Cache cache;
  HydraLoRA<double>::Gradients g(given.config());
  CallOptions<double> options;
  options.weights = w;
  options.weights_gradient = dw;
  given.forward(x, y, cache, options);
  given.backward(x, dy, cache, g, dx, options);
  uniform.forward(x, sum);
  Matrix<double> expected = Matrix<double>::Zero(6, 5), expected_sum = expected;
  for (Index i = 0; i < 3; ++i) {
    const Matrix<double> head = given.scaling() * given.B(i) * given.A() * x;
    expected += head * w.row(i).asDiagonal();
    expected_sum += head;
    for (Index t = 0; t < 5; ++t) CHECK(std::abs(dw(i, t) - 1 - head.col(t).dot(dy.col(t))) < 1e-12);
  }
  CHECK(relative_difference(y, expected) < 1e-13);
  CHECK(relative_difference(sum, expected_sum) < 1e-13);
}

TEST_CASE("gates that make no sense are refused with the values") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const auto refused = [](auto change) {
    HydraLoRAConfig hydra{8, 6, 2, 16, false, 0, 3};
    SplitLoRAConfig split{8, 6, 2, 16, false, 0, 3, Routing::learned};
    change(hydra);
    change(split);
    const std::string message = message_of([&] { HydraLoRA<float> layer(hydra); });
    const std::string other = message_of([&] { SplitLoRA<float> layer(split); });
    CHECK(message.substr(message.find(':')) == other.substr(other.find(':')));
    return message;
  };
  CHECK(refused([](auto& c) { c.gate.top_k = 4; }) == "HydraLoRA: gate.top_k 4 must be in [1, 3], the number of heads");
  CHECK(refused([](auto& c) { c.gate.top_k = 0; }) == "HydraLoRA: gate.top_k 0 must be in [1, 3], the number of heads");
  CHECK(refused([](auto& c) { c.gate.top_p = 0; }) == "HydraLoRA: gate.top_p 0 must be in (0, 1]");
  CHECK(refused([](auto& c) { c.gate.top_p = 1.5; }) == "HydraLoRA: gate.top_p 1.5 must be in (0, 1]");
  CHECK(refused([&](auto& c) { c.gate.top_p = nan; }) == "HydraLoRA: gate.top_p nan must be in (0, 1]");
  CHECK(refused([](auto& c) { c.gate.temperature = 0; }) == "HydraLoRA: gate.temperature 0 must be finite and above 0");
  CHECK(refused([](auto& c) { c.gate.temperature = -1; }) ==
        "HydraLoRA: gate.temperature -1 must be finite and above 0");
  CHECK(refused([](auto& c) { c.gate.temperature = 1e-46; }) ==
        "HydraLoRA: gate.temperature 1e-46 must be finite and above 0");
  CHECK(refused([&](auto& c) { c.gate.temperature = inf; }) ==
        "HydraLoRA: gate.temperature inf must be finite and above 0");
  CHECK(refused([&](auto& c) { c.gate.temperature = nan; }) ==
        "HydraLoRA: gate.temperature nan must be finite and above 0");
  CHECK(refused([](auto& c) { c.gate.input = GateInput::rms_projection; }) ==
        "HydraLoRA: GateInput::rms_projection is a mean over tokens: it needs GateGranularity::segment or causal");
  CHECK(refused([](auto& c) {
          c.gate.input = GateInput::projection;
          c.dropout = 0.25;
        }) ==
        "HydraLoRA: a gate that reads A x would read x with dropout 0.25 in training and without it at inference: "
        "use GateInput::x or dropout 0");
  CHECK(refused([](auto& c) {
          c.gate.temperature = 2;
          c.routing = Routing::given;
        }) == "HydraLoRA: gate settings without Routing::learned would have no effect");
}

TEST_CASE("segments that do not cover the tokens are refused, and nothing is written") {
  GateConfig gate;
  gate.granularity = GateGranularity::segment;
  const HydraLoRA<float> layer(HydraLoRAConfig{4, 4, 2, 16, false, 0, 3, Routing::learned, gate});
  const Matrix<float> x = random_matrix<float>(4, 6, 1);
  Matrix<float> y = Matrix<float>::Ones(4, 6);
  HydraLoRA<float>::Cache cache;
  const auto refused = [&](const std::vector<Index>& lengths) {
    CallOptions<float> options;
    options.segments = lengths;
    const std::string message = message_of([&] { layer.forward(x, y, cache, options); });
    CHECK(y.isOnes(0));
    CHECK(cache.tokens() == 0);
    return message;
  };
  CHECK(refused({2, 3}) == "HydraLoRA::forward: the segments hold 5 of 6 tokens");
  CHECK(refused({2, 5}) == "HydraLoRA::forward: segments 0 to 1 hold more than the 6 tokens");
  CHECK(refused({8, -2}) == "HydraLoRA::forward: segments 0 to 0 hold more than the 6 tokens");
  CHECK(refused({2, -2, 6}) == "HydraLoRA::forward: segment 1 has length -2");
  CHECK(refused({6, std::numeric_limits<Index>::max()}) ==
        "HydraLoRA::forward: segments 0 to 1 hold more than the 6 tokens");
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
    Matrix<float> x = random_matrix<float>(4, 3, 1), y = Matrix<float>::Zero(4, 3);
    x(2, 1) = std::numeric_limits<float>::quiet_NaN();
    HydraLoRA<float>::Cache cache;
    layer.forward(x, y, cache);
    CHECK(cache.weights().matrix().col(0).allFinite());
    CHECK(cache.weights().matrix().col(1).array().isNaN().all());
    CHECK(cache.weights().matrix().col(2).allFinite());
  });
}

TEST_CASE("balance losses: known values, padding, and what is refused") {
  GateConfig gate;
  HydraLoRAConfig config{4, 4, 2, 16, false, 0, 2};
  HydraLoRA<double> layer(config);
  layer.gate().setZero();
  layer.gate()(0, 0) = 1000;  // x_0 > 0: head 0 alone, x_0 < 0: head 1 alone
  Matrix<double> x = Matrix<double>::Zero(4, 4), y = x, gradient = Matrix<double>::Zero(2, 4);
  x.row(0) << 1, 1, 1, -1;
  HydraLoRA<double>::Cache cache;
  layer.forward(x, y, cache);
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

  CHECK(message_of([&] {
          balance_losses({0, 0, 1}, layer, cache, gradient);
        }) == "balance_losses: the z-loss needs GateConfig::keep_log_partition in this layer");
  CHECK(message_of([&] { balance_losses({}, layer, cache, gradient.leftCols(3)); }) ==
        "balance_losses: gradient is 2x3, expected 2x4 (heads x tokens)");
  CHECK(message_of([&] { balance_losses({}, layer, cache, gradient, mask.leftCols(3)); }) ==
        "balance_losses: mask is 1x3, expected 1x4 (1 x tokens)");
  mask(0, 2) = -1;
  CHECK(message_of([&] { balance_losses({}, layer, cache, gradient, mask); }) ==
        "balance_losses: mask of token 2 is -1, expected finite and >= 0");
  CHECK(gradient.isZero(0));
  const HydraLoRA<double> given(HydraLoRAConfig{4, 4, 2, 16, false, 0, 2, Routing::given});
  CHECK(message_of([&] { balance_losses({}, given, cache, gradient); }).find("has no learned gate") !=
        std::string::npos);
}

TEST_CASE("large logits keep a finite log partition") {
  GateConfig gate;
  gate.keep_log_partition = true;
  HydraLoRA<float> layer(HydraLoRAConfig{2, 2, 1, 16, false, 0, 2, Routing::learned, gate});
  layer.gate().setZero();
  layer.gate()(0, 0) = 1000;
  Matrix<float> x = Matrix<float>::Zero(2, 2), y = x;
  x.row(0) << 1, -1;
  HydraLoRA<float>::Cache cache;
  layer.forward(x, y, cache);
  CHECK(cache.log_partition()(0, 0) == 1000);
  CHECK(cache.log_partition()(0, 1) == 0);
}

TEST_CASE("a gradient of the logits: refused where it cannot go, cut with the tokens where they are cut") {
  GateConfig gate;
  gate.selection = GateSelection::top_k;
  gate.top_k = 2;
  HydraLoRA<float> layer(HydraLoRAConfig{9, 7, 2, 16, false, 0, 3, Routing::learned, gate});
  layer.parameters() = random_matrix<float>(layer.parameter_count(), 1, 1);
  const Matrix<float> x = random_matrix<float>(9, 8, 2), dy = random_matrix<float>(7, 8, 3),
                      extra = random_matrix<float>(3, 8, 4);
  Matrix<float> y = Matrix<float>::Zero(7, 8), dx = Matrix<float>::Zero(9, 8), sliced_dx = dx;
  HydraLoRA<float>::Cache cache;
  HydraLoRA<float>::Gradients g(layer.config()), sliced(layer.config());
  CallOptions<float> options;
  options.logits_gradient = extra;
  layer.forward(x, y, cache);
  layer.backward(x, dy, cache, g, dx, options);
  const SlicedBackward<HydraLoRA<float>> backward(layer, x, dy, cache, sliced, sliced_dx, options);
  for (int phase = 0; phase < 2; ++phase) {
    for (Index i = 0; i < 3; ++i) backward.run(phase, i, 3);
  }
  CHECK(same_bits(sliced_dx, dx));
  CHECK(same_bits<float>(sliced.parameters(), g.parameters()));

  const Matrix<float> dx_before = dx, few = extra.topRows(2);
  g.set_zero();
  options.logits_gradient = dx.topRows(3);
  CHECK(message_of([&] { layer.backward(x, dy, cache, g, dx, options); }) ==
        "HydraLoRA::backward: logits_gradient 3x8 overlaps dx");
  options.logits_gradient = few;
  CHECK(message_of([&] { layer.backward(x, dy, cache, g, dx, options); }) ==
        "HydraLoRA::backward: logits_gradient is 2x8, expected 3x8 (heads x tokens)");
  SplitLoRA<float> uniform(SplitLoRAConfig{9, 7, 2, 16, false, 0, 3});
  SplitLoRA<float>::Cache uniform_cache;
  SplitLoRA<float>::Gradients uniform_g(uniform.config());
  uniform.forward(x, y, uniform_cache);
  options.logits_gradient = extra;
  CHECK(message_of([&] { uniform.backward(x, dy, uniform_cache, uniform_g, dx, options); }) ==
        "SplitLoRA::backward: logits_gradient is 3x8, but this layer has no gate");
  CHECK(same_bits(dx, dx_before));
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
    HydraLoRA<float>::Cache cache;
    Matrix<float> y = Matrix<float>::Zero(4, 6), dx = Matrix<float>::Zero(5, 6);
    layers[i].forward(x, y, cache);
    for (std::size_t j = 0; j < layers.size(); ++j) {
      HydraLoRA<float>::Gradients g(layers[j].config());
      const std::string message = message_of([&] { layers[j].backward(x, dy, cache, g, dx); });
      CHECK((message == "nothing thrown") == (i == j));
      if (i == j) continue;
      CHECK(dx.allFinite());
      const auto from = message.find("from "), to = message.find(" with "), expected = message.find("expected ");
      CHECK(message.substr(from + 5, to - from - 5) != message.substr(expected + 9, to - from - 5));
    }
  }
}

TEST_CASE("a cache forgets the segments of the call before") {
  GateConfig gate;
  gate.granularity = GateGranularity::causal;
  HydraLoRA<double> layer(HydraLoRAConfig{5, 4, 2, 16, false, 0, 3, Routing::learned, gate});
  layer.parameters() = random_matrix<double>(layer.parameter_count(), 1, 3);
  const Matrix<double> x = random_matrix<double>(5, 6, 1), dy = random_matrix<double>(4, 6, 2);
  const auto backward = [&](HydraLoRA<double>::Cache& cache) {
    Matrix<double> y = Matrix<double>::Zero(4, 6), dx = Matrix<double>::Zero(5, 6);
    HydraLoRA<double>::Gradients g(layer.config());
    layer.forward(x, y, cache);
    layer.backward(x, dy, cache, g, dx);
    return dx;
  };
  HydraLoRA<double>::Cache fresh, used;
  const std::vector<Index> segments{2, 4};
  CallOptions<double> options;
  options.segments = segments;
  Matrix<double> y = Matrix<double>::Zero(4, 6);
  layer.forward(x, y, used, options);
  CHECK(same_bits(backward(used), backward(fresh)));
}

TEST_CASE_TEMPLATE("a gate that reads A x has a matrix of its own, between the stacks", Scalar, float, double) {
  GateConfig gate;
  gate.input = GateInput::projection;
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
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const HydraLoRA<float> layer(HydraLoRAConfig{4, 4, 2, 16, false, 0, 3});
  Matrix<float> x = random_matrix<float>(4, 5, 1), y = Matrix<float>::Zero(4, 5), gradient = Matrix<float>::Zero(3, 5);
  HydraLoRA<float>::Cache cache;
  layer.forward(x, y, cache);
  for (const float bad : {nan, inf}) {
    Matrix<float> mask = Matrix<float>::Ones(1, 5);
    mask(0, 3) = bad;
    CHECK(message_of([&] {
            balance_losses({1, 1, 0}, layer, cache, gradient, mask);
          }).find("mask of token 3 is") != std::string::npos);
    BalanceWeights weights;
    weights.load = static_cast<double>(bad);
    CHECK(message_of([&] { balance_losses(weights, layer, cache, gradient); }).find("must be finite") !=
          std::string::npos);
  }
  CHECK(message_of([&] {
          balance_losses({1, 1, 0}, layer, cache, gradient, gradient.topRows(1));
        }) == "balance_losses: mask 1x5 and gradient 3x5 overlap");
  const HydraLoRA<float> wider(HydraLoRAConfig{4, 4, 3, 16, false, 0, 3});
  CHECK(message_of([&] {
          balance_losses({1, 1, 0}, wider, cache, gradient);
        }).find("the cache is from") != std::string::npos);
  CHECK(gradient.isZero(0));
  const Matrix<float> tiny = Matrix<float>::Constant(1, 5, 1e-38F);
  balance_losses({1, 1, 0}, layer, cache, gradient, tiny);
  CHECK(gradient.allFinite());
}
