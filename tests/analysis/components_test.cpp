// SPDX-License-Identifier: MIT
#include "hydralora/analysis.hpp"
#include "hydralora/analysis/dbscan.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>

using namespace hydralora;
using namespace support;

namespace {

/// `clusters` clouds of standard deviation 1 around the corners 30 · e_k of a simplex. Sample i belongs to i mod
/// clusters.
Eigen::MatrixXd clouds(Index clusters, Index samples, std::uint64_t seed, Index features = 6) {
  const CounterRandom random(seed);
  Eigen::MatrixXd points(features, samples);
  for (Index i = 0; i < samples; ++i) {
    for (Index f = 0; f < features; ++f) {
      points(f, i) = random.normal(static_cast<std::uint64_t>(f), static_cast<std::uint64_t>(i));
    }
    points(i % clusters, i) += 30;
  }
  return points;
}

/// Samples of one feature.
Eigen::MatrixXd row(const std::vector<double>& values) {
  return Eigen::Map<const Eigen::RowVectorXd>(values.data(), static_cast<Index>(values.size()));
}

KMeansConfig with_clusters(Index clusters, std::uint64_t seed = 0) {
  KMeansConfig config;
  config.clusters = clusters;
  config.seed = seed;
  return config;
}

/// The promises of every result: nearest centroid with ties to the lower, and the error that belongs to the labels.
void check_consistent(const Eigen::MatrixXd& points, const KMeansResult& result) {
  double sse = 0;
  REQUIRE(static_cast<Index>(result.labels.size()) == points.cols());
  for (Index i = 0; i < points.cols(); ++i) {
    const Index label = result.labels[static_cast<std::size_t>(i)];
    REQUIRE(label >= 0);
    REQUIRE(label < result.centroids.cols());
    const double own = (points.col(i) - result.centroids.col(label)).squaredNorm();
    sse += own;
    for (Index k = 0; k < result.centroids.cols(); ++k) {
      const double other = (points.col(i) - result.centroids.col(k)).squaredNorm();
      CHECK((k < label ? own < other : own <= other));
    }
  }
  CHECK(result.sse == doctest::Approx(sse).epsilon(1e-13));
}

}  // namespace

TEST_CASE("k-means recovers separated clusters, and its centroids are their means") {
  for (Index clusters = 2; clusters <= 5; ++clusters) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      CAPTURE(clusters);
      CAPTURE(seed);
      const Eigen::MatrixXd points = clouds(clusters, 60, 10 + seed);
      const KMeansResult result = kmeans(points, with_clusters(clusters, seed));
      check_consistent(points, result);
      for (Index i = clusters; i < 60; ++i) {
        CHECK(result.labels[static_cast<std::size_t>(i)] == result.labels[static_cast<std::size_t>(i % clusters)]);
      }
      CHECK(std::set<Index>(result.labels.begin(), result.labels.end()).size() == static_cast<std::size_t>(clusters));
      for (Index k = 0; k < clusters; ++k) {
        Eigen::VectorXd mean = Eigen::VectorXd::Zero(6);
        for (Index i = k; i < 60; i += clusters) mean += points.col(i) / static_cast<double>(60 / clusters);
        CHECK((result.centroids.col(result.labels[static_cast<std::size_t>(k)]) - mean).norm() < 1e-12);
      }
      CHECK(result.iterations >= 1);
      CHECK(result.iterations < 100);
    }
  }
}

