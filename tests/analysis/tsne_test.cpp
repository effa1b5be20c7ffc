// SPDX-License-Identifier: MIT
//
// t-SNE: its neighbourhoods have the perplexity asked for, its gradient is that of its divergence, and clusters stay
// apart.
#include "hydralora/analysis/tsne.hpp"

#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

TEST_CASE("the neighbourhoods have the perplexity asked for") {
  const Matrix<double> points = random_matrix<double>(5, 40, 1);
  for (const double perplexity : {1.5, 5.0, 20.0, 35.0}) {
    const Matrix<double> p = detail::tsne_neighbours(points, perplexity);
    CHECK(p.sum() == doctest::Approx(1));
    CHECK((p - p.transpose()).cwiseAbs().maxCoeff() == 0);
    CHECK(p.diagonal().isZero(0));
    CHECK(p.minCoeff() >= 0);
  }
  // From the definition, for one perplexity: points of a circle have neighbourhoods that are all alike, so that making
  // them symmetric changes nothing and the entropy of a column can be read off.
  Matrix<double> circle(2, 30);
  for (Index i = 0; i < 30; ++i) {
    const double angle = 6.283185307179586 * static_cast<double>(i) / 30;
    circle(0, i) = 1000 * std::cos(angle);
    circle(1, i) = 1000 * std::sin(angle);
  }
  const Matrix<double> p = 30 * detail::tsne_neighbours(circle, 8);
  for (Index i = 0; i < 30; ++i) {
    double entropy = 0;
    for (Index j = 0; j < 30; ++j) entropy -= p(j, i) > 0 ? p(j, i) * std::log(p(j, i)) : 0;
    CHECK(std::exp(entropy) == doctest::Approx(8).epsilon(1e-6));
  }
}

TEST_CASE("the gradient is that of the divergence") {
  const Matrix<double> p = detail::tsne_neighbours(random_matrix<double>(4, 12, 1), 4);
  Matrix<double> y = random_matrix<double>(2, 12, 2), gradient;
  detail::tsne_gradient(p, 1, y, gradient);
  for (Index i = 0; i < y.size(); ++i) {
    double& entry = y.data()[i];
    const double before = entry;
    entry = before + 1e-6;
    const double up = detail::tsne_divergence(p, y);
    entry = before - 1e-6;
    const double down = detail::tsne_divergence(p, y);
    entry = before;
    CHECK(gradient.data()[i] == doctest::Approx((up - down) / 2e-6).epsilon(1e-5));
  }
}

TEST_CASE("clusters stay apart, bits repeat, and mistakes are refused") {
  Matrix<double> points = random_matrix<double>(10, 60, 3);
  for (Index i = 0; i < 60; ++i) points(i % 3, i) += 12;
  TsneConfig config;
  config.perplexity = 10;
  config.iterations = 400;
  config.seed = 4;
  const TsneResult result = tsne(points, config);
  CHECK(result.coordinates.allFinite());
  CHECK(result.coordinates.rowwise().mean().norm() < 1e-9);
  CHECK(result.divergence > 0);
  CHECK(result.divergence < 1);
  Index alike = 0;  // whose nearest neighbour in the picture is of the same cluster
  for (Index i = 0; i < 60; ++i) {
    Index nearest = -1;
    double smallest = std::numeric_limits<double>::infinity();
    for (Index j = 0; j < 60; ++j) {
      const double distance = (result.coordinates.col(i) - result.coordinates.col(j)).norm();
      if (j != i && distance < smallest) smallest = distance, nearest = j;
    }
    alike += nearest % 3 == i % 3 ? 1 : 0;
  }
  CHECK(alike >= 57);  // a stray point is in the nature of the method
  {
    const Threads four(4);
    CHECK(same_bits(tsne(points, config).coordinates, result.coordinates));
  }
  config.iterations = 30;
  CHECK(tsne(Matrix<double>::Ones(3, 20), config).coordinates.allFinite());  // all points the same

  CHECK(message_of([&] { tsne(points.leftCols(3)); }) == "tsne: 3 samples, expected at least 4");
  CHECK(message_of([&] { tsne(points.leftCols(20)); }) ==
        "tsne: perplexity 30 must be in [1, 19), the number of neighbours");
  config.iterations = 0;
  CHECK(message_of([&] { tsne(points, config); }) == "tsne: iterations is 0, expected >= 1");
  points(0, 0) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message_of([&] { tsne(points); }) == "tsne: the points are not finite");
}
