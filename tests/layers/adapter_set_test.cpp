// SPDX-License-Identifier: MIT
#include "hydralora/layers/adapter_set.hpp"

#include <memory>
#include <new>

#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Scalar>
std::unique_ptr<HydraLoRA<Scalar>> random_adapter(Index rank, Index heads, std::uint64_t seed, double dropout = 0) {
  const HydraLoRA<Scalar> layer(HydraLoRAConfig{13, 11, rank, 3.0, false, dropout, heads}, seed);
  return std::make_unique<HydraLoRA<Scalar>>(randomized(layer, seed));
}

/// A layer that can run out of memory.
class Forgetful : public HydraLoRA<float> {
 public:
  using HydraLoRA<float>::HydraLoRA;
  void forward(ConstTokens<float> x, Tokens<float> y, Cache& cache, const CallOptions<float>& options) const {
    if (out_of_memory) throw std::bad_alloc();
    HydraLoRA<float>::forward(x, y, cache, options);
  }
  bool out_of_memory = false;
};

}  // namespace

TEST_CASE_TEMPLATE("a batch of several adapters gives the bits of one adapter at a time", Scalar, float, double) {
  AdapterSet<HydraLoRA<Scalar>> set;
  const Index a = set.add("a", random_adapter<Scalar>(2, 3, 1, 0.3)), b = set.add("b", random_adapter<Scalar>(5, 2, 2)),
              unused = set.add("unused", random_adapter<Scalar>(1, 1, 3));
  const std::vector<AdapterRun> runs = {{a, 7}, {base_only, 3}, {b, 0}, {b, 20}, {a, 1}, {b, 2}};
  const Index tokens = 33;
  const Matrix<Scalar> x = random_matrix<Scalar>(13, tokens, 4), dy = random_matrix<Scalar>(11, tokens, 5);
  const Matrix<Scalar> y0 = random_matrix<Scalar>(11, tokens, 6), dx0 = random_matrix<Scalar>(13, tokens, 7);
  using Gradients = typename HydraLoRA<Scalar>::Gradients;
  Gradients ga(set[a].config()), gb(set[b].config()), expected_ga = ga, expected_gb = gb;
  CallOptions<Scalar> options;
  options.step = 9;
  options.first_token = 100;

  Matrix<Scalar> y = y0, dx = dx0, inferred = y0, expected_y = y0, expected_dx = dx0, expected_inferred = y0;
  typename AdapterSet<HydraLoRA<Scalar>>::Cache cache;
  set.forward(x, y, runs, cache, options);
  set.backward(x, dy, cache, {&ga, &gb, nullptr}, dx);
  set.forward(x, inferred, runs);

  for (const AdapterRun& run : runs) {
    const auto slice = [&, first = static_cast<Index>(options.first_token) - 100](auto& m) {
      return m.middleCols(first, run.tokens);
    };
    if (run.adapter != base_only) {
      const HydraLoRA<Scalar>& layer = set[run.adapter];
      typename HydraLoRA<Scalar>::Cache own;
      layer.forward(slice(x), slice(expected_y), own, options);
      layer.backward(slice(x), slice(dy), own, run.adapter == a ? expected_ga : expected_gb, slice(expected_dx));
      layer.forward(slice(x), slice(expected_inferred));
    }
    options.first_token += static_cast<std::uint64_t>(run.tokens);
  }
  CHECK(same_bits(y, expected_y));
  CHECK(same_bits(dx, expected_dx));
  CHECK(same_bits(inferred, expected_inferred));
  CHECK(same_bits<Scalar>(ga.parameters(), expected_ga.parameters()));
  CHECK(same_bits<Scalar>(gb.parameters(), expected_gb.parameters()));
  CHECK(same_bits<Scalar>(y.middleCols(7, 3), y0.middleCols(7, 3)));
  CHECK_FALSE(same_bits<Scalar>(y.leftCols(7), y0.leftCols(7)));
  CHECK(set.name(unused) == "unused");

  // Each token's bits are those of its adapter's own batch of all its tokens, too.
  Matrix<Scalar> own(13, 22), own_y(11, 22);
  own << x.middleCols(10, 20), x.rightCols(2);
  own_y << y0.middleCols(10, 20), y0.rightCols(2);
  set[b].forward(own, own_y);
  CHECK(same_bits<Scalar>(own_y.leftCols(20), inferred.middleCols(10, 20)));
  CHECK(same_bits<Scalar>(own_y.rightCols(2), inferred.rightCols(2)));
}

