// SPDX-License-Identifier: MIT
#include "problem.hpp"

#include <cmath>
#include <cstdint>
#include <iterator>
#include <list>
#include <random>
#include <utility>

namespace bench {
namespace {

const std::vector<Index> all_tokens{1, 4, 16, 128, 512, 2048}, all_ranks{4, 8, 16, 64}, all_heads{1, 3, 4, 8, 16};
const std::vector<std::pair<Index, Index>> all_features{{256, 256}, {1024, 1024}, {4096, 4096}, {4096, 11008}};

/// Uniform numbers with this standard deviation. std::uniform_real_distribution differs between libraries; the bits of
/// mt19937 do not.
Matrix uniform(Index rows, Index cols, double deviation, std::mt19937& random) {
  const double scale = deviation * std::sqrt(3.0) * 0x1p-31;  // U(−a, a) has the deviation a / √3
  return Matrix::NullaryExpr(rows, cols,
                             [&] { return static_cast<float>(scale * (static_cast<double>(random()) - 0x1p31)); });
}

Problem make(const Shape& s) {
  std::mt19937 random(
      static_cast<std::uint32_t>(s.tokens * 1000003 + s.in * 1009 + s.out * 31 + s.rank * 7 + s.blocks()));
  const double down = 1 / std::sqrt(static_cast<double>(s.in));  // h and the logits are O(1), and so is dx
  const double up = 1 / std::sqrt(static_cast<double>(s.rank));
  Problem p{s, {}, {}, {}, {}, {}};
  p.A = uniform(s.rank, s.in, down, random);
  p.gate = uniform(s.heads, s.in, down, random);
  p.B = uniform(s.out, s.blocks() * s.rank, up, random);
  p.x = uniform(s.in, s.tokens, 1, random);
  p.dy = uniform(s.out, s.tokens, 1, random);
  return p;
}

Index bytes(const Problem& p) {
  return static_cast<Index>(sizeof(float)) * (p.A.size() + p.gate.size() + p.B.size() + p.x.size() + p.dy.size());
}

}  // namespace

std::string Shape::text() const {
  const std::string size = std::to_string(in) + (out == in ? "" : "x" + std::to_string(out));
  return "T:" + std::to_string(tokens) + "/d:" + size + "/r:" + std::to_string(rank) + "/N:" + std::to_string(heads);
}

bool Shape::operator==(const Shape& o) const {
  return tokens == o.tokens && in == o.in && out == o.out && rank == o.rank && heads == o.heads;
}

std::vector<Shape> one_at_a_time() {
  std::vector<Shape> shapes;
  for (const Index tokens : all_tokens) shapes.push_back({tokens, centre.in, centre.out, centre.rank, centre.heads});
  for (const auto& [in, out] : all_features) shapes.push_back({centre.tokens, in, out, centre.rank, centre.heads});
  for (const Index rank : all_ranks) shapes.push_back({centre.tokens, centre.in, centre.out, rank, centre.heads});
  for (const Index heads : all_heads) shapes.push_back({centre.tokens, centre.in, centre.out, centre.rank, heads});
  return shapes;
}

std::vector<Shape> all_combinations() {
  std::vector<Shape> shapes;
  for (const Index tokens : all_tokens) {
    for (const auto& [in, out] : all_features) {
      for (const Index rank : all_ranks) {
        for (const Index heads : all_heads) shapes.push_back({tokens, in, out, rank, heads});
      }
    }
  }
  return shapes;
}

std::shared_ptr<const Problem> problem(const Shape& shape) {
  static std::list<std::shared_ptr<const Problem>> cache;  // the last asked for first
  for (auto entry = cache.begin(); entry != cache.end(); ++entry) {
    if (!(**entry == shape)) continue;
    cache.splice(cache.begin(), cache, entry);
    return cache.front();
  }
  constexpr Index most = Index{2} << 30;
  Index total = 0;
  for (auto entry = cache.begin(); entry != cache.end();) {
    total += bytes(**entry);
    entry = total > most ? cache.erase(entry) : std::next(entry);
  }
  cache.push_front(std::make_shared<Problem>(make(shape)));
  return cache.front();
}

}  // namespace bench
