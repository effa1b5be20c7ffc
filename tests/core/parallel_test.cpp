// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cfenv>
#include <hydralora/core/parallel.hpp>
#include <hydralora/core/workspace.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/threads.hpp"

using namespace hydralora;

TEST_CASE("parallel_for calls every index once, on any number of threads") {
  for (const int threads : support::thread_counts) {
    const support::Threads use(threads);
    for (const Index count : {0, 1, 2, 3, 17, 1000}) {
      std::vector<int> calls(static_cast<std::size_t>(count));
      parallel_for(count, parallel_work_minimum, [&](Index i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const int c : calls) CHECK(c == 1);
    }
  }
}

TEST_CASE("parallel_for rethrows the exception of the lowest index") {
  for (const int threads : support::thread_counts) {
    const support::Threads use(threads);
    std::string message;
    try {
      parallel_for(100, parallel_work_minimum, [&](Index i) {
        if (i % 30 == 29) throw std::runtime_error(std::to_string(i));
      });
    } catch (const std::runtime_error& e) {
      message = e.what();
    }
    CHECK(message == "29");
  }
}

TEST_CASE("workers run in the caller's rounding mode") {
  const support::Threads use(2);
  std::fesetround(FE_UPWARD);
  std::vector<int> modes(8);
  parallel_for(8, parallel_work_minimum, [&](Index i) { modes[static_cast<std::size_t>(i)] = std::fegetround(); });
  std::fesetround(FE_TONEAREST);
  for (const int mode : modes) CHECK(mode == FE_UPWARD);
}

TEST_CASE("scratch frames nest, keep earlier memory valid while they grow, and hand out aligned memory") {
  ScratchFrame outer;
  double* first = outer.take<double>(10);
  first[9] = 1.5;
  {
    ScratchFrame inner;
    float* big = inner.take<float>(1000000);
    big[999999] = 2;
    CHECK(reinterpret_cast<std::uintptr_t>(big) % 64 == 0);
    CHECK(first[9] == 1.5);
  }
  double* second = outer.take<double>(10);
  CHECK(second != first);
  CHECK(first[9] == 1.5);
  CHECK_THROWS_AS(outer.take<double>(std::numeric_limits<Index>::max() / 2), std::invalid_argument);
}
