// SPDX-License-Identifier: MIT
#include "studies/scenes.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "hydralora/core/random.hpp"
#include "studies/mean_interval.hpp"

namespace {

using namespace finetune;

constexpr Index context = 8;

/// Two texts in which every place can be told from its bytes.
struct Fixture {
  Fixture() {
    const hydralora::CounterRandom random(1, 2);
    for (std::size_t which = 0; which < 2; ++which) {
      for (std::uint64_t i = 0; i < 3 * 20480; ++i) {
        texts[which] += static_cast<char>('a' + random.below(20, i, which));
      }
      splits[which] = split_positions(texts[which], static_cast<int>(context), 3);
    }
  }
  std::vector<Part> parts() const {
    return {{"one", &texts[0], &splits[0], tasks()[0]}, {"two", &texts[1], &splits[1], tasks()[1]}};
  }
  /// Where in its text the bytes of an example are, found by looking for them.
  std::size_t position(const Batch& batch, Index t) const {
    const auto part = static_cast<std::size_t>(batch.parts[static_cast<std::size_t>(t)]);
    std::string bytes;
    for (Index i = 1; i < context; ++i) bytes += static_cast<char>(batch.contexts(i, t));
    const std::size_t found = texts[part].find(bytes);
    REQUIRE(found != std::string::npos);
    REQUIRE(texts[part].find(bytes, found + 1) == std::string::npos);  // seven of 20 letters: rarely twice
    return found + static_cast<std::size_t>(context) - 1;
  }

  std::array<std::string, 2> texts;
  std::array<Split, 2> splits;
};

}  // namespace

TEST_CASE("mixture: an example is an instruction, the text before a byte, and that byte as its task writes it") {
  const Fixture f;
  const Mixture mixture(f.parts(), context, 5, finetuning_stream);
  const RunMixture single(f.parts(), context, 5, finetuning_stream, {});
  Batch batch, again;
  mixture.sample(7, 200, batch);
  mixture.sample(7, 200, again);
  CHECK(batch.contexts == again.contexts);
  CHECK(batch.targets == again.targets);
  mixture.sample(8, 200, again);
  CHECK(batch.contexts != again.contexts);
  single.sample(7, 200, again);  // runs of one example are the same mixture
  CHECK(batch.contexts == again.contexts);
  CHECK(batch.targets == again.targets);
  CHECK(batch.parts == again.parts);
  CHECK(again.segments == std::vector<Index>(200, 1));
  CHECK(single.held_out(1, &Split::test, 160).contexts == mixture.held_out(1, &Split::test, 160).contexts);
  std::set<Index> parts;
  for (Index t = 0; t < 200; ++t) {
    const auto part = static_cast<std::size_t>(batch.parts[static_cast<std::size_t>(t)]);
    parts.insert(static_cast<Index>(part));
    const std::size_t at = f.position(batch, t);
    CHECK(batch.contexts(0, t) == tasks()[part].marker);
    CHECK(batch.targets[static_cast<std::size_t>(t)] ==
          tasks()[part].apply(static_cast<unsigned char>(f.texts[part][at])));
    CHECK(std::binary_search(f.splits[part].train.begin(), f.splits[part].train.end(), static_cast<std::uint32_t>(at)));
  }
  CHECK(parts.size() == 2);
}

TEST_CASE("mixture: runs of one part, in a row or apart, in training and held out") {
  const Fixture f;
  for (const bool consecutive : {true, false}) {
    CAPTURE(consecutive);
    const RunMixture mixture(f.parts(), context, 5, finetuning_stream, {16, consecutive});
    Batch batch;
    mixture.sample(3, 200, batch);
    CHECK(batch.segments.size() == 13);
    CHECK(std::accumulate(batch.segments.begin(), batch.segments.end(), Index(0)) == 200);
    CHECK(batch.segments.back() == 8);
    for (const Batch& b : {batch, mixture.held_out(1, &Split::test, 160)}) {
      Index in_a_row = 0, close = 0, compared = 0;
      for (Index t = 1; t < b.contexts.cols(); ++t) {
        if (t % 16 == 0) continue;
        ++compared;
        CHECK(b.parts[static_cast<std::size_t>(t)] == b.parts[static_cast<std::size_t>(t - 1)]);
        const auto here = static_cast<Index>(f.position(b, t)), before = static_cast<Index>(f.position(b, t - 1));
        in_a_row += here == before + 1 ? 1 : 0;
        close += std::abs(here - before) < context ? 1 : 0;
      }
      if (consecutive) {
        CHECK(in_a_row >= compared * 95 / 100);  // not at the edge of a block
      } else {
        CHECK(close <= compared / 50);  // no input holds a neighbour's answer, but by chance
      }
    }
    const Batch held_out = mixture.held_out(1, &Split::test, 160);
    CHECK(held_out.contexts.cols() == 160);
    std::set<std::size_t> positions;
    for (Index t = 0; t < 160; ++t) {
      positions.insert(f.position(held_out, t));
      CHECK(held_out.parts[static_cast<std::size_t>(t)] == 1);
    }
    CHECK(positions.size() == 160);
  }
}

TEST_CASE("mixture: a task that rewrites only the front of the alphabet") {
  const auto rewritten = [&](int letters) {
    const Task mirror = limited(tasks()[3], letters);
    std::string text = "abmzABMZ09!@[`{/";
    for (char& c : text) c = static_cast<char>(mirror.apply(static_cast<unsigned char>(c)));
    return text;
  };
  CHECK(rewritten(26) == "zynaZYNA90!@[`{/");
  CHECK(rewritten(13) == "zynzZYNZ09!@[`{/");
  CHECK(rewritten(1) == "zbmzZBMZ09!@[`{/");
  CHECK(rewritten(0) == "abmzABMZ09!@[`{/");
}

TEST_CASE("mean_interval: the mean and Student's interval") {
  CHECK(MeanInterval({2}).text(3) == "2.000");
  CHECK(MeanInterval({1, 2, 3}).mean == 2);
  CHECK(MeanInterval({1, 2, 3}).half_width == doctest::Approx(4.303 / std::sqrt(3.0)).epsilon(1e-6));
  CHECK(MeanInterval({1, 2, 3, 4, 5}).text(2, true) == "+3.00 ± 1.96");
  CHECK(MeanInterval({-1, -1}).text(1, true) == "-1.0");
}
