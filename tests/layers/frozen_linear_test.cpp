// SPDX-License-Identifier: MIT
//
// The dense base, and an adapter on it. Expected products are Eigen's coefficient by coefficient: this file is compiled
// a second time with EIGEN_USE_BLAS, and a library is not compared with itself.
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

TEST_CASE("DenseLinear adds to its output and writes nothing else") {
  const DenseLinear<double> base(random_matrix<double>(6, 9, 1));
  const Matrix<double> x = random_matrix<double>(9, 5, 2), dy = random_matrix<double>(6, 5, 3);
  Guarded<double> y(Matrix<double>::Ones(6, 5)), dx(Matrix<double>::Ones(9, 5));
  base.forward(x, y.view());
  base.backward(dy, dx.view());
  const Matrix<double> wx = base.weight().lazyProduct(x), wdy = base.weight().transpose().lazyProduct(dy);
  CHECK(relative_difference((y.values().array() - 1).matrix(), wx) <= tolerance::law<double>);
  CHECK(relative_difference((dx.values().array() - 1).matrix(), wdy) <= tolerance::law<double>);
  CHECK((y.rest_untouched() && dx.rest_untouched()));
}

TEST_CASE("AdaptedLinear is W x plus the adapter, forward and backward") {
  const Matrix<double> w = random_matrix<double>(11, 13, 1), x = random_matrix<double>(13, 300, 2),
                       dy = random_matrix<double>(11, 300, 3);
  const auto adapter = randomized(HydraLoRA<double>(HydraLoRAConfig{13, 11, 3}), 4);
  const AdaptedLinear<DenseLinear<double>, HydraLoRA<double>> layer(DenseLinear<double>(w), adapter);
  const TrainingCall alone(adapter, x, dy);
  HydraLoRA<double>::Cache cache;
  HydraLoRA<double>::Gradients g(adapter.config());
  Matrix<double> y = Matrix<double>::Ones(11, 300), dx = Matrix<double>::Ones(13, 300), inferred = y;
  layer.forward(x, y, cache);
  layer.forward(x, inferred);
  layer.backward(x, dy, cache, g, dx);
  const Matrix<double> wx = w.lazyProduct(x), wdy = w.transpose().lazyProduct(dy);
  CHECK(relative_difference(y, alone.y + wx) <= tolerance::law<double>);
  CHECK(same_bits(inferred, y));
  CHECK(relative_difference(dx, alone.dx + wdy) <= tolerance::law<double>);
  CHECK(same_bits<double>(g.parameters(), alone.g.parameters()));
}

TEST_CASE("AdaptedLinear hands its options to the adapter") {
  const auto adapter = randomized(SplitLoRA<double>(SplitLoRAConfig{13, 11, 3, 16, false, 0.4, 2, Routing::given}), 4);
  const AdaptedLinear<DenseLinear<double>, SplitLoRA<double>> layer(DenseLinear<double>(Matrix<double>::Zero(11, 13)),
                                                                    adapter);
  const Matrix<double> x = random_matrix<double>(13, 5, 2), dy = random_matrix<double>(11, 5, 3),
                       weights = random_matrix<double>(2, 5, 5);
  const auto run = [&](const auto& l) {
    Matrix<double> y = Matrix<double>::Zero(11, 5), dx = Matrix<double>::Zero(13, 5),
                   dweights = Matrix<double>::Zero(2, 5);
    SplitLoRA<double>::Cache cache;
    SplitLoRA<double>::Gradients g(adapter.config());
    CallOptions<double> options;
    options.step = 3;
    options.weights = weights;
    options.weights_gradient = dweights;
    l.forward(x, y, options);
    l.forward(x, y, cache, options);
    l.backward(x, dy, cache, g, dx, options);
    return Matrix<double>((Matrix<double>(37, 5) << y, dx, dweights, dy).finished());
  };
  const Matrix<double> expected = run(adapter);
  CHECK(expected.middleRows(24, 2).cwiseAbs().minCoeff() > 0);
  CHECK(relative_difference(run(layer), expected) <= tolerance::law<double>);
}

TEST_CASE("DenseLinear gives the same bits on any number of threads") {
  for (const Index tokens : {0, 1, 2, 3, 100, 512, 1001}) {
    const DenseLinear<float> base(random_matrix<float>(150, 500, 1));
    const Matrix<float> x = random_matrix<float>(500, tokens, 2);
    Matrix<float> first, product(150, tokens);
    reference::shrink<float>({base.weight().data(), 150, 500, 1, 150}, x, product);
    for (const int threads : thread_counts) {
      const Threads use(threads);
      Matrix<float> y = Matrix<float>::Zero(150, tokens), dx = Matrix<float>::Zero(500, tokens);
      base.forward(x, y);
      base.backward(y, dx);
      if (threads == 1) first = dx;
#ifndef EIGEN_USE_BLAS  // a BLAS has threads of its own, and sums as it likes
      CHECK(same_bits(dx, first));
#endif
      CHECK(relative_difference(y, product) < tolerance::product_sum<float>(500, 5));
    }
  }
}
