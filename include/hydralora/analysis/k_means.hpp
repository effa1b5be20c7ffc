// SPDX-License-Identifier: MIT
// k-means, its error over the number of clusters, and the elbow of that curve.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/random.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

struct KMeansConfig {
  Index clusters = 1;        ///< 1 … samples
  int restarts = 8;          ///< runs from different initial centroids; the result is the one with the smallest error
  int max_iterations = 100;  ///< per run
  std::uint64_t seed = 0;
};

struct KMeansResult {
  Eigen::MatrixXd centroids;  ///< (features × clusters)
  std::vector<Index> labels;  ///< nearest centroid of every sample; of equally near ones the lower
  double sse = 0;             ///< sum over the samples of the squared distance to that centroid
  int iterations = 0;         ///< of the run with the smallest error
};

namespace detail {

/// Calls f(i) for every sample, in blocks across threads.
template <class Function>
void for_each_sample(Index samples, Index flop_per_sample, Function&& f) {
  parallel_chunks(samples, 64, samples * flop_per_sample, [&](Index begin, Index count) {
    for (Index i = begin; i < begin + count; ++i) f(i);
  });
}

/// The label and the squared distance of every sample.
inline void assign_samples(const Eigen::MatrixXd& points, const Eigen::MatrixXd& centroids, std::vector<Index>& labels,
                           Eigen::VectorXd& distances) {
  for_each_sample(points.cols(), 3 * points.rows() * centroids.cols(), [&](Index i) {
    Index nearest = 0;
    double smallest = (points.col(i) - centroids.col(0)).squaredNorm();
    for (Index k = 1; k < centroids.cols(); ++k) {
      const double distance = (points.col(i) - centroids.col(k)).squaredNorm();
      if (distance < smallest) {  // of equally near centroids the lower
        smallest = distance;
        nearest = k;
      }
    }
    labels[static_cast<std::size_t>(i)] = nearest;
    distances[i] = smallest;
  });
}

/// Gives every empty cluster the sample farthest from its centroid (ties to the lower sample). With fewer distinct
/// points than clusters a cluster may stay empty.
inline void fill_empty_clusters(std::vector<Index>& labels, Eigen::VectorXd& distances, std::vector<Index>& counts) {
  for (std::size_t k = 0; k < counts.size(); ++k) {
    if (counts[k] > 0) continue;
    Index farthest = 0;
    const double distance = distances.maxCoeff();
    while (distances[farthest] != distance) ++farthest;
    Index& label = labels[static_cast<std::size_t>(farthest)];
    if (distance == 0 || counts[static_cast<std::size_t>(label)] == 1) continue;
    --counts[static_cast<std::size_t>(label)];
    label = static_cast<Index>(k);
    counts[k] = 1;
    distances[farthest] = 0;
  }
}

/// Lloyd's iteration until no label changes. The labels and the error belong to the centroids returned.
inline KMeansResult lloyd(const Eigen::MatrixXd& points, Eigen::MatrixXd centroids, int max_iterations) {
  const Index samples = points.cols(), clusters = centroids.cols();
  KMeansResult result{std::move(centroids), std::vector<Index>(static_cast<std::size_t>(samples)), 0, 0};
  Eigen::VectorXd distances(samples);
  std::vector<Index> counts(static_cast<std::size_t>(clusters)), previous;
  Eigen::MatrixXd sums(points.rows(), clusters);
  assign_samples(points, result.centroids, result.labels, distances);
  while (result.iterations < max_iterations && result.labels != previous) {
    std::fill(counts.begin(), counts.end(), 0);
    for (const Index label : result.labels) ++counts[static_cast<std::size_t>(label)];
    fill_empty_clusters(result.labels, distances, counts);
    sums.setZero();
    for (Index i = 0; i < samples; ++i) sums.col(result.labels[static_cast<std::size_t>(i)]) += points.col(i);
    for (Index k = 0; k < clusters; ++k) {
      const Index count = counts[static_cast<std::size_t>(k)];
      if (count > 0) result.centroids.col(k) = sums.col(k) / static_cast<double>(count);
    }
    previous = result.labels;
    assign_samples(points, result.centroids, result.labels, distances);
    ++result.iterations;
  }
  for (Index i = 0; i < samples; ++i) result.sse += distances[i];
  return result;
}

/// k-means++: a random sample, then each with probability ∝ its squared distance to the nearest centroid so far.
inline Eigen::MatrixXd seed_centroids(const Eigen::MatrixXd& points, Index clusters, const CounterRandom& random) {
  const Index samples = points.cols();
  Eigen::MatrixXd centroids(points.rows(), clusters);
  Eigen::VectorXd distances = Eigen::VectorXd::Constant(samples, std::numeric_limits<double>::infinity());
  auto chosen = static_cast<Index>(random.below(static_cast<std::uint64_t>(samples), 0));
  for (Index k = 0;; ++k) {
    centroids.col(k) = points.col(chosen);
    if (k + 1 == clusters) return centroids;
    for_each_sample(samples, 3 * points.rows(), [&](Index i) {
      distances[i] = (std::min)(distances[i], (points.col(i) - centroids.col(k)).squaredNorm());
    });
    double total = 0;
    for (Index i = 0; i < samples; ++i) total += distances[i];
    const double target = total * random.uniform(static_cast<std::uint64_t>(k) + 1);
    double sum = 0;
    chosen = 0;  // if every sample lies on a centroid
    for (Index i = 0; i < samples && sum <= target; ++i) {
      if (distances[i] > 0) chosen = i;
      sum += distances[i];
    }
  }
}

inline KMeansResult best_of_restarts(const Eigen::MatrixXd& points, const KMeansConfig& config) {
  KMeansResult best;
  for (int restart = 0; restart < config.restarts; ++restart) {
    const CounterRandom random(config.seed, static_cast<std::uint64_t>(restart));
    KMeansResult run = lloyd(points, seed_centroids(points, config.clusters, random), config.max_iterations);
    if (restart == 0 || run.sse < best.sse) best = std::move(run);
  }
  return best;
}

/// Checks the arguments. @return the points in double.
template <class Derived>
Eigen::MatrixXd kmeans_points(const char* where, const Eigen::MatrixBase<Derived>& points, Index clusters,
                              const KMeansConfig& config) {
  const Shape shape{points.rows(), points.cols()};
  expects(shape.rows > 0 && shape.cols > 0, where, ": points is ", shape,
          ", expected at least 1x1 (features x samples)");
  expects(clusters >= 1 && clusters <= shape.cols, where, ": ", clusters, " clusters, expected in [1, ", shape.cols,
          "] (samples)");
  expects(config.restarts >= 1, where, ": restarts is ", config.restarts, ", expected >= 1");
  expects(config.max_iterations >= 1, where, ": max_iterations is ", config.max_iterations, ", expected >= 1");
  Eigen::MatrixXd result = points.template cast<double>();
  for (Index i = 0; i < shape.cols; ++i) {
    for (Index feature = 0; feature < shape.rows; ++feature) {
      expects(std::isfinite(result(feature, i)), where, ": feature ", feature, " of sample ", i, " is ",
              result(feature, i));
    }
  }
  const double squares = result.squaredNorm();
  expects(std::isfinite(4 * static_cast<double>(shape.cols) * squares), where,
          ": squared distances overflow (the points' sum of squares is ", squares, ")");
  return result;
}

}  // namespace detail

