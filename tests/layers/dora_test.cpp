// SPDX-License-Identifier: MIT
//
// DoRA against its formula in loops, by complex step with the norms held constant, and its checks.
#include <complex>

#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;
using Complex = std::complex<double>;

namespace {

/// ⟨dY, (m / c) ∘ (W + s B A) X⟩ with given norms.
Complex loss(const Matrix<double>& W, const Matrix<Complex>& A, const Matrix<Complex>& B, const Matrix<Complex>& m,
             const Matrix<double>& c, double s, const Matrix<Complex>& x, const Matrix<double>& dy) {
  const Matrix<Complex> h = A.lazyProduct(x);  // compiled much faster than A * x
  const Matrix<Complex> y = W.cast<Complex>().lazyProduct(x) + s * B.lazyProduct(h);
  Complex sum(0);
  for (Index t = 0; t < x.cols(); ++t) {
    for (Index o = 0; o < W.rows(); ++o) sum += dy(o, t) * y(o, t) * m(o, 0) / c(o, 0);
  }
  return sum;
}

template <class Scalar>
DoRALinear<Scalar> random_layer(const LayerShape& s, double dropout, std::uint64_t seed) {
  DoRALinear<Scalar> layer(DenseLinear<Scalar>(random_matrix<Scalar>(s.out, s.in, seed)),
                           LoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout}, seed);
  layer.adapter.parameters() = random_matrix<Scalar>(layer.adapter.parameter_count(), 1, seed + 1);
  layer.magnitude = random_matrix<Scalar>(s.out, 1, seed + 2);
  return layer;
}

}  // namespace

TEST_CASE("DoRA: values and gradients against the formula, the norms held constant") {
  for (std::uint64_t index = 0; index < 100; ++index) {
    const LayerShape s = layer_shape(index);
    CAPTURE(s);
    const DoRALinear<double> layer = random_layer<double>(s, 0, index);
    const Matrix<double> W = layer.base.weight(), A = layer.adapter.A(), B = layer.adapter.B(), m = layer.magnitude;
    const double scaling = layer.adapter.scaling();
    const Matrix<double> whole = W + scaling * B * A, c = whole.rowwise().norm();
    const double smallest = c.minCoeff();
    if (smallest < 1e-3) continue;  // the identity cancels where a row all but vanishes
    CHECK(relative_difference(layer.norms(), c) < 1e-10 / smallest);

    const Matrix<double> x = random_matrix<double>(s.in, s.tokens, index + 5),
                         dy = random_matrix<double>(s.out, s.tokens, index + 6);
    const Matrix<double> ones = Matrix<double>::Ones(s.out, s.tokens);
    Matrix<double> y = ones, inferred = ones, dx = Matrix<double>::Ones(s.in, s.tokens);
    DoRALinear<double>::Cache cache;
    DoRALinear<double>::Gradients g(layer.adapter.config());
    g.magnitude.setOnes();
    layer.forward(x, y, cache);
    layer.forward(x, inferred);
    CHECK(relative_difference(inferred, y) < tolerance::law<double>);
    layer.backward(x, dy, cache, g, dx);
    const Matrix<double> expected = (m.array() / c.array()).matrix().asDiagonal() * (whole * x);
    CHECK(relative_difference(y - ones, expected) < 1e-9 / smallest);
    if (s.tokens == 0) continue;

    Matrix<Complex> xc = x.cast<Complex>(), Ac = A.cast<Complex>(), Bc = B.cast<Complex>(), mc = m.cast<Complex>();
    const double largest = std::max({1.0, g.adapter.parameters().cwiseAbs().maxCoeff(), dx.cwiseAbs().maxCoeff()});
    const CounterRandom random(index, 3);
    const auto check_some = [&](const std::string& name, const auto& gradient, Matrix<Complex>& twin) {
      INFO(name);
      for (std::uint64_t n = 0; n < 6; ++n) {
        const auto at = static_cast<Index>(random.below(static_cast<std::uint64_t>(twin.size()), n));
        const Index i = at % twin.rows(), j = at / twin.rows();
        twin(i, j) += Complex(0, 1e-30);
        const double expected_entry = loss(W, Ac, Bc, mc, c, scaling, xc, dy).imag() / 1e-30;
        twin(i, j) = twin(i, j).real();
        CHECK(std::abs(gradient(i, j) - expected_entry) <= 1e-9 / smallest * largest);
      }
    };
    check_some("A", g.adapter.A(), Ac);
    check_some("B", g.adapter.B(), Bc);
    check_some("m", Matrix<double>(g.magnitude.array() - 1), mc);
    check_some("x", Matrix<double>(dx.array() - 1), xc);
  }
}

