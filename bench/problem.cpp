// SPDX-License-Identifier: MIT
#include "problem.hpp"

#include <cmath>
#include <cstdint>
#include <list>
#include <random>

namespace bench {
namespace {

/// Uniform numbers with this standard deviation. std::uniform_real_distribution differs between libraries; the bits of
/// mt19937 do not.
Matrix uniform(Index rows, Index cols, double deviation, std::mt19937& random) {
  const double scale = deviation * std::sqrt(3.0) * 0x1p-31;  // U(−a, a) has the deviation a / √3
  return Matrix::NullaryExpr(rows, cols,
                             [&] { return static_cast<float>(scale * (static_cast<double>(random()) - 0x1p31)); });
}

Problem make(Index tokens, Index in, Index out, Index rank, Index heads, bool routed) {
  std::mt19937 random(static_cast<std::uint32_t>(tokens * 1000003 + in * 1009 + out * 31 + rank * 7 + heads));
  const double down = 1 / std::sqrt(static_cast<double>(in));  // h and the logits are O(1), and so is dx
  const double up = 1 / std::sqrt(static_cast<double>(rank));
  Problem p{tokens, in, out, rank, heads, routed, 2.0F, {}, {}, {}, {}, {}};
  p.A = uniform(rank, in, down, random);
  p.gate = uniform(routed ? heads : 0, in, down, random);
  p.B = uniform(out, heads * rank, up, random);
  p.x = uniform(in, tokens, 1, random);
  p.dy = uniform(out, tokens, 1, random);
  return p;
}

Index bytes(const Problem& p) {
  return static_cast<Index>(sizeof(float)) * (p.A.size() + p.gate.size() + p.B.size() + p.x.size() + p.dy.size());
}

}  // namespace

std::shared_ptr<const Problem> shared_problem(Index tokens, Index in, Index out, Index rank, Index heads, bool routed) {
  static std::list<std::shared_ptr<const Problem>> cache;  // the last asked for first
  for (auto entry = cache.begin(); entry != cache.end(); ++entry) {
    const Problem& p = **entry;
    if (p.tokens == tokens && p.in == in && p.out == out && p.rank == rank && p.heads == heads && p.routed == routed) {
      cache.splice(cache.begin(), cache, entry);
      return cache.front();
    }
  }
  constexpr Index most = Index{2} << 30;
  Index total = 0;
  for (auto entry = cache.begin(); entry != cache.end();) {
    total += bytes(**entry);
    entry = total > most ? cache.erase(entry) : std::next(entry);
  }
  cache.push_front(std::make_shared<Problem>(make(tokens, in, out, rank, heads, routed)));
  return cache.front();
}

const Problem& problem(Index tokens, Index in, Index out, Index rank, Index heads, bool routed) {
  return *shared_problem(tokens, in, out, rank, heads, routed);
}

}  // namespace bench
