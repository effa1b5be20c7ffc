// SPDX-License-Identifier: MIT
//
// Which sizes are measured. Names begin with the set they belong to:
//
//   select/  what the preset runs in some minutes
//   sweep/   one size at a time around the centre, the rest of it: --benchmark_filter='^(select|sweep)/'
//   full/    every combination of all sizes: hours
#pragma once

#include "problem.hpp"

#include <string>
#include <vector>

namespace bench {

struct Shape {
  Index tokens, in, out, rank, heads;
};

/// As in names: T:512/d:4096/r:8/N:8, and d:4096x11008 where in and out differ.
inline std::string text(const Shape& s) {
  const std::string out = s.out == s.in ? "" : "x" + std::to_string(s.out);
  return "T:" + std::to_string(s.tokens) + "/d:" + std::to_string(s.in) + out + "/r:" + std::to_string(s.rank) +
         "/N:" + std::to_string(s.heads);
}

inline constexpr Shape centre{512, 4096, 4096, 8, 8};
inline const std::vector<Index> all_tokens{1, 4, 16, 128, 512, 2048}, all_ranks{4, 8, 16, 64},
    all_heads{1, 3, 4, 8, 16};
inline const std::vector<std::pair<Index, Index>> all_features{{256, 256}, {1024, 1024}, {4096, 4096}, {4096, 11008}};

/// The centre with one size changed, for every size.
inline std::vector<Shape> one_at_a_time() {
  std::vector<Shape> shapes;
  for (const Index tokens : all_tokens) {
    shapes.push_back({tokens, centre.in, centre.out, centre.rank, centre.heads});
  }
  for (const auto& [in, out] : all_features) shapes.push_back({centre.tokens, in, out, centre.rank, centre.heads});
  for (const Index rank : all_ranks) shapes.push_back({centre.tokens, centre.in, centre.out, rank, centre.heads});
  for (const Index heads : all_heads) shapes.push_back({centre.tokens, centre.in, centre.out, centre.rank, heads});
  return shapes;
}

inline std::vector<Shape> all_combinations() {
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

}  // namespace bench
