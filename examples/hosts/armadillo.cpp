// SPDX-License-Identifier: MIT
//
// Armadillo, and with it mlpack, whose data are Armadillo matrices with points in columns. Everything is column-major
// there, activations and weights alike: a point is a token, and nothing has to be turned around.
#include <armadillo>
#include <cstdio>
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>

using hydralora::Index;

/// Points as tokens, on Armadillo's memory.
hydralora::ConstTokens<float> tokens(const arma::fmat& points) {
  return {points.memptr(), static_cast<Index>(points.n_rows), static_cast<Index>(points.n_cols)};
}
hydralora::Tokens<float> tokens(arma::fmat& points) {
  return {points.memptr(), static_cast<Index>(points.n_rows), static_cast<Index>(points.n_cols)};
}

/// Armadillo's weights as Eigen sees them, for copies in and out: adapter.A() = weights(A); weights(A) = adapter.A();
Eigen::Map<Eigen::MatrixXf> weights(arma::fmat& matrix) {
  return {matrix.memptr(), static_cast<Index>(matrix.n_rows), static_cast<Index>(matrix.n_cols)};
}

bool close(const char* what, const arma::fmat& actual, const arma::fmat& expected) {
  const float error = arma::norm(actual - expected, "fro") / arma::norm(expected, "fro");
  if (error <= 1e-5F) return true;  // some hundred roundings of 6e-8; a wrong formula is off by far more
  std::printf("armadillo: %s is off by %g\n", what, static_cast<double>(error));
  return false;
}

int main() {
  constexpr arma::uword in = 24, out = 16, points = 64, rank = 3;
  arma::arma_rng::set_seed(1);
  const arma::fmat W(out, in, arma::fill::randn), X(in, points, arma::fill::randn);
  const arma::fmat change = arma::fmat(out, rank, arma::fill::randn) * arma::fmat(rank, in, arma::fill::randn) / in;
  const arma::fmat target = (W + change) * X;  // what the frozen layer should have learnt

  hydralora::LoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = rank;
  hydralora::LoRA<float> adapter(config, /*seed=*/1);
  hydralora::LoRA<float>::Cache cache;
  hydralora::LoRA<float>::Gradients gradients(config);
  hydralora::AdamW<float> optimizer({{adapter.parameters(), gradients.parameters(), /*learning_rate=*/1e-2}});

  arma::fmat Y, dY, dX;
  const auto forward_and_backward = [&](const arma::fmat& goal) {
    Y = W * X;                                     // the host's own layer
    adapter.forward(tokens(X), tokens(Y), cache);  // Y += s B A X
    dY = (Y - goal) / static_cast<float>(points);
    dX = W.t() * dY;
    gradients.set_zero();
    adapter.backward(tokens(X), tokens(dY), cache, gradients, tokens(dX));  // gradients += …, dX += s (B A)ᵀ dY
    return arma::accu(arma::square(Y - goal)) / static_cast<float>(2 * points);
  };
  const float first = forward_and_backward(target);
  for (int step = 0; step < 300; ++step) {
    optimizer.step();
    forward_and_backward(target);
  }
  const float* const memory = Y.memptr();
  const float last = forward_and_backward(target);
  forward_and_backward(
      arma::zeros<arma::fmat>(out, points));  // for the comparison: at the minimum a gradient's terms cancel

  arma::fmat A(rank, in), B(out, rank), dA(rank, in), dB(out, rank);
  weights(A) = adapter.A();
  weights(B) = adapter.B();
  weights(dA) = gradients.A();
  weights(dB) = gradients.B();
  const float s = adapter.scaling();
  bool good = close("Y", Y, W * X + s * B * A * X);
  good &= close("dX", dX, W.t() * dY + s * A.t() * B.t() * dY);
  good &= close("dA", dA, s * B.t() * dY * X.t());
  good &= close("dB", dB, s * dY * (A * X).t());

  // Weights that were trained elsewhere go the other way.
  hydralora::LoRA<float> loaded(config);
  loaded.A() = weights(A);
  loaded.B() = weights(B);
  arma::fmat again = W * X;
  loaded.forward(tokens(X), tokens(again));
  good &= close("Y of the copied weights", again, Y);

  good &= last < first / 100 && Y.memptr() == memory && tokens(Y).data() == memory;
  std::printf("armadillo: loss %g -> %g, the adapter adds to the host's own memory%s\n", static_cast<double>(first),
              static_cast<double>(last), good ? "" : ": FAILED");
  return good ? 0 : 1;
}
