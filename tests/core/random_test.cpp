// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <hydralora/core/random.hpp>
#include <vector>

using namespace hydralora;

TEST_CASE("Philox4x64-10 gives the known answers of its authors") {
  using Words = std::array<std::uint64_t, 4>;
  const std::uint64_t all = ~std::uint64_t{0};
  CHECK(philox4x64({0, 0, 0, 0}, {0, 0}) ==
        Words{0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b});
  CHECK(philox4x64({all, all, all, all}, {all, all}) ==
        Words{0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0});
  CHECK(philox4x64({0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89},
                   {0x452821e638d01377, 0xbe5466cf34e90c6c}) ==
        Words{0xa528f45403e61d95, 0x38c72dbd566e9788, 0xa5a1610e72fd18b5, 0x57bd43b5e52b7fe6});
}

TEST_CASE("the portable 64-bit product agrees with the wide one") {
  const CounterRandom random(5);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const std::uint64_t a = random.bits(i), b = random.bits(i, 1);
    CHECK(detail::multiply_high_halves(a, b) == detail::multiply_high(a, b));
  }
  const std::uint64_t all = ~std::uint64_t{0};
  CHECK(detail::multiply_high_halves(all, all) == all - 1);
  CHECK(detail::multiply_high_halves(all, 1) == 0);
}

TEST_CASE("uniform, Bernoulli and integers: range, mean, independence of neighbours") {
  const CounterRandom random(42, 3);
  const std::uint64_t n = 200000;
  double sum = 0, square = 0, neighbour = 0;
  std::vector<int> counts(7);
  int heads = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double u = random.uniform(i);
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    sum += u - 0.5;
    square += (u - 0.5) * (u - 0.5);
    neighbour += (u - 0.5) * (random.uniform(i + 1) - 0.5);
    heads += random.bernoulli(0.3, i, 1) ? 1 : 0;
    ++counts[random.below(7, i, 2)];
  }
  const double count = static_cast<double>(n), sigma = 1 / std::sqrt(12.0);
  CHECK(std::abs(sum / count) < 5 * sigma / std::sqrt(count));  // five standard errors of a fixed draw
  CHECK(square / count == doctest::Approx(1.0 / 12).epsilon(0.01));
  CHECK(std::abs(neighbour / count) < 5 * sigma * sigma / std::sqrt(count));
  CHECK(std::abs(heads / count - 0.3) < 5 * std::sqrt(0.21 / count));
  for (const int c : counts) CHECK(std::abs(c / count - 1.0 / 7) < 5 * std::sqrt(6.0 / 49 / count));
  CHECK_FALSE(random.bernoulli(0, 1));
  CHECK(random.bernoulli(1, 1));
  CHECK(random.uniform_between(-2, 3, 9) == std::fma(5.0, random.uniform(9), -2.0));
}

TEST_CASE("normal: log and cosine are libm's to rounding, the distribution is the normal one") {
  const CounterRandom random(1);
  std::vector<double> draws;
  double worst_log = 0, worst_cos = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double u = random.uniform(i, 9) + 0x1p-54;
    worst_log =
        std::max(worst_log, std::abs(detail::portable_log(u) - std::log(u)) / std::max(1e-3, std::abs(std::log(u))));
    worst_cos = std::max(worst_cos, std::abs(detail::portable_cos_turns(random.uniform(i, 8)) -
                                             std::cos(6.283185307179586 * random.uniform(i, 8))));
    draws.push_back(random.normal(i));
  }
  CHECK(worst_log < 1e-15);
  CHECK(worst_cos < 2e-15);  // 2πu is itself rounded inside std::cos's argument
  std::sort(draws.begin(), draws.end());
  double distance = 0;  // Kolmogorov–Smirnov
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const double expected = 0.5 * std::erfc(-draws[i] / std::sqrt(2.0));
    distance =
        std::max(distance, std::abs(expected - (static_cast<double>(i) + 0.5) / static_cast<double>(draws.size())));
  }
  CHECK(distance < 1.63 / std::sqrt(100000.0));  // 1 % critical value
}

TEST_CASE("the same bits on every platform: recorded draws") {
  const CounterRandom random(2026, 1);
  CHECK(random.bits(0) != random.bits(1));
  CHECK(CounterRandom(2026, 2).bits(0) != random.bits(0));
  CHECK(CounterRandom(2027, 1).bits(0) != random.bits(0));
  CHECK(random.bits(5, 6, 7) == philox4x64({1, 6, 7, 0}, {2026, 1})[1]);
  // hexadecimal floats: exact
  CHECK(random.uniform(0) == 0x1.f33900163ec8p-2);
  CHECK(random.normal(0) == -0x1.e003b799dfedp-1);
  CHECK(random.normal(1) == 0x1.1dcbdbac22d47p-2);
  CHECK(random.normal(2, 3, 4) == -0x1.d796329b463edp-2);
}