TEST_CASE("one cluster, as many clusters as samples, one sample, duplicated samples, a run that is cut short") {
  const Eigen::MatrixXd cloud = clouds(3, 31, 1);
  const KMeansResult all = kmeans(cloud, with_clusters(1));
  CHECK((all.centroids.col(0) - cloud.rowwise().mean()).norm() < 1e-12);
  CHECK(all.sse == doctest::Approx((cloud.colwise() - cloud.rowwise().mean()).squaredNorm()).epsilon(1e-13));

  const Eigen::MatrixXd points = clouds(4, 17, 2);
  const KMeansResult each = kmeans(points, with_clusters(17));
  CHECK(each.sse == 0);
  CHECK(std::set<Index>(each.labels.begin(), each.labels.end()).size() == 17);

  const KMeansResult one = kmeans(Eigen::MatrixXd(points.leftCols(1)), with_clusters(1));
  CHECK(one.sse == 0);
  CHECK(one.centroids == points.leftCols(1));
  CHECK(one.labels == std::vector<Index>{0});

  // two distinct points, five clusters: no error, nothing that is not a number, and an end
  Eigen::MatrixXf twins(2, 6);
  twins << 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3;
  const KMeansResult duplicated = kmeans(twins, with_clusters(5));
  CHECK(duplicated.sse == 0);
  CHECK(duplicated.centroids.allFinite());
  CHECK(duplicated.labels[0] == duplicated.labels[2]);
  CHECK(duplicated.labels[0] != duplicated.labels[1]);
  CHECK(duplicated.iterations <= 2);
  check_consistent(twins.cast<double>(), duplicated);
  CHECK(sse_curve(twins, 6).at(1) == 0);

  KMeansConfig config = with_clusters(7);
  config.max_iterations = config.restarts = 1;
  const KMeansResult cut = kmeans(clouds(5, 100, 3), config);
  CHECK(cut.iterations == 1);
  check_consistent(clouds(5, 100, 3), cut);
}

TEST_CASE("a sample in the middle goes to the lower cluster") {
  const Eigen::MatrixXd points = row({0, 1, 2});
  std::vector<Index> labels(3);
  Eigen::VectorXd distances(3);
  detail::assign_samples(points, row({2, 0, 0}), labels, distances);
  CHECK(labels == std::vector<Index>{1, 0, 0});
  CHECK(distances == Eigen::Vector3d(0, 1, 0));
}

TEST_CASE("an empty cluster takes the sample farthest from its centroid, the lower one of a tie") {
  std::vector<Index> labels{0, 0, 0, 1};
  std::vector<Index> counts{3, 1, 0, 0};
  Eigen::VectorXd distances(4);
  distances << 1, 4, 4, 0;
  detail::fill_empty_clusters(labels, distances, counts);
  CHECK(labels == std::vector<Index>{0, 2, 3, 1});
  CHECK(counts == std::vector<Index>{1, 1, 1, 1});
  // Lloyd from a centroid that no sample is near
  const Eigen::MatrixXd points = row({0, 1, 2, 50, 51});
  const KMeansResult result = detail::lloyd(points, row({1, 1e6}), 100);
  check_consistent(points, result);
  CHECK(result.centroids == row({1, 50.5}));
  CHECK(result.sse == 2.5);
}

TEST_CASE("seeding draws in proportion to the squared distance") {
  // After the 40 samples at 0 (or the one at 10) were drawn first, the other place has all the weight.
  Eigen::MatrixXd points = Eigen::MatrixXd::Zero(1, 41);
  points(0, 7) = 10;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Eigen::MatrixXd seeds = detail::seed_centroids(points, 2, CounterRandom(seed));
    CHECK(seeds.sum() == 10);
  }
  // From 0, the samples at 1 and 2 have weights 1 and 4.
  const Eigen::MatrixXd line = row({0, 1, 2});
  int from_zero = 0, far = 0;
  for (std::uint64_t seed = 0; seed < 6000; ++seed) {
    const Eigen::MatrixXd seeds = detail::seed_centroids(line, 2, CounterRandom(seed));
    if (seeds(0, 0) != 0) continue;
    ++from_zero;
    if (seeds(0, 1) == 2) ++far;
  }
  CHECK(from_zero > 1800);  // 2000 expected, standard deviation 37
  CHECK(from_zero < 2200);
  CHECK(static_cast<double>(far) / from_zero == doctest::Approx(0.8).epsilon(0.06));  // standard deviation 0.009
}

