// SPDX-License-Identifier: MIT
// Exact t-SNE: a picture of some hundred points that shows neighbours. Distances between groups mean little, and
// another seed gives another picture: see principal_components() (similarity.hpp) first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/random.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

struct TsneConfig {
  double perplexity = 30;  ///< about how many neighbours a point has, in [1, samples − 1)
  int iterations = 1000;   ///< of gradient descent
  std::uint64_t seed = 0;
};

struct TsneResult {
  Eigen::MatrixXd coordinates;  ///< (2 × samples), centred
  double divergence = 0;        ///< KL(P ‖ Q) at the end, in nats
};

namespace detail {

/// P of the paper's equations (1) and (10): Gaussian neighbourhoods with the given perplexity, symmetric, with sum 1.
inline Eigen::MatrixXd tsne_neighbours(const Eigen::MatrixXd& points, double perplexity) {
  const Index samples = points.cols();
  Eigen::MatrixXd p(samples, samples);  // column i: p_{j|i}
  parallel_for(samples, samples * samples * (3 * points.rows() + 600), [&](Index i) {
    Eigen::VectorXd squares = (points.colwise() - points.col(i)).colwise().squaredNorm();
    squares[i] = std::numeric_limits<double>::infinity();
    const double nearest = squares.minCoeff();  // subtracted below, so that not all exponentials are 0
    const double all = squares.head(i).sum() + squares.tail(samples - 1 - i).sum();
    double low = 0, high = std::numeric_limits<double>::infinity(), precision = 1;
    if (all > 0) precision = static_cast<double>(samples) / all;
    for (int step = 0; step < 200; ++step) {  // bisection on 1 / 2σ²
      p.col(i) = (-(squares.array() - nearest) * precision).exp();
      p(i, i) = 0;  // Eigen's exp(−∞) is not exactly 0
      p.col(i) /= p.col(i).sum();
      double entropy = 0;
      for (Index j = 0; j < samples; ++j) entropy -= p(j, i) > 0 ? p(j, i) * std::log(p(j, i)) : 0;
      const double excess = entropy - std::log(perplexity);
      if (std::abs(excess) < 1e-10) break;
      (excess > 0 ? low : high) = precision;
      precision = std::isinf(high) ? precision * 2 : (low + high) / 2;
    }
  });
  return (p + p.transpose()) / (2 * static_cast<double>(samples));
}

/// 1 / (1 + ‖y_i − y_j‖²), 0 on the diagonal: Q before scaling to sum 1.
inline Eigen::MatrixXd tsne_weights(const Eigen::MatrixXd& y) {
  const Index samples = y.cols();
  Eigen::MatrixXd weights(samples, samples);
  parallel_for(samples, 8 * samples * samples, [&](Index i) {
    weights.col(i) = 1 / (1 + (y.colwise() - y.col(i)).colwise().squaredNorm().transpose().array());
    weights(i, i) = 0;
  });
  return weights;
}

/// The gradient of KL(exaggeration · P ‖ Q) with respect to the coordinates, equation (5).
inline void tsne_gradient(const Eigen::MatrixXd& p, double exaggeration, const Eigen::MatrixXd& y,
                          Eigen::MatrixXd& gradient) {
  const Index samples = y.cols();
  const Eigen::MatrixXd weights = tsne_weights(y);
  const double sum = weights.sum();
  gradient.resize(y.rows(), samples);
  parallel_for(samples, 10 * samples * samples, [&](Index i) {
    gradient.col(i).setZero();
    for (Index j = 0; j < samples; ++j) {
      if (j == i) continue;
      const double q = weights(j, i) / sum;
      gradient.col(i) += 4 * (exaggeration * p(j, i) - q) * weights(j, i) * (y.col(i) - y.col(j));
    }
  });
}

inline double tsne_divergence(const Eigen::MatrixXd& p, const Eigen::MatrixXd& y) {
  const Index samples = y.cols();
  const Eigen::MatrixXd weights = tsne_weights(y);
  const double sum = weights.sum();
  Eigen::VectorXd divergence = Eigen::VectorXd::Zero(samples);
  parallel_for(samples, 30 * samples * samples, [&](Index i) {
    for (Index j = 0; j < samples; ++j) {
      if (p(j, i) > 0) divergence[i] += p(j, i) * std::log(p(j, i) / (weights(j, i) / sum));
    }
  });
  return divergence.sum();
}

}  // namespace detail

/// Maps points to a plane.
/// Source   van der Maaten and Hinton 2008, "Visualizing data using t-SNE", with its momentum (0.5, then 0.8) and the
///          gains of Jacobs 1988. As in scikit-learn, early exaggeration is 12 for a quarter of the iterations and the
///          learning rate is samples / 48, at least 50.
/// @param points  (features × samples), a column is a sample: flattened matrices, activations.
/// @throws std::invalid_argument  on fewer than 4 samples, numbers that are not finite, a perplexity outside
///                  [1, samples − 1), iterations < 1.
/// Cost     about 20 · samples² flop per iteration, three samples × samples matrices: for up to a few thousand points.
/// Numerics the same bits for the same seed on any number of threads.
inline TsneResult tsne(const Eigen::MatrixXd& points, const TsneConfig& config = {}) {
  const Index samples = points.cols();
  expects(samples >= 4, "tsne: ", samples, " samples, expected at least 4");
  expects(points.allFinite(), "tsne: the points are not finite");
  expects(config.perplexity >= 1 && config.perplexity < static_cast<double>(samples - 1), "tsne: perplexity ",
          config.perplexity, " must be in [1, ", samples - 1, "), the number of neighbours");
  expects(config.iterations >= 1, "tsne: iterations is ", config.iterations, ", expected >= 1");
  const Eigen::MatrixXd p = detail::tsne_neighbours(points, config.perplexity);
  const CounterRandom random(config.seed, 6);
  TsneResult result;
  result.coordinates = Eigen::MatrixXd::NullaryExpr(2, samples, [&](Index i, Index j) {
    return 1e-4 * random.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j));
  });
  Eigen::MatrixXd gradient, velocity = Eigen::MatrixXd::Zero(2, samples), gains = Eigen::MatrixXd::Ones(2, samples);
  constexpr double exaggeration = 12;
  const double rate = (std::max)(50.0, static_cast<double>(samples) / (4 * exaggeration));
  for (int step = 0; step < config.iterations; ++step) {
    const bool early = step < config.iterations / 4;
    detail::tsne_gradient(p, early ? exaggeration : 1, result.coordinates, gradient);
    for (Index i = 0; i < gradient.size(); ++i) {
      const bool turned = (gradient.data()[i] > 0) == (velocity.data()[i] > 0);
      double& gain = gains.data()[i];
      gain = (std::max)(0.01, turned ? gain * 0.8 : gain + 0.2);
      velocity.data()[i] = (early ? 0.5 : 0.8) * velocity.data()[i] - rate * gain * gradient.data()[i];
    }
    result.coordinates += velocity;
    const Eigen::VectorXd centre = result.coordinates.rowwise().mean();
    result.coordinates.colwise() -= centre;
  }
  result.divergence = detail::tsne_divergence(p, result.coordinates);
  return result;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
