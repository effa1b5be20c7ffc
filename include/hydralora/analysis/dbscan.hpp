// SPDX-License-Identifier: MIT
// Clusters by density. Unlike k-means (k_means.hpp) it needs no number of clusters.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "hydralora/analysis/k_means.hpp"
#include "hydralora/core/expects.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

struct DbscanResult {
  std::vector<Index> labels;  ///< cluster of every sample, numbered by their first core sample; −1 = noise
  Index clusters = 0;         ///< without noise
};

/// A sample with at least min_samples samples (itself among them) within `radius` is a core. Cores within `radius` of
/// each other form a cluster with all samples within `radius` of one. A sample near two clusters belongs to the first.
/// Source   Ester, Kriegel, Sander, Xu 1996, "A density-based algorithm for discovering clusters".
/// @param points  (features × samples), a column is a sample.
/// @throws std::invalid_argument  where radius is not above 0 and finite, min_samples < 1, or a number is not finite.
/// Cost     up to 6 · features · samples² flop, no index.
template <class Derived>
DbscanResult dbscan(const Eigen::MatrixBase<Derived>& points, double radius, Index min_samples) {
  expects(radius > 0 && std::isfinite(radius), "dbscan: radius is ", radius, ", expected finite and above 0");
  expects(min_samples >= 1, "dbscan: min_samples is ", min_samples, ", expected >= 1");
  const Eigen::MatrixXd copy = points.template cast<double>();
  expects(copy.allFinite(), "dbscan: the points are not finite");
  const Index samples = copy.cols();
  const auto are_near = [&](Index i, Index j) { return (copy.col(i) - copy.col(j)).squaredNorm() <= radius * radius; };
  std::vector<char> core(static_cast<std::size_t>(samples));
  detail::for_each_sample(samples, 3 * copy.rows() * samples, [&](Index i) {
    Index neighbours = 0;
    for (Index j = 0; j < samples; ++j) neighbours += are_near(i, j) ? 1 : 0;
    core[static_cast<std::size_t>(i)] = neighbours >= min_samples ? 1 : 0;
  });
  DbscanResult result{std::vector<Index>(static_cast<std::size_t>(samples), -1), 0};
  std::vector<Index> front;
  for (Index first = 0; first < samples; ++first) {
    if (core[static_cast<std::size_t>(first)] == 0 || result.labels[static_cast<std::size_t>(first)] >= 0) continue;
    result.labels[static_cast<std::size_t>(first)] = result.clusters;
    front.assign(1, first);
    while (!front.empty()) {
      const Index i = front.back();
      front.pop_back();
      for (Index j = 0; j < samples; ++j) {
        Index& label = result.labels[static_cast<std::size_t>(j)];
        if (label >= 0 || !are_near(i, j)) continue;
        label = result.clusters;
        if (core[static_cast<std::size_t>(j)] != 0) front.push_back(j);
      }
    }
    ++result.clusters;
  }
  return result;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
