// SPDX-License-Identifier: MIT
//
// A program of its own: it replaces operator new to count heap allocations, and forbids Eigen's.
#define EIGEN_RUNTIME_NO_MALLOC  // Eigen allocates with malloc: it asserts where that is switched off
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "support/layers.hpp"

namespace {
std::atomic<long> allocations{0};

std::atomic<long> until_failure{-1};  // allocations to go before all fail; negative: none does

void* counted(std::size_t bytes, std::size_t alignment) {
  for (long left = until_failure; left >= 0;) {
    if (left == 0) throw std::bad_alloc();
    if (until_failure.compare_exchange_weak(left, left - 1)) break;
  }
  ++allocations;
  void* p = alignment > alignof(std::max_align_t)
                ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                : std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(std::size_t n) { return counted(n, 1); }
void* operator new[](std::size_t n) { return counted(n, 1); }
void* operator new(std::size_t n, std::align_val_t a) { return counted(n, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return counted(n, static_cast<std::size_t>(a)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

using namespace hydralora;
using namespace support;

namespace {

/// pass(tokens) for each of these numbers, after two of the first: the second merges the scratch blocks that the first
/// needed.
template <class Pass>
void expect_no_allocation(Pass&& pass, std::initializer_list<Index> tokens) {
  pass(*tokens.begin());
  pass(*tokens.begin());
  const long before = allocations;
  Eigen::internal::set_is_malloc_allowed(false);
  for (const Index count : tokens) pass(count);
  Eigen::internal::set_is_malloc_allowed(true);
  CHECK(allocations == before);
}

}  // namespace

TEST_CASE_TEMPLATE("a warm forward or backward allocates nothing", Scalar, float, double) {
  const long before_any = allocations;
  { std::vector<int> probe(100); }
  REQUIRE(allocations == before_any + 1);  // the counter counts
  for (const int threads : {1, 2}) {
    const Threads use(threads);
    CAPTURE(threads);
    const auto check = [](const auto& layer, const Inputs<Scalar>& in) {
      using Layer = std::decay_t<decltype(layer)>;
      Matrix<Scalar> y = in.dy, dx = in.x;
      typename Layer::Cache cache;
      typename Layer::Gradients g(layer.config());
      expect_no_allocation(
          [&](Index tokens) {
            CallOptions<Scalar> o = in.options;
            if (in.weights.size() > 0) o.weights = o.weights.slice(0, tokens);
            layer.forward(in.x.leftCols(tokens), y.leftCols(tokens), o);
            layer.forward(in.x.leftCols(tokens), y.leftCols(tokens), cache, o);
            layer.backward(in.x.leftCols(tokens), in.dy.leftCols(tokens), cache, g, dx.leftCols(tokens));
            layer.backward(in.x.leftCols(tokens), in.dy.leftCols(tokens), cache, g);
          },
          {in.s.tokens, 37, in.s.tokens});  // a smaller batch needs no more
    };
    for_each_layer<Scalar>({{300, 200, 8, 4, 100}}, {0.0, 0.2}, 1, check);
  }
}

TEST_CASE("warm passes of every gate allocate nothing") {
  const std::vector<Index> segments{40, 1, 59};
  for (const GateGranularity granularity :
       {GateGranularity::token, GateGranularity::segment, GateGranularity::causal}) {
    for (const GateInput input : {GateInput::x, GateInput::projection, GateInput::rms_projection}) {
      if (input == GateInput::rms_projection && granularity == GateGranularity::token) continue;
      const GateConfig gate{input, GateSelection::top_k, granularity, 1, 2, 1, /*keep_log_partition=*/true};
      const HydraLoRA<float> layer(HydraLoRAConfig{300, 200, 8, 3.0, false, 0, 4, Routing::learned, gate});
      const Matrix<float> x = random_matrix<float>(300, 100, 1), dy = random_matrix<float>(200, 100, 2);
      Matrix<float> y = dy, dx = x, balance = Matrix<float>::Zero(4, 100);
      HydraLoRA<float>::Cache cache;
      HydraLoRA<float>::Gradients g(layer.config());
      CallOptions<float> options;
      options.segments = segments;
      options.logits_gradient = balance;
      expect_no_allocation(
          [&](Index) {
            layer.forward(x, y, options);
            layer.forward(x, y, cache, options);
            layer.backward(x, dy, cache, g, dx, options);
          },
          {100});
    }
  }
}

namespace {

/// Forward passes, each in a thread that has no scratch memory yet (and whose OpenMP workers have none), with the
/// first, the second, … and all later allocations failing, until one comes through.
template <class Layer>
long failures_until_done(const Layer& layer, Index tokens, int threads, const std::vector<Index>& segments = {}) {
  const Matrix<float> x = random_matrix<float>(layer.config().in_features, tokens, 1);
  const Matrix<float> before = random_matrix<float>(layer.config().out_features, tokens, 2);
  Matrix<float> y = before;
  typename Layer::Gradients g(layer.config());
  CallOptions<float> options;
  options.segments = segments;
  long failures = 0;
  for (bool done = false; !done; ++failures) {
    typename Layer::Cache cache;
    Matrix<float> y1 = before.leftCols(1);
    layer.forward(Matrix<float>(x.leftCols(1)), y1, cache);  // a pass that the one that fails must not leave
    std::thread([&] {
      const Threads use(threads);
      until_failure = failures;
      try {
        layer.forward(x, y, cache, options);
        done = true;
      } catch (const std::bad_alloc&) {
      }
      until_failure = -1;
    }).join();
    if (done) {
      CHECK(cache.tokens() == tokens);
      break;
    }
    CHECK(same_bits(y, before));
    CHECK(cache.tokens() == 0);
    CHECK_THROWS_AS(layer.backward(x, y, cache, g), std::invalid_argument);
  }
  CHECK_FALSE(same_bits(y, before));
  return failures;
}

}  // namespace

TEST_CASE("a forward that runs out of memory leaves y alone and a cache that backward refuses") {
  for (const int threads : {1, 4}) {
    CAPTURE(threads);
    HydraLoRA<float> hydra(HydraLoRAConfig{4000, 2000, 8, 3.0, false, 0.2, 4});
    LoRA<float> lora(LoRAConfig{500, 2100, 32});  // few tokens need scratch for the last features of y only
    hydra.B(3).setConstant(1.0F);
    lora.B().setConstant(1.0F);
    CHECK(failures_until_done(hydra, 700, threads) >= 2);  // the cache and the scratch
    // Growing segments, head by head and through the mean of the heads; of one head, with nothing to combine, all go
    // head by head.
    for (const Index heads : {4, 1}) {
      const GateConfig gate{GateInput::x, GateSelection::dense, GateGranularity::segment};
      HydraLoRA<float> pooled(HydraLoRAConfig{400, 2100, 8, 3.0, false, 0, heads, Routing::learned, gate});
      pooled.B(heads - 1).setConstant(1.0F);
      CHECK(failures_until_done(pooled, 1000, threads, {1, 1, 3, 2, 93, 0, 100, 800}) >= 3);
    }
    for (const Index tokens : {5, 40, 700}) {
      CAPTURE(tokens);
      CHECK(failures_until_done(lora, tokens, threads) >= 2);
    }
  }
}
