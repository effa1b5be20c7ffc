// SPDX-License-Identifier: MIT
//
// A host with threads of its own: any number of slices, in any order, gives the bits of the whole call.
#include <algorithm>
#include <thread>

#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

/// f(slice) on a thread of its own for every slice; returning is the host's barrier.
template <class Function>
void on_threads(Index slices, Function&& f) {
  std::vector<std::thread> threads;
  for (Index i = slices; i-- > 0;) threads.emplace_back([&f, i] { f(i); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_CASE_TEMPLATE("slices on the host's threads give the bits of the whole call", Scalar, float, double) {
  const auto check = [](const auto& layer, const Inputs<Scalar>& in) {
    using Layer = std::decay_t<decltype(layer)>;
    struct Results {
      Matrix<Scalar> y, dx, dweights;
      typename Layer::Gradients g;
    };
    const auto empty = [&] {
      return Results{Matrix<Scalar>::Ones(in.s.out, in.s.tokens), Matrix<Scalar>::Ones(in.s.in, in.s.tokens),
                     Matrix<Scalar>::Ones(in.weights.rows(), in.weights.cols()),
                     typename Layer::Gradients(layer.config())};
    };
    const auto options_for = [&](Results& r) {
      CallOptions<Scalar> options = in.options;
      options.step = 4;
      options.first_token = 9;
      options.weights_gradient = r.dweights;
      return options;
    };
    Results whole = empty();
    typename Layer::Cache cache;
    layer.forward(in.x, whole.y, cache, options_for(whole));
    layer.backward(in.x, in.dy, cache, whole.g, whole.dx, options_for(whole));

    for (const Index slices : {1, 2, 3, 5}) {
      CAPTURE(slices);
      Results r = empty(), without_dx = empty();
      typename Layer::Cache own_cache;
      const SlicedForward<Layer> forward(layer, in.x, r.y, own_cache, options_for(r));
      on_threads(slices, [&](Index i) { forward.run(i, slices); });
      CHECK(same_bits<Scalar>(r.y, whole.y));

      const SlicedBackward<Layer> backward(layer, in.x, in.dy, own_cache, r.g, r.dx, options_for(r)),
          no_dx(layer, in.x, in.dy, own_cache, without_dx.g, options_for(without_dx));
      for (int phase = 0; phase < SlicedBackward<Layer>::phases; ++phase) {
        on_threads(slices, [&](Index i) { backward.run(phase, i, slices); });
        for (Index i = 0; i < slices; ++i) no_dx.run(phase, i, slices);
      }
      CHECK(same_bits<Scalar>(r.dx, whole.dx));
      CHECK(same_bits<Scalar>(r.g.parameters(), whole.g.parameters()));
      CHECK(same_bits<Scalar>(r.dweights, whole.dweights));
      CHECK(same_bits<Scalar>(without_dx.g.parameters(), whole.g.parameters()));
    }
  };
  // More tokens than a block of accumulate(), features that are no multiple of a slice's grain.
  for_each_layer<Scalar>({{37, 70, 4, 3, 131}, {130, 21, 8, 5, 7}, {16, 1024, 3, 2, 1}}, {0.0, 0.3}, 5, check);
}

TEST_CASE("a sliced call refuses what the whole call refuses, before anything is written") {
  const HydraLoRA<float> layer(HydraLoRAConfig{6, 5, 2});
  const Matrix<float> x = Matrix<float>::Ones(6, 3), dy = Matrix<float>::Ones(5, 3);
  Matrix<float> y = Matrix<float>::Ones(5, 3), short_y = Matrix<float>::Ones(4, 3), dx = Matrix<float>::Ones(6, 3);
  HydraLoRA<float>::Cache cache;
  HydraLoRA<float>::Gradients g(layer.config());
  using Forward = SlicedForward<HydraLoRA<float>>;
  using Backward = SlicedBackward<HydraLoRA<float>>;
  CHECK_THROWS_WITH_AS(Forward(layer, x, short_y, cache),
                       "HydraLoRA::forward: y is 4x3, expected 5x3 (out_features x tokens)", std::invalid_argument);
  CHECK(cache.tokens() == 0);
  CHECK_THROWS_AS(Backward(layer, x, dy, cache, g, dx), std::invalid_argument);  // no forward pass yet
  const Forward forward(layer, x, y, cache);
  for (const Index slice : {-1, 2, 3}) {
    CHECK_THROWS_WITH_AS(forward.run(slice, 2), doctest::Contains("of 2 slices"), std::invalid_argument);
  }
  CHECK_THROWS_AS(forward.run(0, 0), std::invalid_argument);
  CHECK(y.isOnes(0));
  forward.run(0, 1);
  const Backward backward(layer, x, dy, cache, g, dx);
  CHECK_THROWS_WITH_AS(backward.run(2, 0, 1), "SlicedBackward: phase 2 of 2 phases", std::invalid_argument);
  CHECK(dx.isOnes(0));
}

TEST_CASE("nothing leaves the calling thread inside a SerialScope") {
  const auto threads_of_a_loop = [] {
    std::vector<std::thread::id> seen(8);
    parallel_for(8, parallel_work_minimum,
                 [&](Index i) { seen[static_cast<std::size_t>(i)] = std::this_thread::get_id(); });
    std::sort(seen.begin(), seen.end());
    return std::unique(seen.begin(), seen.end()) - seen.begin();
  };
  const Threads two(2);
  const auto before = threads_of_a_loop();
  {
    const SerialScope serial;
    CHECK(threads_of_a_loop() == 1);
  }
  CHECK(threads_of_a_loop() == before);
}
