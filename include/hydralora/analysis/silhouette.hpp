// SPDX-License-Identifier: MIT
// How good a clustering is: by its silhouette, or against another labelling of the same samples.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "hydralora/analysis/k_means.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The mean silhouette of a clustering, in [-1, 1]; higher is better. That of a sample is (b − a) / max(a, b), with a
/// the mean distance to the others of its cluster and b that to the nearest other cluster; 0 if it is alone.
/// Source   Rousseeuw 1987, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis".
/// @param points  (features × samples), a column is a sample.
/// @param labels  one per sample, below the number of samples; a negative label (noise) excludes the sample.
/// @return  0 with fewer than two clusters.
/// @throws std::invalid_argument  if the numbers of labels and samples differ, or on a label or number out of range.
/// Cost     3 · features · samples² flop.
template <class Derived>
double silhouette(const Eigen::MatrixBase<Derived>& points, const std::vector<Index>& labels) {
  const Index samples = points.cols();
  expects(static_cast<Index>(labels.size()) == samples, "silhouette: ", labels.size(), " labels of ", samples,
          " samples");
  const Eigen::MatrixXd copy = points.template cast<double>();
  expects(copy.allFinite(), "silhouette: the points are not finite");
  for (const Index label : labels) {
    expects(label < samples, "silhouette: label ", label, " of ", samples, " samples, expected below that");
  }
  const Index clusters = samples == 0 ? 0 : std::max<Index>(0, *std::max_element(labels.begin(), labels.end()) + 1);
  Eigen::VectorXd sizes = Eigen::VectorXd::Zero(clusters);
  for (const Index label : labels) {
    if (label >= 0) sizes[label] += 1;
  }
  if ((sizes.array() > 0).count() < 2) return 0;
  Eigen::VectorXd values = Eigen::VectorXd::Zero(samples);
  detail::for_each_sample(samples, 3 * copy.rows() * samples, [&](Index i) {
    const Index own = labels[static_cast<std::size_t>(i)];
    if (own < 0 || sizes[own] == 1) return;
    Eigen::VectorXd distances = Eigen::VectorXd::Zero(clusters);
    for (Index j = 0; j < samples; ++j) {
      const Index label = labels[static_cast<std::size_t>(j)];
      if (label >= 0) distances[label] += (copy.col(i) - copy.col(j)).norm();
    }
    double nearest = std::numeric_limits<double>::infinity();
    for (Index k = 0; k < clusters; ++k) {
      if (k != own && sizes[k] > 0) nearest = (std::min)(nearest, distances[k] / sizes[k]);
    }
    const double within = distances[own] / (sizes[own] - 1), larger = (std::max)(within, nearest);
    values[i] = larger > 0 ? (nearest - within) / larger : 0;
  });
  return values.sum() / sizes.sum();
}

/// The silhouettes of k-means with k = 1 … max_clusters clusters at [k - 1], 0 for k = 1. Arguments as in sse_curve().
template <class Derived>
std::vector<double> silhouette_curve(const Eigen::MatrixBase<Derived>& points, Index max_clusters,
                                     KMeansConfig config = {}) {
  const Eigen::MatrixXd copy = detail::kmeans_points("silhouette_curve", points, max_clusters, config);
  std::vector<double> values;
  for (config.clusters = 1; config.clusters <= max_clusters; ++config.clusters) {
    values.push_back(silhouette(copy, detail::best_of_restarts(copy, config).labels));
  }
  return values;
}

/// How alike two labellings of the same samples are: 1 = the same clusters, about 0 = as by chance. For a router: the
/// true components against the head with the largest weight.
/// Source   Hubert and Arabie 1985, "Comparing partitions".
/// @param a, b  one label per sample, 0 … 9999.
/// @return  1 for fewer than two samples, if both are one cluster, or if in both every sample is its own cluster.
/// @throws std::invalid_argument  if the sizes differ, or on another label.
inline double adjusted_rand_index(const std::vector<Index>& a, const std::vector<Index>& b) {
  constexpr Index most_labels = 10000;  // rows and columns of the table of both
  expects(a.size() == b.size(), "adjusted_rand_index: ", a.size(), " and ", b.size(), " labels");
  for (const std::vector<Index>* labels : {&a, &b}) {
    for (const Index label : *labels) {
      expects(label >= 0 && label < most_labels, "adjusted_rand_index: label ", label, ", expected in [0, ",
              most_labels, ")");
    }
  }
  if (a.size() < 2) return 1;
  Eigen::MatrixXd shared =
      Eigen::MatrixXd::Zero(*std::max_element(a.begin(), a.end()) + 1, *std::max_element(b.begin(), b.end()) + 1);
  for (std::size_t i = 0; i < a.size(); ++i) shared(a[i], b[i]) += 1;
  const auto pairs = [](const auto& counts) { return (counts.array() * (counts.array() - 1) / 2).sum(); };
  const double both = pairs(shared), in_a = pairs(shared.rowwise().sum().eval()),
               in_b = pairs(shared.colwise().sum().eval());
  const auto samples = static_cast<double>(a.size());
  const double by_chance = in_a * in_b / (samples * (samples - 1) / 2), most = (in_a + in_b) / 2;
  return most == by_chance ? 1 : (both - by_chance) / (most - by_chance);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
