// SPDX-License-Identifier: MIT
//
// A host of plain C arrays with threads of its own, as ggml has them: activations are float[tokens][features], a row
// may lie in a wider one, weights are float[out][in], and every kernel is called as slice i of n. The parameters are in
// the host's arena.
#include <algorithm>
#include <cstdio>
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>
#include <random>
#include <thread>
#include <vector>

using hydralora::Index;
using Buffer = std::vector<float>;

namespace host {

constexpr Index in = 24, out = 16, count = 50, rank = 3;
constexpr Index row = 32;  // numbers from one token of the activations to the next

/// The host's workers: work(i, n) for every i, and the barrier after it, as all have ended.
template <class Work>
void on_every_thread(const Work& work) {
  constexpr int n = 3;
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i) threads.emplace_back([&work, i] { work(i, n); });
  for (std::thread& thread : threads) thread.join();
}

/// Inference as a kernel of such a host: the tokens of slice i of n, on the calling thread, without cache or barrier.
void add_adapter(const hydralora::LoRA<float>& adapter, hydralora::ConstTokens<float> x, hydralora::Tokens<float> y,
                 int i, int n) {
  const Index begin = x.tokens() * i / n, end = x.tokens() * (i + 1) / n;
  const hydralora::SerialScope serial;
  adapter.forward(x.slice(begin, end - begin), y.slice(begin, end - begin));
}

/// The host's own products: y[t] = W x[t], and dx[t] = Wᵀ dy[t].
void linear(const float* W, const float* x, float* y) {
  for (Index t = 0; t < count; ++t) {
    for (Index o = 0; o < out; ++o) {
      y[t * row + o] = 0;
      for (Index i = 0; i < in; ++i) y[t * row + o] += W[o * in + i] * x[t * row + i];
    }
  }
}
void linear_backward(const float* W, const float* dy, float* dx) {
  for (Index t = 0; t < count; ++t) {
    for (Index i = 0; i < in; ++i) {
      dx[t * row + i] = 0;
      for (Index o = 0; o < out; ++o) dx[t * row + i] += W[o * in + i] * dy[t * row + o];
    }
  }
}

}  // namespace host

/// For the comparisons alone, in double: tokens, or rows of weights, as columns that begin `numbers` apart.
Eigen::MatrixXd columns(const Buffer& buffer, Index features, Index tokens, Index numbers) {
  return Eigen::Map<const Eigen::MatrixXf, 0, Eigen::OuterStride<>>(buffer.data(), features, tokens,
                                                                    Eigen::OuterStride<>(numbers))
      .cast<double>();
}

bool close(const char* what, const Eigen::MatrixXd& actual, const Eigen::MatrixXd& expected) {
  const double error = (actual - expected).norm() / expected.norm();
  if (error <= 1e-5) return true;  // some hundred roundings of 6e-8; a wrong formula is off by far more
  std::printf("plain_buffers: %s is off by %g\n", what, error);
  return false;
}

