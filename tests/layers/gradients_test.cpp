// SPDX-License-Identifier: MIT
//
// Every gradient of every layer, three ways: complex step through the textbook formula, the double fast path against
// it, central differences through the fast path itself; and the float fast path against the double one.
#include <doctest/doctest.h>

#include <complex>

#include "support/layers.hpp"
#include "support/textbook.hpp"
#include "support/tolerances.hpp"

using namespace hydralora;
using namespace support;
using Complex = std::complex<double>;

namespace {

constexpr double complex_h = 1e-30;  // far below rounding: Im f(x + ih) / h is then exact in h
constexpr double central_h = 1e-6;
constexpr Index checked_entries = 16;  // per tensor; all of a small one, a spread over a larger one

/// f(row, column) for at most `checked_entries` entries of a matrix.
template <class Function>
void for_some_entries(Index rows, Index cols, std::uint64_t seed, Function&& f) {
  const CounterRandom random(seed, 55);
  const Index size = rows * cols;
  for (Index n = 0; n < std::min(size, checked_entries); ++n) {
    const Index at =
        size <= checked_entries
            ? n
            : static_cast<Index>(random.below(static_cast<std::uint64_t>(size), static_cast<std::uint64_t>(n)));
    f(at % rows, at / rows);
  }
}

/// d⟨dY, y⟩ / d entry by complex step.
double complex_step(Complex& entry, const Textbook<Complex>& book, const Matrix<Complex>& x, const Matrix<double>& mask,
                    const Matrix<double>& dy) {
  const Complex before = entry;
  entry += Complex(0, complex_h);
  const Matrix<Complex> y = book(x, mask);
  entry = before;
  double sum = 0;
  for (Index t = 0; t < dy.cols(); ++t) {
    for (Index o = 0; o < dy.rows(); ++o) sum += dy(o, t) * y(o, t).imag();
  }
  return sum / complex_h;
}

/// The gradient matrices of a layer beside the complex matrices of its textbook twin, for f(name, gradient, twin).
template <class Gradients, class Function>
void for_each_tensor(Gradients& g, Textbook<Complex>& book, Function&& f) {
  constexpr bool hydra = std::is_same_v<typename Gradients::Config, HydraLoRAConfig>;
  constexpr bool shared_b = std::is_same_v<typename Gradients::Config, SharedBLoRAConfig>;
  constexpr bool lora = std::is_same_v<typename Gradients::Config, LoRAConfig>;
  if constexpr (lora) {
    f("A", g.A(), book.A[0]);
    f("B", g.B(), book.B[0]);
  } else {
    if constexpr (!shared_b) {
      for (Index i = 0; i < g.config().heads; ++i) f("B", g.B(i), book.B[static_cast<std::size_t>(i)]);
    }
    if (book.gate.size() > 0) f("gate", g.gate(), book.gate);
    if constexpr (!hydra) {
      for (Index i = 0; i < g.config().heads; ++i) f("A", g.A(i), book.A[static_cast<std::size_t>(i)]);
    }
  }
}

template <class Layer>
void check_layer(const Layer& layer, Kind kind, const LayerShape& s, std::uint64_t seed) {
  const Matrix<double> x = random_matrix<double>(s.in, s.tokens, seed + 1),
                       dy = random_matrix<double>(s.out, s.tokens, seed + 2);
  const Matrix<double> weights = given_weights<double>(kind, s, seed + 3);
  const Matrix<double> y_before = random_matrix<double>(s.out, s.tokens, seed + 4);
  const Matrix<double> dx_before = random_matrix<double>(s.in, s.tokens, seed + 5);
  CallOptions<double> options;
  options.step = seed;
  options.first_token = 1000 + seed;
  options.weights = weights;

  // Strided views on purpose: their padding must come out untouched.
  Strided<double> xs(x), ys(y_before), dys(dy), dxs(dx_before);
  const Matrix<double> dweights_before = random_matrix<double>(weights.rows(), weights.cols(), seed + 7);
  Strided<double> dweights(dweights_before);
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config());
  const Matrix<double> g_before = random_matrix<double>(g.parameter_count(), 1, seed + 6);
  g.parameters() = g_before;
  layer.forward(xs.view(), ys.view(), cache, options);
  if (weights.size() > 0) options.weights_gradient = dweights.view();
  layer.backward(xs.view(), dys.view(), cache, g, dxs.view(), options);
  CHECK(xs.padding_untouched());
  CHECK(ys.padding_untouched());
  CHECK(dys.padding_untouched());
  CHECK(dxs.padding_untouched());
  CHECK(dweights.padding_untouched());
  CHECK(same_bits(xs.values(), x));
  CHECK(same_bits(dys.values(), dy));

