// SPDX-License-Identifier: MIT
#include "problem.hpp"

#include <cmath>
#include <cstdint>
#include <map>
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

std::vector<Shape> one_at_a_time() {
  const auto [t, d, out_d, r, n] = centre;
  std::vector<Shape> shapes;
  for (const Index tokens : {1, 4, 16, 128, 512, 2048}) shapes.push_back({tokens, d, out_d, r, n});
  for (const Index size : {256, 1024, 4096}) shapes.push_back({t, size, size, r, n});
  shapes.push_back({t, 4096, 11008, r, n});
  for (const Index rank : {4, 8, 16, 64}) shapes.push_back({t, d, out_d, rank, n});
  for (const Index heads : {1, 3, 4, 8, 16}) shapes.push_back({t, d, out_d, r, heads});
  return shapes;
}

std::shared_ptr<const Problem> problem(const Shape& shape) {
  static std::map<std::string, std::shared_ptr<const Problem>> cache;
  constexpr Index most = Index{2} << 30;
  Index total = 0;
  for (const auto& [sizes, known] : cache) total += bytes(*known);
  if (total > most) cache.clear();
  auto& found = cache[shape.text()];
  if (found == nullptr) found = std::make_shared<Problem>(make(shape));
  return found;
}

}  // namespace bench