TEST_CASE("more restarts are never worse, and a better run is taken") {
  const Eigen::MatrixXd points = clouds(6, 90, 4);
  KMeansConfig config = with_clusters(6);
  double previous = std::numeric_limits<double>::infinity();
  std::set<double> seen;
  for (int restarts = 1; restarts <= 12; ++restarts) {
    config.restarts = restarts;
    const double sse = kmeans(points, config).sse;
    CHECK(sse <= previous);
    previous = sse;
  }
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    config.restarts = 1;
    config.seed = seed;
    seen.insert(kmeans(Eigen::MatrixXd(clouds(6, 90, 4) * 0.05 + clouds(1, 90, 9)), config).sse);
  }
  CHECK(seen.size() > 1);  // single runs do end in different minima
}

TEST_CASE("the elbow finds the number of separated clusters, and the error falls with every cluster") {
  for (Index clusters = 2; clusters <= 5; ++clusters) {
    CAPTURE(clusters);
    const std::vector<double> sse = sse_curve(clouds(clusters, 80, 20), 9);
    REQUIRE(sse.size() == 9);
    for (std::size_t k = 1; k < sse.size(); ++k) CHECK(sse[k] <= sse[k - 1]);
    CHECK(elbow(sse) == clusters);
    CHECK(sse[2] == kmeans(clouds(clusters, 80, 20), with_clusters(3)).sse);
  }
}

TEST_CASE("elbows by hand") {
  CHECK(elbow({10, 1, 0.5, 0}) == 2);
  CHECK(elbow({10, 9, 1, 0.5, 0}) == 3);
  CHECK(elbow({10, 4, 2, 0}) == 2);            // distances 0.267 and 0.133
  CHECK(elbow({12, 4, 0, 0}) == 2);            // both at 1/3: the lower
  CHECK(elbow({5, 5, 5, 5}) == 1);             // flat
  CHECK(elbow({0, 0, 0}) == 1);                // flat
  CHECK(elbow({3, 2.3, 1.6, 0.9, 0.2}) == 1);  // its own chord, up to rounding
  CHECK(elbow({10, 9.5, 8, 0}) == 1);          // above its chord
  CHECK(elbow({1, 2, 3}) == 1);                // rises
  CHECK(elbow({7}) == 1);
  CHECK(elbow({7, 1}) == 1);
  CHECK_THROWS_AS(elbow({}), std::invalid_argument);
  CHECK(message_of([] { elbow({3, -2, 1}); }) == containing("SSE(2) is -2"));
  CHECK(message_of([] { elbow({3, 2, std::nan("")}); }) == containing("SSE(3) is nan"));
}

TEST_CASE("the same seed gives the same bits, on any number of threads") {
  const Eigen::MatrixXd points = clouds(4, 3000, 6, 24);  // enough to go parallel
  const KMeansResult expected = kmeans(points, with_clusters(6, 11));
  for (const int threads : thread_counts) {
    CAPTURE(threads);
    const Threads use(threads);
    const KMeansResult again = kmeans(points, with_clusters(6, 11));
    CHECK(again.centroids == expected.centroids);
    CHECK(again.labels == expected.labels);
    CHECK(again.sse == expected.sse);
    CHECK(again.iterations == expected.iterations);
  }
}

TEST_CASE("k-means refuses what makes no sense, and says which values") {
  Eigen::MatrixXd points = clouds(2, 5, 7);
  const auto message = [&](KMeansConfig config) { return message_of([&] { kmeans(points, config); }); };
  CHECK(message(with_clusters(0)) == containing("0 clusters, expected in [1, 5]"));
  CHECK(message(with_clusters(6)) == containing("6 clusters, expected in [1, 5]"));
  CHECK_THROWS_AS(kmeans(points, with_clusters(-1)), std::invalid_argument);
  KMeansConfig config = with_clusters(2);
  config.restarts = 0;
  CHECK(message(config) == containing("restarts is 0"));
  config = with_clusters(2);
  config.max_iterations = -3;
  CHECK(message(config) == containing("max_iterations is -3"));
  CHECK(message_of([] { kmeans(Eigen::MatrixXd(3, 0), with_clusters(1)); }) == containing("3x0"));
  CHECK(message_of([] { kmeans(Eigen::MatrixXd(0, 3), with_clusters(1)); }) == containing("0x3"));
  CHECK(message_of([&] { sse_curve(points, 6); }) == containing("6 clusters, expected in [1, 5]"));
  CHECK(message_of([&] { sse_curve(points, 0); }) == containing("0 clusters"));
  for (const auto& [number, reason] : {std::pair(std::nan(""), "feature 2 of sample 3 is nan"),
                                       {std::numeric_limits<double>::infinity(), "feature 2 of sample 3 is inf"},
                                       {1e200, "overflow"}}) {
    points(2, 3) = number;
    CHECK(message(with_clusters(2)) == containing(reason));
  }
}