  // Without dx the parameter gradients are the same bits.
  typename Layer::Gradients without(layer.config());
  without.parameters() = g_before;
  CallOptions<double> no_gradient = options;
  no_gradient.weights_gradient = {};
  layer.backward(xs.view(), dys.view(), cache, without, no_gradient);
  CHECK(same_bits<double>(without.parameters(), g.parameters()));

  const double p = layer.config().dropout;
  const Matrix<double> mask =
      p > 0 ? dropout_factors(s.in, s.tokens, p, layer.seed(), options.step, options.first_token) : Matrix<double>();
  Textbook<Complex> book = textbook<Complex>(layer, weights);
  Matrix<Complex> xc = x.cast<Complex>();
  CHECK(relative_difference(ys.values() - y_before, book(xc, mask).real()) < tolerance::complex_step);

  g.parameters() -= g_before;
  const Matrix<double> dx = dxs.values() - dx_before;
  const double largest =
      std::max({1.0, g.parameters().cwiseAbs().maxCoeff(), dx.size() > 0 ? dx.cwiseAbs().maxCoeff() : 0.0});
  const auto agrees = [&](const char* tensor, double actual, double expected) {
    INFO(tensor);
    CHECK(std::abs(actual - expected) <= tolerance::complex_step * largest);
  };
  for_each_tensor(g, book, [&](const char* tensor, auto gradient, Matrix<Complex>& twin) {
    for_some_entries(gradient.rows(), gradient.cols(), seed, [&](Index i, Index j) {
      agrees(tensor, gradient(i, j), complex_step(twin(i, j), book, xc, mask, dy));
    });
  });
  if constexpr (std::is_same_v<typename Layer::Config, HydraLoRAConfig>) {  // A is shared: every head's copy moves
    for_some_entries(s.rank, s.in, seed, [&](Index i, Index j) {
      double sum = 0;
      for (auto& a : book.A) sum += complex_step(a(i, j), book, xc, mask, dy);
      agrees("shared A", g.A()(i, j), sum);
    });
  }
  if constexpr (std::is_same_v<typename Layer::Config, SharedBLoRAConfig>) {
    for_some_entries(s.out, s.rank, seed, [&](Index i, Index j) {
      double sum = 0;
      for (auto& b : book.B) sum += complex_step(b(i, j), book, xc, mask, dy);
      agrees("shared B", g.B()(i, j), sum);
    });
  }
  for_some_entries(s.in, s.tokens, seed,
                   [&](Index i, Index j) { agrees("x", dx(i, j), complex_step(xc(i, j), book, xc, mask, dy)); });
  for_some_entries(weights.rows(), weights.cols(), seed, [&](Index i, Index j) {
    agrees("weights", dweights.values()(i, j) - dweights_before(i, j),
           complex_step(book.weights(i, j), book, xc, mask, dy));
  });

  // Central differences through the fast path itself, over the flat parameters and x.
  Layer moved = layer;
  Matrix<double> moved_x = x;
  options.weights_gradient = {};
  const auto loss = [&] {
    Matrix<double> y = Matrix<double>::Zero(s.out, s.tokens);
    typename Layer::Cache scratch;
    moved.forward(moved_x, y, scratch, options);
    return y.cwiseProduct(dy).sum();
  };
  const auto central = [&](double& entry) {
    const double before = entry;
    entry = before + central_h;
    const double up = loss();
    entry = before - central_h;
    const double down = loss();
    entry = before;
    return (up - down) / (2 * central_h);
  };
  for_some_entries(g.parameter_count(), 1, seed, [&](Index i, Index) {
    CHECK(std::abs(g.parameters()[i] - central(moved.parameters()[i])) <= tolerance::central_difference * largest);
  });
  for_some_entries(s.in, s.tokens, seed, [&](Index i, Index j) {
    CHECK(std::abs(dx(i, j) - central(moved_x(i, j))) <= tolerance::central_difference * largest);
  });

