// SPDX-License-Identifier: MIT
//
// Adapter time alone (y += ΔW x, and back): LoRA at HydraLoRA's rank and at its size, HydraLoRA, and HydraLoRA's own
// formula with Eigen products. Arguments: tokens, features in and out, heads; rank 8.
//
//   bench_layers --benchmark_repetitions=7 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <hydralora/hydralora.hpp>

namespace {

using namespace hydralora;
using Matrix = Eigen::MatrixXf;

constexpr Index rank = 8;

struct Shape {
  Index tokens, features, heads;
  explicit Shape(const benchmark::State& state)
      : tokens(state.range(0)), features(state.range(1)), heads(state.range(2)) {}
};

HydraLoRAConfig hydra_config(const Shape& s) { return {s.features, s.features, rank, 16, false, 0, s.heads}; }
LoRAConfig same_rank(const Shape& s) { return {s.features, s.features, rank}; }
/// The rank whose two matrices are about as large as HydraLoRA's A, gate and B: (r + N + r·N) / 2.
LoRAConfig same_size(const Shape& s) { return {s.features, s.features, (rank + s.heads + rank * s.heads) / 2}; }

template <class Layer>
void run(benchmark::State& state, const typename Layer::Config& config, bool backward) {
  const Shape s(state);
  Layer layer(config);
  layer.parameters().setRandom();
  const Matrix x = Matrix::Random(s.features, s.tokens), dy = Matrix::Random(s.features, s.tokens);
  Matrix y = Matrix::Zero(s.features, s.tokens), dx = y;
  typename Layer::Cache cache;
  typename Layer::Gradients gradients(config);
  for (auto _ : state) {
    layer.forward(x, y, cache);
    if (backward) layer.backward(x, dy, cache, gradients, dx);
    benchmark::ClobberMemory();
  }
  // Every parameter takes part in one multiply-add a token forward and in two backward.
  const double flop = (backward ? 6.0 : 2.0) * static_cast<double>(s.tokens * layer.parameter_count());
  state.counters["GFLOP/s"] = benchmark::Counter(flop * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["parameters"] = static_cast<double>(layer.parameter_count());
}

void lora_same_rank(benchmark::State& state) { run<LoRA<float>>(state, same_rank(Shape(state)), false); }
void lora_same_size(benchmark::State& state) { run<LoRA<float>>(state, same_size(Shape(state)), false); }
void hydra(benchmark::State& state) { run<HydraLoRA<float>>(state, hydra_config(Shape(state)), false); }
void lora_same_rank_backward(benchmark::State& state) { run<LoRA<float>>(state, same_rank(Shape(state)), true); }
void lora_same_size_backward(benchmark::State& state) { run<LoRA<float>>(state, same_size(Shape(state)), true); }
void hydra_backward(benchmark::State& state) { run<HydraLoRA<float>>(state, hydra_config(Shape(state)), true); }

/// The same forward pass as anyone would write it on Eigen: three products, nothing packed or fused.
void hydra_eigen(benchmark::State& state) {
  const Shape s(state);
  const Matrix down = Matrix::Random(rank + s.heads, s.features), up = Matrix::Random(s.features, rank * s.heads);
  const Matrix x = Matrix::Random(s.features, s.tokens);
  Matrix y = Matrix::Zero(s.features, s.tokens), p(rank + s.heads, s.tokens), u(rank * s.heads, s.tokens);
  for (auto _ : state) {
    p.noalias() = down * x;
    auto logits = p.bottomRows(s.heads);
    logits = (logits.rowwise() - logits.colwise().maxCoeff()).array().exp();
    logits.array().rowwise() /= logits.colwise().sum().array().eval();
    for (Index i = 0; i < s.heads; ++i) {
      u.middleRows(i * rank, rank) = p.topRows(rank).array().rowwise() * logits.row(i).array();
    }
    y.noalias() += 2.0F * up * u;
    benchmark::ClobberMemory();
  }
  const double flop = 2.0 * static_cast<double>(s.tokens * (down.size() + up.size()));
  state.counters["GFLOP/s"] = benchmark::Counter(flop * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const int features : {1024, 4096}) {
    for (const int tokens : {1, 16, 512}) {
      for (const int heads : {3, 8}) b->Args({tokens, features, heads});
    }
  }
  b->UseRealTime()->Unit(benchmark::kMicrosecond)->MinTime(0.1);
}

BENCHMARK(lora_same_rank)->Apply(shapes);
BENCHMARK(lora_same_size)->Apply(shapes);
BENCHMARK(hydra)->Apply(shapes);
BENCHMARK(hydra_eigen)->Apply(shapes);
BENCHMARK(lora_same_rank_backward)->Apply(shapes);
BENCHMARK(lora_same_size_backward)->Apply(shapes);
BENCHMARK(hydra_backward)->Apply(shapes);

}  // namespace