TEST_CASE_TEMPLATE("a new DoRA is the base, and a call in pieces repeats its dropout", Scalar, float, double) {
  const Matrix<Scalar> W = random_matrix<Scalar>(18, 25, 1), x = random_matrix<Scalar>(25, 9, 2);
  const DoRALinear<Scalar> layer(DenseLinear<Scalar>(W), LoRAConfig{25, 18, 4});
  Matrix<Scalar> y = Matrix<Scalar>::Zero(18, 9);
  layer.forward(x, y);
  CHECK(relative_difference(y, W * x) < tolerance::law<Scalar>);
  const DoRALinear<Scalar> dropping = random_layer<Scalar>({25, 18, 4, 1, 9}, 0.5, 3);
  typename DoRALinear<Scalar>::Cache cache;
  Matrix<Scalar> whole = Matrix<Scalar>::Zero(18, 9), part = Matrix<Scalar>::Zero(18, 4);
  CallOptions<Scalar> options;
  options.step = 5;
  dropping.forward(x, whole, cache, options);
  options.first_token = 5;
  dropping.forward(x.rightCols(4), part, cache, options);
  CHECK(relative_difference(part, whole.rightCols(4)) < tolerance::law<Scalar>);
}

TEST_CASE("DoRA refuses what does not fit, and writes nothing") {
  const DoRALinear<float> layer = random_layer<float>({6, 5, 2, 1, 3}, 0, 1);
  Matrix<float> x = random_matrix<float>(6, 3, 1), y = Matrix<float>::Ones(5, 3), dx = Matrix<float>::Ones(6, 3);
  const Matrix<float> dy = random_matrix<float>(5, 3, 2);
  DoRALinear<float>::Cache cache, empty;
  DoRALinear<float>::Gradients g(layer.adapter.config()), other(LoRAConfig{6, 4, 2});
  CHECK(message_of([&] { layer.forward(x.topRows(5), y, cache); }) ==
        "DoRALinear::forward: x is 5x3, expected 6x3 (in_features x tokens)");
  CHECK(message_of([&] { layer.forward(x, y.topRows(4)); }) ==
        "DoRALinear::forward: y is 4x3, expected 5x3 (out_features x tokens)");
  CHECK(message_of([&] { layer.forward(x, x.topRows(5)); }) == "DoRALinear::forward: x 6x3 and y 5x3 overlap");
  CHECK(y.isOnes(0));
  CHECK(message_of([&] { layer.backward(x, dy, empty, g, dx); }) ==
        "DoRALinear::backward: the cache holds 0 tokens, expected 3");
  layer.forward(x, y, cache);
  CHECK(message_of([&] { layer.backward(x, dy.topRows(4), cache, g, dx); }) ==
        "DoRALinear::backward: dy is 4x3, expected 5x3 (out_features x tokens)");
  CHECK(message_of([&] { layer.backward(x, dy, cache, other, dx); }) ==
        "DoRALinear::backward: the gradient of the magnitude is 4x1, expected 5x1 (out_features x 1)");
  CHECK_THROWS_AS(layer.backward(x, dy, cache, g, x), std::invalid_argument);
  CHECK_THROWS_AS(layer.backward(x, dy, cache, g, dx.topRows(5)), std::invalid_argument);
  CHECK(dx.isOnes(0));
  CHECK(g.adapter.parameters().isZero(0));
  CHECK(g.magnitude.isZero(0));
  CHECK_THROWS_WITH_AS(DoRALinear<float>(DenseLinear<float>(Matrix<float>::Ones(5, 7)), LoRAConfig{6, 5, 2}),
                       "DoRALinear: the base's weight is 5x7, the adapter's is 5x6", std::invalid_argument);
}