  // The float fast path against the double one.
  const auto to_float = [](const Matrix<double>& m) -> Matrix<float> { return m.cast<float>(); };
  with_layer<float>(kind, s, p, seed, [&](auto float_layer) {
    using FloatLayer = decltype(float_layer);
    if constexpr (std::is_same_v<typename FloatLayer::Config, typename Layer::Config>) {
      float_layer.parameters() = layer.parameters().template cast<float>();
      const Matrix<float> xf = to_float(x), dyf = to_float(dy), wf = to_float(weights);
      Matrix<float> yf = Matrix<float>::Zero(s.out, s.tokens), dxf = Matrix<float>::Zero(s.in, s.tokens);
      CallOptions<float> float_options;
      float_options.step = options.step;
      float_options.first_token = options.first_token;
      float_options.weights = wf;
      typename FloatLayer::Cache float_cache;
      typename FloatLayer::Gradients gf(float_layer.config());
      float_layer.forward(xf, yf, float_cache, float_options);
      float_layer.backward(xf, dyf, float_cache, gf, dxf);
      const double bound = tolerance::product_sum<float>(static_cast<double>(s.in + s.out + s.tokens), 10);
      CHECK((gf.parameters().template cast<double>() - g.parameters()).cwiseAbs().maxCoeff() <= bound * largest);
      CHECK(relative_difference(dxf, dx) <= bound * largest);
      CHECK(relative_difference(yf, ys.values() - y_before) <= bound * largest);
    }
  });
}

}  // namespace

TEST_CASE("gradients of every layer, tensor and input by complex step, by central differences, and in float") {
  for (const Kind kind : all_kinds) {
    for (std::uint64_t index = 0; index < 120; ++index) {
      const LayerShape s = layer_shape(index);
      const double dropout = index % 3 == 1 ? 0.3 : 0.0;
      CAPTURE(name(kind));
      CAPTURE(s);
      CAPTURE(dropout);
      with_layer<double>(kind, s, dropout, index, [&](const auto& layer) { check_layer(layer, kind, s, index); });
    }
  }
}

TEST_CASE("gradients where the columns of B are padded") {
  for (const Kind kind : all_kinds) {
    for (const LayerShape& s : {LayerShape{9, 1024, 3, 2, 3}, LayerShape{3, 2048, 1, 2, 9}}) {
      CAPTURE(name(kind));
      CAPTURE(s);
      with_layer<double>(kind, s, 0, 7, [&](const auto& layer) { check_layer(layer, kind, s, 7); });
    }
  }
}

TEST_CASE("the layers run on complex numbers through the reference kernels, and agree with the textbook") {
  for (std::uint64_t index = 0; index < 20; ++index) {
    const LayerShape s = layer_shape(index);
    CAPTURE(s);
    HydraLoRA<Complex> layer(HydraLoRAConfig{s.in, s.out, s.rank, 3.0, false, 0.0, s.heads});
    const Matrix<double> re = random_matrix<double>(layer.parameter_count(), 1, index),
                         im = random_matrix<double>(layer.parameter_count(), 1, index + 1);
    layer.parameters() = re.cast<Complex>() + Complex(0, 1e-3) * im.cast<Complex>();
    const Matrix<Complex> x = random_matrix<double>(s.in, s.tokens, index + 2).cast<Complex>();
    Matrix<Complex> y = Matrix<Complex>::Zero(s.out, s.tokens);
    layer.forward(x, y);
    const Matrix<Complex> expected = textbook<Complex>(layer)(x);
    CHECK(relative_difference(y.real(), expected.real()) < tolerance::complex_step);
    CHECK(relative_difference(y.imag(), expected.imag()) < tolerance::complex_step);
  }
}