TEST_CASE("adapters are switched on, over and off") {
  AdapterSet<HydraLoRA<float>> set;
  const Matrix<float> x = random_matrix<float>(13, 5, 4);
  const auto result = [&] {
    Matrix<float> y = Matrix<float>::Zero(11, 5);
    set.forward(x, y);
    return y;
  };
  CHECK(result().isZero(0));
  const Index a = set.add("a", random_adapter<float>(2, 3, 1)), b = set.add("b", random_adapter<float>(2, 3, 2));
  CHECK(set.used() == base_only);
  CHECK(result().isZero(0));
  set.use(a);
  CHECK(same_bits(result(), apply(set[a], x)));
  set.use(set.place("b"));
  CHECK(same_bits(result(), apply(set[b], x)));
  auto other = random_adapter<float>(4, 1, 3);
  const HydraLoRA<float>*before = &set[b], *added = other.get();
  const auto old = set.exchange(b, std::move(other));
  CHECK(old.get() == before);
  CHECK(&set[b] == added);
  CHECK(same_bits(result(), apply(*added, x)));
  set.use(base_only);
  CHECK(result().isZero(0));
}

TEST_CASE("a set refuses what does not fit, and nothing is changed") {
  using Set = AdapterSet<HydraLoRA<float>>;
  Set set;
  const Index a = set.add("a", random_adapter<float>(2, 3, 1));
  CHECK(message_of([&] { set.add("a", random_adapter<float>(2, 3, 1)); }) == "AdapterSet::add: 'a' was added before");
  CHECK(message_of([&] { set.add("b", nullptr); }) == "AdapterSet::add: no adapter for 'b'");
  CHECK(message_of([&] {
          set.add("b", std::make_unique<HydraLoRA<float>>(HydraLoRAConfig{12, 11, 2}));
        }) == "AdapterSet::add: an adapter 12->11 beside those of 13->11");
  CHECK(message_of([&] {
          set.exchange(a, std::make_unique<HydraLoRA<float>>(HydraLoRAConfig{13, 12, 2}));
        }) == "AdapterSet::exchange: an adapter 13->12 beside those of 13->11");
  CHECK(message_of([&] { set.exchange(1, random_adapter<float>(2, 3, 1)); }) ==
        "AdapterSet::exchange: place 1 of 1 adapters");
  CHECK(message_of([&] { set.exchange(0, nullptr); }) == "AdapterSet::exchange: no adapter for 'a'");
  CHECK(message_of([&] { set.use(-2); }) == "AdapterSet::use: place -2 of 1 adapters");
  CHECK(message_of([&] { static_cast<void>(set.place("c")); }) == "AdapterSet::place: there is no 'c'");
  CHECK(set.size() == 1);

  const Matrix<float> x = random_matrix<float>(13, 5, 4), dy = random_matrix<float>(11, 5, 4);
  Matrix<float> y = Matrix<float>::Ones(11, 5), dx = Matrix<float>::Ones(13, 5);
  // The cache of an earlier forward pass, from which one can go back whatever is refused after it.
  Set::Cache cache;
  Matrix<float> earlier_y = y;
  set.forward(x, earlier_y, {{a, 2}, {base_only, 1}, {a, 2}}, cache);
  const Set::Cache earlier = cache;
  const auto refused = [&](const std::vector<AdapterRun>& runs, const char* reason) {
    CHECK(message_of([&] { set.forward(x, y, runs, cache); }) == reason);
    CHECK(message_of([&] { set.forward(x, y, runs); }) == reason);
  };
  refused({{a, 4}}, "AdapterSet::forward: the runs hold 4 of 5 tokens");
  refused({{a, 4}, {a, 2}}, "AdapterSet::forward: the runs hold 4 and then 2 of 5 tokens");
  refused({{a, 6}, {a, -1}}, "AdapterSet::forward: the runs hold 0 and then 6 of 5 tokens");
  refused({{a, 4}, {1, 1}}, "AdapterSet::forward: place 1 of 1 adapters");
  CHECK(message_of([&] {
          set.forward(x.topRows(12), y, {{a, 5}});
        }) == "AdapterSet::forward: x is 12x5 and y is 11x5, 'a' is 13->11");
  CHECK(message_of([&] { set.forward(x, y.leftCols(4), {{a, 5}}); }) == "AdapterSet::forward: x is 13x5 and y is 11x4");
  // Here no run of one token overlaps itself: x of a token is y of the token before.
  Matrix<float> both = random_matrix<float>(13, 6, 5);
  const Matrix<float> both_before = both;
  const std::vector<AdapterRun> ones(5, {a, 1});
  const auto overlapping = [&](auto&... cached) {
    return message_of([&] { set.forward(both.rightCols(5), both.topLeftCorner(11, 5), ones, cached...); });
  };
  CHECK(overlapping() == "AdapterSet::forward: x 13x5 and y 11x5 overlap");
  CHECK(overlapping(cache) == "AdapterSet::forward: x 13x5 and y 11x5 overlap");
  CHECK(both == both_before);
  const std::vector<Index> segments{5};
  const Matrix<float> weights = Matrix<float>::Ones(3, 5);
  Matrix<float> gradient = weights;
  CallOptions<float> unsupported[4];
  unsupported[0].segments = segments;
  unsupported[1].weights = weights;
  unsupported[2].weights_gradient = gradient;
  unsupported[3].logits_gradient = weights;
  for (const auto& options : unsupported) {
    CHECK(message_of([&] {
            set.forward(x, y, {{a, 5}}, cache, options);
          }) == containing("are not supported in a batch of several adapters"));
  }
  CHECK(y == Matrix<float>::Ones(11, 5));

  HydraLoRA<float>::Gradients g(set[a].config()), expected_g(set[a].config());
  Matrix<float> longer_dx = Matrix<float>::Ones(13, 6), longer_dy = Matrix<float>::Ones(11, 6);
  using Views = std::vector<HydraLoRA<float>::Gradients*>;
  const auto backward = [&](ConstTokens<float> xs, ConstTokens<float> dys, const Views& gs, Tokens<float> dxs) {
    return message_of([&] { set.backward(xs, dys, cache, gs, dxs); });
  };
  const std::string holds = "AdapterSet::backward: the cache holds 5 tokens, ";
  CHECK(backward(x, dy, {&g}, longer_dx) == holds + "x is 13x5, dy 11x5, dx 13x6");
  CHECK(backward(x, longer_dy, {&g}, dx) == holds + "x is 13x5, dy 11x6, dx 13x5");
  CHECK(backward(x.leftCols(4), dy.leftCols(4), {&g}, dx.leftCols(4)) == holds + "x is 13x4, dy 11x4, dx 13x4");
  CHECK(backward(x, dy, {}, dx) == "AdapterSet::backward: 0 gradients for 1 adapters");
  CHECK(backward(x, dy, {nullptr}, dx) == "AdapterSet::backward: no gradients for 'a'");
  CHECK(dx == Matrix<float>::Ones(13, 5));
  CHECK(longer_dx == Matrix<float>::Ones(13, 6));
  CHECK(g.parameters().isZero(0));
  Matrix<float> expected_dx = dx;
  set.backward(x, dy, earlier, {&expected_g}, expected_dx);
  set.backward(x, dy, cache, {&g}, dx);
  CHECK(same_bits(dx, expected_dx));
  CHECK(same_bits<float>(g.parameters(), expected_g.parameters()));

  HydraLoRAConfig given{13, 11, 2};
  given.routing = Routing::given;
  const Index b = set.add("b", std::make_unique<HydraLoRA<float>>(given));
  refused({{b, 5}}, "AdapterSet::forward: 'b' takes its weights from the caller");
}

TEST_CASE("a forward pass that breaks off leaves nothing to go back from") {
  AdapterSet<Forgetful> set;
  const HydraLoRAConfig config{13, 11, 2};
  const Index a = set.add("a", std::make_unique<Forgetful>(config)),
              b = set.add("b", std::make_unique<Forgetful>(config));
  const Matrix<float> x = random_matrix<float>(13, 5, 4), dy = random_matrix<float>(11, 5, 4);
  Matrix<float> y = Matrix<float>::Zero(11, 5), dx = Matrix<float>::Zero(13, 5);
  AdapterSet<Forgetful>::Cache cache;
  const std::vector<AdapterRun> runs{{a, 3}, {b, 2}};
  set.forward(x, y, runs, cache);
  CHECK(cache.tokens() == 5);
  set[b].out_of_memory = true;
  CHECK_THROWS_AS(set.forward(x, y, runs, cache), std::bad_alloc);
  CHECK(cache.tokens() == 0);
  Forgetful::Gradients g(config);
  CHECK(message_of([&] { set.backward(x, dy, cache, {&g, &g}, dx); }) == containing("the cache holds 0 tokens"));
}
