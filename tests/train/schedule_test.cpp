// SPDX-License-Identifier: MIT
#include "hydralora/train/schedule.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "support/errors.hpp"

using hydralora::cosine_schedule;

TEST_CASE("the schedule at its end points and in the middle") {
  CHECK(cosine_schedule(0, 100) == 1);
  CHECK(cosine_schedule(50, 100) == doctest::Approx(0.5).epsilon(1e-15));
  CHECK(cosine_schedule(100, 100) == 0);
  CHECK(cosine_schedule(std::numeric_limits<std::int64_t>::max(), 100, 10, 0.1) == 0.1);
  CHECK(cosine_schedule(0, 100, 10) == doctest::Approx(0.1));
  CHECK(cosine_schedule(9, 100, 10) == 1);
  CHECK(cosine_schedule(10, 100, 10) == 1);
  CHECK(cosine_schedule(55, 100, 10, 0.2) == doctest::Approx(0.6).epsilon(1e-15));
  CHECK(cosine_schedule(3, 5, 5) == doctest::Approx(0.8));  // warm-up all the way
  CHECK(cosine_schedule(5, 5, 5) == 0);
  CHECK(cosine_schedule(0, 1) == 1);
}

TEST_CASE("the schedule is the formula, rises, then falls, and stays in [0, 1]") {
  constexpr std::int64_t total = 1000, warmup = 30;
  const double pi = std::acos(-1.0);
  for (const double final_fraction : {0.0, 0.1, 1e-20, 1.0}) {
    CAPTURE(final_fraction);
    for (std::int64_t step = 0; step < total + 5; ++step) {
      CAPTURE(step);
      const double now = cosine_schedule(step, total, warmup, final_fraction);
      const double next = cosine_schedule(step + 1, total, warmup, final_fraction);
      CHECK(now >= 0);
      CHECK(now <= 1);
      if (step + 1 < warmup) {
        CHECK(next > now);
      } else if (step >= warmup && step < total) {
        const double progress = static_cast<double>(step - warmup) / (total - warmup);
        CHECK(std::abs(now - (final_fraction + (1 - final_fraction) * 0.5 * (1 + std::cos(pi * progress)))) < 1e-15);
        CHECK((next < now || final_fraction == 1));
      } else {
        CHECK(next <= now);
      }
    }
  }
}

TEST_CASE("the schedule refuses what makes no sense, and says which values") {
  const auto refused = [](std::int64_t step, std::int64_t total, std::int64_t warmup, double final_fraction) {
    return support::message_of([&] { cosine_schedule(step, total, warmup, final_fraction); });
  };
  using support::containing;
  CHECK_THROWS_AS(cosine_schedule(-1, 10), std::invalid_argument);
  CHECK(refused(-4, 10, 0, 0) == containing("-4"));
  CHECK(refused(0, 0, 0, 0) == containing("total_steps is 0"));
  CHECK(refused(0, 10, 11, 0) == containing("warmup_steps is 11, expected in [0, 10]"));
  CHECK(refused(0, 10, -2, 0) == containing("-2"));
  CHECK(refused(0, 10, 0, 1.5) == containing("1.5"));
  CHECK(refused(0, 10, 0, std::nan("")) == containing("nan"));
}