/// k-means: centroids c and labels l with a small error  SSE = Σ_i ‖x_i - c_l(i)‖².
/// Source   Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding"; Lloyd 1982, "Least squares
///          quantization in PCM". The result is a local minimum, the best of config.restarts runs.
/// @param points  (features × samples), a column is a sample; read, copied once into double.
/// @return  A cluster is empty only with fewer distinct points than clusters, or where max_iterations ended the run.
/// @throws std::invalid_argument  on no points, a number that is not finite or so large that squared distances
///          overflow, clusters outside [1, samples], restarts < 1, max_iterations < 1.
/// Cost     3 · features · samples · clusters flop per iteration and restart.
/// Numerics the same bits for the same seed, on any number of threads; not for all instruction sets.
template <class Derived>
KMeansResult kmeans(const Eigen::MatrixBase<Derived>& points, const KMeansConfig& config) {
  return detail::best_of_restarts(detail::kmeans_points("kmeans", points, config.clusters, config), config);
}

/// SSE of k-means for k = 1 … max_clusters clusters at result[k - 1]. config.clusters is not read.
template <class Derived>
std::vector<double> sse_curve(const Eigen::MatrixBase<Derived>& points, Index max_clusters, KMeansConfig config = {}) {
  const Eigen::MatrixXd copy = detail::kmeans_points("sse_curve", points, max_clusters, config);
  std::vector<double> sse;
  for (config.clusters = 1; config.clusters <= max_clusters; ++config.clusters) {
    sse.push_back(detail::best_of_restarts(copy, config).sse);
  }
  return sse;
}

/// The number of clusters at the elbow of a curve sse[k - 1] = SSE(k), k = 1 … K: the k whose point lies farthest below
/// the chord from (1, SSE(1)) to (K, SSE(K)), both axes scaled to [0, 1]; ties (to within 1e-12) to the lower k.
/// Source   Satopaa et al. 2011, "Finding a 'kneedle' in a haystack", without its smoothing.
/// @return  k in [1, K]. 1 means no elbow: the curve is flat, rises, or lies nowhere below its chord. K must exceed the
///          number of clusters sought. Where some clusters lie much farther apart than others, k is too small.
/// @throws std::invalid_argument  on an empty curve, and on values that are negative or not finite.
inline Index elbow(const std::vector<double>& sse) {
  expects(!sse.empty(), "elbow: the curve has 0 values, expected at least 1");
  for (std::size_t i = 0; i < sse.size(); ++i) {
    expects(sse[i] >= 0 && std::isfinite(sse[i]), "elbow: SSE(", i + 1, ") is ", sse[i], ", expected finite and >= 0");
  }
  constexpr double rounding = 1e-12;
  const double fall = sse.front() - sse.back();
  if (fall <= rounding * sse.front()) return 1;
  std::size_t best = 0;
  double farthest = 0;
  for (std::size_t i = 1; i + 1 < sse.size(); ++i) {
    const double right = static_cast<double>(i) / static_cast<double>(sse.size() - 1);
    const double down = (sse.front() - sse[i]) / fall;
    if (down - right > farthest + rounding) {  // √2 times the distance to the chord
      farthest = down - right;
      best = i;
    }
  }
  return static_cast<Index>(best) + 1;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
