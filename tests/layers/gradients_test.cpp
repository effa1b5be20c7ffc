// SPDX-License-Identifier: MIT
//
// Every gradient of every layer, three ways: complex step through the textbook formula, the double fast path against
// it, central differences through the fast path itself; and the float fast path against the double one.
#include <complex>

#include "support/layers.hpp"
#include "support/textbook.hpp"

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
    const auto drawn = random.below(static_cast<std::uint64_t>(size), static_cast<std::uint64_t>(n));
    const Index at = size <= checked_entries ? n : static_cast<Index>(drawn);
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

  // What lies between the columns must come out untouched.
  Guarded<double> xs(x), ys(y_before), dys(dy), dxs(dx_before);
  const Matrix<double> dweights_before = random_matrix<double>(weights.rows(), weights.cols(), seed + 7);
  Guarded<double> dweights(dweights_before);
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config());
  const Matrix<double> g_before = random_matrix<double>(g.parameter_count(), 1, seed + 6);
  g.parameters() = g_before;
  layer.forward(xs.view(), ys.view(), cache, options);
  if (weights.size() > 0) options.weights_gradient = dweights.view();
  layer.backward(xs.view(), dys.view(), cache, g, dxs.view(), options);
  for (const auto* view : {&xs, &ys, &dys, &dxs, &dweights}) CHECK(view->rest_untouched());
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
  const auto step = [&](Complex& entry) { return complex_step(entry, book, xc, mask, dy); };
  const auto agrees = [&](const std::string& tensor, double actual, double expected) {
    INFO(tensor);
    CHECK(std::abs(actual - expected) <= tolerance::complex_step * largest);
  };
  // Of a tensor that heads share, every head's copy moves.
  const auto check = [&](const std::string& tensor, const auto& gradient, const std::vector<Matrix<Complex>*>& twins) {
    for_some_entries(gradient.rows(), gradient.cols(), seed, [&](Index i, Index j) {
      double sum = 0;
      for (Matrix<Complex>* twin : twins) sum += step((*twin)(i, j));
      agrees(tensor, gradient(i, j), sum);
    });
  };
  std::vector<Matrix<Complex>*> all_A, all_B;
  for (std::size_t i = 0; i < book.B.size(); ++i) {
    all_A.push_back(&book.A[i]);
    all_B.push_back(&book.B[i]);
    if constexpr (!Layer::Middle::shares_A) check("A", g.A(static_cast<Index>(i)), {all_A.back()});
    if constexpr (!Layer::Middle::shares_B) check("B", g.B(static_cast<Index>(i)), {all_B.back()});
  }
  if constexpr (Layer::Middle::shares_A) check("A", g.A(), all_A);
  if constexpr (Layer::Middle::shares_B) check("B", g.B(), all_B);
  if constexpr (!(Layer::Middle::shares_A && Layer::Middle::shares_B)) {
    if (book.gate.size() > 0) check("gate", g.gate(), {&book.gate});
  }
  check("x", dx, {&xc});
  for_some_entries(weights.rows(), weights.cols(), seed, [&](Index i, Index j) {
    agrees("weights", dweights.values()(i, j) - dweights_before(i, j), step(book.weights(i, j)));
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
  with_layer<float>(kind, s, p, seed, [&](auto float_layer) {
    if constexpr (std::is_same_v<typename decltype(float_layer)::Config, typename Layer::Config>) {
      float_layer.parameters() = layer.parameters().template cast<float>();
      const Matrix<float> xf = x.cast<float>(), dyf = dy.cast<float>(), wf = weights.cast<float>();
      CallOptions<float> float_options;
      float_options.step = options.step;
      float_options.first_token = options.first_token;
      float_options.weights = wf;
      const TrainingCall f(float_layer, xf, dyf, float_options);
      const double bound = tolerance::product_sum<float>(static_cast<double>(s.in + s.out + s.tokens), 10) * largest;
      CHECK((f.g.parameters().template cast<double>() - g.parameters()).cwiseAbs().maxCoeff() <= bound);
      CHECK(relative_difference((f.dx.array() - 1).matrix(), dx) <= bound);
      CHECK(relative_difference((f.y.array() - 1).matrix(), ys.values() - y_before) <= bound);
    }
  });
}

}  // namespace

TEST_CASE("gradients of every layer, tensor and input by complex step, by central differences, and in float") {
  for (const Kind kind : all_kinds) {
    for (std::uint64_t index = 0; index < 120; ++index) {
      const LayerShape s = layer_shape(index);
      const double dropout = index % 3 == 1 ? 0.3 : 0.0;
      with_layer<double>(kind, s, dropout, index, [&](const auto& layer) { check_layer(layer, kind, s, index); });
    }
  }
}

TEST_CASE("gradients where the columns of B are padded") {
  for (const Kind kind : all_kinds) {
    for (const LayerShape& s : {LayerShape{9, 1024, 3, 2, 3}, LayerShape{3, 2048, 1, 2, 9}}) {
      with_layer<double>(kind, s, 0, 7, [&](const auto& layer) { check_layer(layer, kind, s, 7); });
    }
  }
}

TEST_CASE("the layers run on complex numbers through the reference kernels, and agree with the textbook") {
  for (std::uint64_t index = 0; index < 20; ++index) {
    const LayerShape s = layer_shape(index);
    CAPTURE(s);
    HydraLoRA<Complex> layer(HydraLoRAConfig{s.in, s.out, s.rank, 3.0, false, 0.0, s.heads});
    layer.parameters().real() = random_matrix<double>(layer.parameter_count(), 1, index);
    layer.parameters().imag() = 1e-3 * random_matrix<double>(layer.parameter_count(), 1, index + 1);
    const Matrix<Complex> x = random_matrix<double>(s.in, s.tokens, index + 2).cast<Complex>();
    const Matrix<Complex> y = support::apply(layer, x);
    const Matrix<Complex> expected = textbook<Complex>(layer)(x);
    CHECK(relative_difference(y.real(), expected.real()) < tolerance::complex_step);
    CHECK(relative_difference(y.imag(), expected.imag()) < tolerance::complex_step);
  }
}
