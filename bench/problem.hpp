// SPDX-License-Identifier: MIT
//
// The numbers that every candidate computes on, and which sizes are measured. Names begin with the set they belong to:
//
//   select/  what the preset runs in some minutes
//   sweep/   one size at a time around the centre, the rest of it: --benchmark_filter='^(select|sweep)/'
//   bits/    float and 16 bits
#pragma once

#include <Eigen/Core>
#include <memory>
#include <string>
#include <vector>

namespace bench {

using Index = Eigen::Index;
using Matrix = Eigen::MatrixXf;

/// HydraLoRA of these sizes, or LoRA where heads == 0.
struct Shape {
  Index tokens, in, out, rank, heads;

  bool routed() const { return heads > 0; }
  Index blocks() const { return routed() ? heads : 1; }  ///< how many B there are
  /// As in names: T:512/d:4096/r:8/N:8, and d:4096x11008 where in and out differ.
  std::string text() const;
};

inline constexpr Shape centre{512, 4096, 4096, 8, 8};
/// The centre with one size changed, for every size.
std::vector<Shape> one_at_a_time();

/// One adapter and one batch.
struct Problem : Shape {
  static constexpr float scaling = 2;
  Matrix A, gate, B;  // rank × in, heads × in, out × blocks·rank  = [B_1 … B_N]
  Matrix x, dy;       // in × tokens, out × tokens
};

/// Cached; seeded values of magnitudes that make y and dx O(1). The cache forgets all once it holds more than 2 GB, so
/// that a sweep does not fill the memory.
std::shared_ptr<const Problem> problem(const Shape& shape);

}  // namespace bench
