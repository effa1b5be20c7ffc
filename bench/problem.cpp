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

const Problem& problem(Index tokens, Index in, Index out, Index rank, Index heads, bool routed) {
  static std::list<Problem> cache;  // the last asked for first; a list, because references into it must stay valid
  for (auto p = cache.begin(); p != cache.end(); ++p) {
    if (p->tokens == tokens && p->in == in && p->out == out && p->rank == rank && p->heads == heads &&
        p->routed == routed) {
      cache.splice(cache.begin(), cache, p);
      return cache.front();
    }
  }
  constexpr Index most = Index{2} << 30;
  Index total = 0;
  for (auto p = cache.begin(); p != cache.end();) {
    total += bytes(*p);
    p = total > most ? cache.erase(p) : std::next(p);
  }
  cache.push_front(make(tokens, in, out, rank, heads, routed));
  return cache.front();
}

}  // namespace bench
