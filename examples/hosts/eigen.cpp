// SPDX-License-Identifier: MIT
//
// Eigen: columns of a default (column-major) matrix are tokens and go in as they are, and so do blocks of them. A
// row-major matrix with a token in each row has the same bytes: it goes in as its transpose.
#include <cmath>
#include <cstdio>
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>

using Eigen::MatrixXf;
using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

bool close(const char* what, const MatrixXf& actual, const MatrixXf& expected) {
  const float error = (actual - expected).norm() / expected.norm();
  if (error <= 1e-5F) return true;  // some hundred roundings of 6e-8; a wrong formula is off by far more
  std::printf("eigen: %s is off by %g\n", what, static_cast<double>(error));
  return false;
}

int main() {
  constexpr Eigen::Index in = 24, out = 16, tokens = 64, rank = 3, heads = 2;
  std::srand(1);  // Eigen's Random() starts from it
  // One fused projection, whose rows are those of queries, keys and values. The adapter is for the values.
  const MatrixXf W = MatrixXf::Random(3 * out, in), x = MatrixXf::Random(in, tokens);
  const MatrixXf change = MatrixXf::Random(out, rank) * MatrixXf::Random(rank, in) / 4;
  MatrixXf target = W * x;
  target.bottomRows(out) += change * x;  // what the frozen layer should have learnt

  hydralora::HydraLoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = rank;
  config.heads = heads;
  hydralora::HydraLoRA<float> adapter(config, /*seed=*/1);
  hydralora::HydraLoRA<float>::Cache cache;
  hydralora::HydraLoRA<float>::Gradients gradients(config);
  hydralora::AdamW<float> optimizer({{adapter.parameters(), gradients.parameters(), /*learning_rate=*/1e-2}});

  MatrixXf y, dy, dx;
  const auto forward_and_backward = [&](const MatrixXf& goal) {
    y.noalias() = W * x;                           // the host's own layer
    adapter.forward(x, y.bottomRows(out), cache);  // the values += ΔW(x)
    dy = (y - goal) / static_cast<float>(tokens);
    dx.noalias() = W.transpose() * dy;
    gradients.set_zero();
    adapter.backward(x, dy.bottomRows(out), cache, gradients, dx);  // gradients += …, dx += …
    return (y - goal).squaredNorm() / static_cast<float>(2 * tokens);
  };
  const float first = forward_and_backward(target);
  for (int step = 0; step < 400; ++step) {
    optimizer.step();
    forward_and_backward(target);
  }
  const float last = forward_and_backward(target);
  forward_and_backward(
      MatrixXf::Zero(3 * out, tokens));  // for the comparison: at the minimum a gradient's terms cancel

  // y += s Σ ω_i B_i A x,  ω = softmax(G x), and its derivatives, in Eigen's own operations.
  const float s = adapter.scaling();
  const MatrixXf A = adapter.A(), G = adapter.gate(), h = A * x, dv = dy.bottomRows(out);
  const MatrixXf exponentials = (G * x).array().exp();
  const MatrixXf omega = exponentials * exponentials.colwise().sum().cwiseInverse().asDiagonal();
  MatrixXf expected = W * x, dh = MatrixXf::Zero(rank, tokens), domega(heads, tokens);
  bool good = true;
  for (Eigen::Index i = 0; i < heads; ++i) {
    const MatrixXf B = adapter.B(i), u = h * omega.row(i).asDiagonal(), v = s * B.transpose() * dv;
    expected.bottomRows(out) += s * B * u;
    dh += v * omega.row(i).asDiagonal();
    domega.row(i) = v.cwiseProduct(h).colwise().sum();
    good &= close("dB", gradients.B(i), s * dv * u.transpose());
  }
  const Eigen::RowVectorXf mean = omega.cwiseProduct(domega).colwise().sum();
  const MatrixXf dlogits = omega.cwiseProduct(domega.rowwise() - mean);
  good &= close("y", y, expected);
  good &= close("dA", gradients.A(), dh * x.transpose());
  good &= close("dG", gradients.gate(), dlogits * x.transpose());
  good &= close("dx", dx, W.transpose() * dy + A.transpose() * dh + G.transpose() * dlogits);

  // A host whose matrices are row-major, with a token in each row: the same bytes, and the same bits come out.
  MatrixXf frozen;
  frozen.noalias() = W * x;  // as above: Eigen's own bits may depend on how it is asked
  const RowMajor x_rows = x.transpose();
  RowMajor y_rows = frozen.transpose();
  adapter.forward(x_rows.transpose(), y_rows.rightCols(out).transpose());
  good &= y_rows == RowMajor(y.transpose());

  const hydralora::Tokens<float> view = y.bottomRows(out);
  good &= last < first / 50 && view.data() == &y(2 * out, 0) && view.stride() == 3 * out;
  std::printf("eigen: loss %g -> %g, on a third of a fused projection%s\n", static_cast<double>(first),
              static_cast<double>(last), good ? "" : ": FAILED");
  return good ? 0 : 1;
}