int main() {
  using namespace host;
  std::mt19937 random(1);
  const auto random_buffer = [&](Index numbers) {
    Buffer buffer(static_cast<std::size_t>(numbers));
    for (float& number : buffer) number = static_cast<float>(random()) * 0x1p-31F - 1;
    return buffer;
  };
  const Buffer W = random_buffer(out * in), x = random_buffer(count * row), change_B = random_buffer(out * rank),
               change_A = random_buffer(rank * in);
  Buffer W_target = W;  // what the frozen layer should have learnt
  Eigen::Map<Eigen::MatrixXf>(W_target.data(), in, out) +=
      (columns(change_A, in, rank, in) * columns(change_B, rank, out, rank) / 4).cast<float>();
  Buffer target(x.size()), y(x.size()), dy(x.size()), dx(x.size());
  linear(W_target.data(), x.data(), target.data());

  hydralora::LoRAConfig config;
  config.in_features = in;
  config.out_features = out;
  config.rank = rank;
  const Index size = hydralora::LoRA<float>(config).parameter_count();
  Buffer arena(static_cast<std::size_t>(2 * size));  // parameters, then gradients
  hydralora::LoRA<float> adapter(config, {arena.data(), size}, /*seed=*/1);
  hydralora::LoRA<float>::Gradients gradients(config, {arena.data() + size, size});
  hydralora::LoRA<float>::Cache cache;
  hydralora::AdamW<float> optimizer({{adapter.parameters(), gradients.parameters(), /*learning_rate=*/1e-2}});

  // Weights from elsewhere, float[rank][in]: row by row, so Eigen sees them as in × rank and turned around.
  adapter.A() = Eigen::Map<const Eigen::MatrixXf>(change_A.data(), in, rank).transpose();

  const auto forward_and_backward = [&](const float* goal) {
    using hydralora::ConstTokens, hydralora::Tokens;
    const ConstTokens<float> x_view(x.data(), in, count, row), dy_view(dy.data(), out, count, row);
    const Tokens<float> y_view(y.data(), out, count, row), dx_view(dx.data(), in, count, row);

    linear(W.data(), x.data(), y.data());  // the host's own layer
    const hydralora::SlicedForward<hydralora::LoRA<float>> forward(adapter, x_view, y_view, cache);
    on_every_thread([&](int i, int n) { forward.run(i, n); });  // y += s B A x

    double loss = 0;
    for (Index t = 0; t < count; ++t) {
      for (Index o = 0; o < out; ++o) {
        const auto at = static_cast<std::size_t>(t * row + o);
        dy[at] = (y[at] - goal[at]) / static_cast<float>(count);
        loss += 0.5 * static_cast<double>(dy[at]) * static_cast<double>(y[at] - goal[at]);
      }
    }

    linear_backward(W.data(), dy.data(), dx.data());
    gradients.set_zero();
    const hydralora::SlicedBackward<hydralora::LoRA<float>> backward(adapter, x_view, dy_view, cache, gradients,
                                                                     dx_view);
    for (int phase = 0; phase < backward.phases; ++phase) {
      on_every_thread([&](int i, int n) { backward.run(phase, i, n); });  // gradients += …, dx += s (B A)ᵀ dy
    }
    return loss;
  };
  const double first = forward_and_backward(target.data());
  for (int step = 0; step < 300; ++step) {
    optimizer.step();
    forward_and_backward(target.data());
  }
  const double last = forward_and_backward(target.data());
  const Buffer zeros(target.size());
  forward_and_backward(zeros.data());  // for the comparison: at the minimum a gradient's terms cancel

  // The same formulas in double.
  const Eigen::MatrixXd A = adapter.A().cast<double>(), B = adapter.B().cast<double>();
  const Eigen::MatrixXd Wt = columns(W, in, out, in), X = columns(x, in, count, row), dY = columns(dy, out, count, row);
  const double s = static_cast<double>(adapter.scaling());
  const Eigen::MatrixXd H = A * X, V = B.transpose() * dY;
  bool good = close("y", columns(y, out, count, row), Wt.transpose() * X + s * (B * H));
  good &= close("dx", columns(dx, in, count, row), Wt * dY + s * (A.transpose() * V));
  good &= close("dA", gradients.A().cast<double>(), s * (V * X.transpose()));
  good &= close("dB", gradients.B().cast<double>(), s * (dY * H.transpose()));

  // Serving: the same bits, without a cache.
  Buffer served(y.size());
  linear(W.data(), x.data(), served.data());
  on_every_thread([&](int i, int n) {
    add_adapter(adapter, {x.data(), in, count, row}, {served.data(), out, count, row}, i, n);
  });
  good &= served == y;

  // What lies between the rows is nobody's: it was zero, and must be.
  for (Index t = 0; t < count; ++t) {
    good &= std::all_of(&y[static_cast<std::size_t>(t * row + out)], y.data() + (t + 1) * row,
                        [](float f) { return f == 0; });
  }
  good &= last < first / 100 && adapter.parameters().data() == arena.data();
  std::printf("plain_buffers: loss %g -> %g, in slices on the host's threads%s\n", first, last, good ? "" : ": FAILED");
  return good ? 0 : 1;
}