TEST_CASE("silhouette: the values of the definition, and what does not count") {
  Eigen::MatrixXd points = row({0, 1, 10, 11, 1000});
  // own distance 1; the other pair's mean distance 10.5 and 9.5
  const double expected = (9.5 / 10.5 + 8.5 / 9.5) / 2;
  CHECK(silhouette(points.leftCols(4), {0, 0, 1, 1}) == doctest::Approx(expected));
  CHECK(silhouette(points.leftCols(4).cast<float>(), {3, 3, 1, 1}) == doctest::Approx(expected));
  CHECK(silhouette(points, {0, 0, 1, 1, -1}) == doctest::Approx(expected));  // noise is left out
  CHECK(silhouette(points.leftCols(4), {0, 1, 0, 1}) < 0);
  CHECK(silhouette(points.leftCols(4), {0, 0, 0, 0}) == 0);
  CHECK(silhouette(points.leftCols(2), {0, 1}) == 0);  // each alone
  CHECK(silhouette(points.leftCols(0), {}) == 0);
  CHECK_THROWS_AS(silhouette(points, {0, 1}), std::invalid_argument);
  CHECK_THROWS_AS(silhouette(points, {0, 1, 2, 3, 5}), std::invalid_argument);
  points(0, 0) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(silhouette(points, {0, 1, 0, 1, 0}), std::invalid_argument);
}

TEST_CASE("the largest silhouette finds the number of clusters") {
  for (const Index clusters : {2, 3, 5}) {
    CAPTURE(clusters);
    const std::vector<double> values = silhouette_curve(clouds(clusters, 40 * clusters, 3), 8);
    CHECK(values[0] == 0);
    CHECK(std::max_element(values.begin(), values.end()) - values.begin() + 1 == clusters);
  }
}

TEST_CASE("DBSCAN: published labels, shapes that k-means cannot find, borders and noise") {
  Eigen::MatrixXd points(2, 6);  // the example of scikit-learn's documentation
  points << 1, 2, 2, 8, 8, 25, 2, 2, 3, 7, 8, 80;
  const DbscanResult result = dbscan(points, 3, 2);
  CHECK(result.labels == std::vector<Index>{0, 0, 0, 1, 1, -1});
  CHECK(result.clusters == 2);

  Eigen::MatrixXd rings(2, 120);  // one ring inside the other
  for (Index i = 0; i < 120; ++i) {
    const double angle = static_cast<double>(i) * 6.283185307179586 / 60;
    rings(0, i) = std::cos(angle) * (i < 60 ? 1.0 : 4.0);
    rings(1, i) = std::sin(angle) * (i < 60 ? 1.0 : 4.0);
  }
  const DbscanResult found = dbscan(rings.cast<float>(), 0.6, 3);
  CHECK(found.clusters == 2);
  for (Index i = 0; i < 120; ++i) CHECK(found.labels[static_cast<std::size_t>(i)] == (i < 60 ? 0 : 1));

  Eigen::MatrixXd line = row({0, 1, 2, 3.5, 4, 5, 6});
  // 0 1 2 | 3.5 | 4 5 6: within 1.5 of a core on either side, but no core itself with 4 needed
  CHECK(dbscan(line, 1.5, 3).clusters == 1);
  line = row({0, 1, 2, 3, 4.6, 5.6, 6.6});  // 3 is within 1 of 2 only
  CHECK(dbscan(line, 1.0, 3).labels == std::vector<Index>{0, 0, 0, 0, 1, 1, 1});
  CHECK(dbscan(line, 0.5, 2).labels == std::vector<Index>(7, -1));
  CHECK(dbscan(line, 0.5, 1).clusters == 7);
  // Two pairs-of-three with one sample in the middle that is near both but no core: it joins the first and bridges
  // nothing.
  Eigen::MatrixXd bridged = row({0, 0.1, 0.2, 0.3, 1.2, 2.1, 2.2, 2.3, 2.4});
  const DbscanResult apart = dbscan(bridged, 0.95, 4);
  CHECK(apart.labels == std::vector<Index>{0, 0, 0, 0, 0, 1, 1, 1, 1});
  CHECK(apart.clusters == 2);
  bridged(0, 0) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(dbscan(bridged, 1.0, 4), std::invalid_argument);
  CHECK_THROWS_WITH_AS(dbscan(line, 0, 2), "dbscan: radius is 0, expected finite and above 0", std::invalid_argument);
  CHECK_THROWS_WITH_AS(dbscan(line, 1, 0), "dbscan: min_samples is 0, expected >= 1", std::invalid_argument);
}

