// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cfenv>
#include <hydralora/core/parallel.hpp>
#include <hydralora/core/workspace.hpp>

#include "support/errors.hpp"
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

TEST_CASE("parallel_for tells a function that asks on which of parallel_threads() threads it runs") {
  for (const int threads : support::thread_counts) {
    const support::Threads use(threads);
    for (const Index count : {0, 1, 3, 1000}) {
      for (const Index work : {Index(1), parallel_work_minimum}) {
        const Index most = parallel_threads(count, work);
#if defined(_OPENMP)
        CHECK(most == (work == 1 ? 1 : std::clamp<Index>(count, 1, threads)));
#else
        CHECK(most == 1);
#endif
        std::vector<std::vector<Index>> calls(static_cast<std::size_t>(most));  // by thread: no two write to the same
        parallel_for(count, work,
                     [&](Index i, Index thread) { calls.at(static_cast<std::size_t>(thread)).push_back(i); });
        std::vector<Index> all;
        for (const auto& own : calls) all.insert(all.end(), own.begin(), own.end());
        std::sort(all.begin(), all.end());
        CHECK(all.size() == static_cast<std::size_t>(count));
        for (Index i = 0; i < count; ++i) CHECK(all[static_cast<std::size_t>(i)] == i);
      }
    }
  }
}

TEST_CASE("parallel_for rethrows the exception of the lowest index") {
  for (const int threads : support::thread_counts) {
    const support::Threads use(threads);
    const auto fail = [](Index i) {
      if (i % 30 == 29) throw std::runtime_error(std::to_string(i));
    };
    CHECK(support::message_of<std::runtime_error>([&] { parallel_for(100, parallel_work_minimum, fail); }) == "29");
  }
}

TEST_CASE("workers run in the caller's rounding mode") {
  const support::Threads use(2);
  parallel_for(2, parallel_work_minimum, [](Index) {});  // a thread is born with its maker's mode: make both first
  std::fesetround(FE_UPWARD);
  std::vector<int> modes(8);
  parallel_for(8, parallel_work_minimum, [&](Index i) { modes[static_cast<std::size_t>(i)] = std::fegetround(); });
  std::fesetround(FE_TONEAREST);
  for (const int mode : modes) CHECK(mode == FE_UPWARD);
}

TEST_CASE("workers get their own floating-point mode back") {
#if defined(_OPENMP)
  const support::Threads use(4);
  parallel_for(4, parallel_work_minimum, [](Index) {});  // as above
  std::fesetround(FE_UPWARD);
  parallel_for(8, parallel_work_minimum, [](Index) {});
  std::fesetround(FE_TONEAREST);
  std::vector<int> modes(4, -1);
#pragma omp parallel num_threads(4)
  modes[static_cast<std::size_t>(omp_get_thread_num())] = std::fegetround();
  for (const int mode : modes) CHECK((mode == FE_TONEAREST || mode == -1));
#endif
}

TEST_CASE("scratch that took several blocks is one block the next time") {
  const Index count = 400000;  // more than this program took before
  {
    ScratchFrame frame;
    frame.take<double>(count);
    frame.take<double>(2 * count);
  }
  ScratchFrame frame;
  const double* first = frame.take<double>(count);
  CHECK(frame.take<double>(2 * count) == first + count);
}

TEST_CASE("scratch frames nest, keep earlier memory valid while they grow, and hand out aligned memory") {
  { ScratchFrame().take<float>(1000); }  // a block that holds the next two
  ScratchFrame outer;
  outer.take<float>(3);  // no multiple of anything
  double* first = outer.take<double>(10);
  CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
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
