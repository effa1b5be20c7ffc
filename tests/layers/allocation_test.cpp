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
#include "support/threads.hpp"

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

TEST_CASE_TEMPLATE("a warm forward or backward allocates nothing", Scalar, float, double) {
  const long before_any = allocations;
  { std::vector<int> probe(100); }
  REQUIRE(allocations == before_any + 1);  // the counter counts

  for (const int threads : {1, 2}) {
    const Threads use(threads);
    for (const Kind kind : all_kinds) {
      for (const double dropout : {0.0, 0.2}) {
        const LayerShape s{300, 200, 8, 4, 100};
        CAPTURE(name(kind));
        CAPTURE(dropout);
        CAPTURE(threads);
        with_layer<Scalar>(kind, s, dropout, 1, [&](const auto& layer) {
          using Layer = std::decay_t<decltype(layer)>;
          const Matrix<Scalar> x = random_matrix<Scalar>(s.in, s.tokens, 1),
                               dy = random_matrix<Scalar>(s.out, s.tokens, 2);
          const Matrix<Scalar> weights = given_weights<Scalar>(kind, s, 3);
          Matrix<Scalar> y = dy, dx = x;
          CallOptions<Scalar> options;
          options.weights = weights;
          typename Layer::Cache cache;
          typename Layer::Gradients g(layer.config());
          const auto pass = [&](Index tokens) {
            CallOptions<Scalar> o = options;
            if (weights.size() > 0) o.weights = options.weights.slice(0, tokens);
            layer.forward(x.leftCols(tokens), y.leftCols(tokens), o);
            layer.forward(x.leftCols(tokens), y.leftCols(tokens), cache, o);
            layer.backward(x.leftCols(tokens), dy.leftCols(tokens), cache, g, dx.leftCols(tokens));
            layer.backward(x.leftCols(tokens), dy.leftCols(tokens), cache, g);
          };
          pass(s.tokens);
          pass(s.tokens);  // the second merges the scratch blocks that the first needed
          const long before = allocations;
          Eigen::internal::set_is_malloc_allowed(false);
          pass(s.tokens);
          pass(37);  // a smaller batch needs no more
          pass(s.tokens);
          Eigen::internal::set_is_malloc_allowed(true);
          CHECK(allocations == before);
        });
      }
    }
  }
}

TEST_CASE("warm passes of every gate allocate nothing") {
  const std::vector<Index> segments{40, 1, 59};
  for (const GateGranularity granularity :
       {GateGranularity::token, GateGranularity::segment, GateGranularity::causal}) {
    for (const GateInput input : {GateInput::x, GateInput::projection, GateInput::rms_projection}) {
      if (input == GateInput::rms_projection && granularity == GateGranularity::token) continue;
      HydraLoRAConfig config{300, 200, 8, 3.0, false, 0, 4};
      config.gate.granularity = granularity;
      config.gate.input = input;
      config.gate.selection = GateSelection::top_k;
      config.gate.top_k = 2;
      config.gate.keep_log_partition = true;
      const HydraLoRA<float> layer(config);
      const Matrix<float> x = random_matrix<float>(300, 100, 1), dy = random_matrix<float>(200, 100, 2);
      Matrix<float> y = dy, dx = x, balance = Matrix<float>::Zero(4, 100);
      HydraLoRA<float>::Cache cache;
      HydraLoRA<float>::Gradients g(config);
      CallOptions<float> options;
      options.segments = segments;
      options.logits_gradient = balance;
      const auto pass = [&] {
        layer.forward(x, y, options);
        layer.forward(x, y, cache, options);
        layer.backward(x, dy, cache, g, dx, options);
      };
      pass();
      pass();
      const long before = allocations;
      Eigen::internal::set_is_malloc_allowed(false);
      pass();
      Eigen::internal::set_is_malloc_allowed(true);
      CHECK(allocations == before);
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
    HydraLoRAConfig by_segment{400, 2100, 8, 3.0, false, 0, 4};
    by_segment.gate.granularity = GateGranularity::segment;
    HydraLoRA<float> pooled(by_segment);
    pooled.B(3).setConstant(1.0F);
    // growing segments, head by head and through the mean of the heads
    CHECK(failures_until_done(pooled, 1000, threads, {1, 1, 3, 2, 93, 0, 100, 800}) >= 3);
    by_segment.heads = 1;  // nothing to combine: every segment goes head by head
    HydraLoRA<float> single(by_segment);
    single.B(0).setConstant(1.0F);
    CHECK(failures_until_done(single, 1000, threads, {1, 1, 3, 2, 93, 0, 100, 800}) >= 3);
    for (const Index tokens : {5, 40, 700}) {
      CAPTURE(tokens);
      CHECK(failures_until_done(lora, tokens, threads) >= 2);
    }
  }
}