TEST_CASE("adjusted Rand index: published values, and names do not matter") {
  using Labels = std::vector<Index>;
  CHECK(adjusted_rand_index(Labels{0, 0, 1, 1}, Labels{0, 0, 1, 1}) == 1);
  CHECK(adjusted_rand_index(Labels{0, 0, 1, 1}, Labels{7, 7, 2, 2}) == 1);
  // scikit-learn's documentation
  CHECK(adjusted_rand_index(Labels{0, 0, 1, 2}, Labels{0, 0, 1, 1}) == doctest::Approx(0.5714285714));
  CHECK(adjusted_rand_index(Labels{0, 0, 1, 1}, Labels{0, 0, 1, 2}) == doctest::Approx(0.5714285714));
  CHECK(adjusted_rand_index(Labels{0, 0, 0, 0}, Labels{0, 1, 2, 3}) == 0);
  CHECK(adjusted_rand_index(Labels{0, 0, 1, 1}, Labels{0, 1, 0, 1}) == doctest::Approx(-0.5));
  CHECK(adjusted_rand_index(Labels{5, 5, 5}, Labels{1, 1, 1}) == 1);
  CHECK(adjusted_rand_index(Labels{}, Labels{}) == 1);
  const std::pair<Labels, Labels> refused[] = {{{0, 1}, {0}}, {{0, -1}, {0, 1}}, {{-1}, {0}}, {{0, 10000}, {0, 1}}};
  for (const auto& [a, b] : refused) CHECK_THROWS_AS(adjusted_rand_index(a, b), std::invalid_argument);
}

TEST_CASE("TF-IDF gives the published numbers of scikit-learn's documentation") {
  Eigen::MatrixXd counts(3, 6);  // words × documents
  counts << 3, 2, 3, 4, 3, 3, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 2;
  const Eigen::MatrixXd weights = tf_idf(counts.sparseView());
  Eigen::MatrixXd expected(3, 6);
  expected << 0.85151335, 1, 1, 1, 0.55422893, 0.63035731, 0, 0, 0, 0, 0.83236428, 0, 0.52433293, 0, 0, 0, 0,
      0.77630514;
  CHECK((weights - expected).cwiseAbs().maxCoeff() < 1e-8);
  for (const double scale : {1e200, 1e-200}) {
    CHECK((Eigen::MatrixXd(tf_idf((scale * counts).sparseView())) - expected).cwiseAbs().maxCoeff() < 1e-8);
  }
  counts.col(2).setZero();
  CHECK(Eigen::MatrixXd(tf_idf(counts.sparseView())).col(2).isZero(0));
  Eigen::SparseMatrix<double> stored = counts.sparseView();
  const Eigen::MatrixXd without = tf_idf(stored);
  stored.coeffRef(2, 1) = 0;  // a count that is stored, and none
  CHECK((Eigen::MatrixXd(tf_idf(stored)) - without).cwiseAbs().maxCoeff() == 0);
  stored.coeffRef(2, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(tf_idf(stored), std::invalid_argument);
  counts(0, 0) = -1;
  CHECK_THROWS_WITH_AS(tf_idf(counts.sparseView()),
                       "tf_idf: the count of word 0 in document 0 is -1, expected finite and >= 0",
                       std::invalid_argument);
}
