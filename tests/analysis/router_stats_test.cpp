// SPDX-License-Identifier: MIT
#include "hydralora/analysis/router_stats.hpp"
#include "support/errors.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace hydralora;
using namespace support;

namespace {

template <class Scalar>
struct FakeLayer {
  struct Config {
    Index heads;
  };
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  std::vector<Matrix> up;

  Config config() const { return {static_cast<Index>(up.size())}; }
  Eigen::Map<const Matrix> B(Index head) const {
    const Matrix& m = up[static_cast<std::size_t>(head)];
    return {m.data(), m.rows(), m.cols()};
  }
};

}  // namespace

TEST_CASE(
    "no token: all is zero; an inert router: entropy 1, votes for the first head; one head: entropy 0; NaN shows") {
  RouterStats none(3), inert(4), one(1), broken(2);
  none.add(Eigen::MatrixXf(3, 0));
  CHECK(none.heads() == 3);
  CHECK(none.tokens() == 0);
  CHECK(none.usage() == Eigen::VectorXd::Zero(3));
  CHECK(none.top1_share() == Eigen::VectorXd::Zero(3));
  CHECK(none.normalized_entropy() == 0);

  inert.add(Eigen::MatrixXf::Constant(4, 9, 0.25F).eval());
  CHECK(inert.tokens() == 9);
  CHECK(inert.normalized_entropy() == doctest::Approx(1).epsilon(1e-14));
  CHECK((inert.usage().array() - 0.25).abs().maxCoeff() < 1e-15);
  CHECK(inert.top1_share() == Eigen::Vector4d(1, 0, 0, 0));

  one.add(Eigen::MatrixXf::Ones(1, 5).eval());
  CHECK(one.normalized_entropy() == 0);
  CHECK(one.usage()[0] == 1);
  CHECK(one.top1_share()[0] == 1);

  broken.add(Eigen::Vector2f(0.5F, std::numeric_limits<float>::quiet_NaN()));
  CHECK(std::isnan(broken.normalized_entropy()));
  CHECK(std::isnan(broken.usage()[1]));
}

TEST_CASE("a specialised router has entropy 0 and balanced usage, a collapsed one has one used head") {
  RouterStats specialised(2), collapsed(2);
  const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(2, 2);
  specialised.add(identity);
  CHECK(specialised.normalized_entropy() == 0);  // 0 · ln 0 = 0
  CHECK(specialised.usage() == Eigen::Vector2d(0.5, 0.5));
  CHECK(specialised.top1_share() == Eigen::Vector2d(0.5, 0.5));
  const Eigen::Matrix2d second_head = (Eigen::Matrix2d() << 0, 0, 1, 1).finished();
  collapsed.add(second_head);
  CHECK(collapsed.normalized_entropy() == 0);
  CHECK(collapsed.usage() == Eigen::Vector2d(0, 1));
}

TEST_CASE("known statistics of unequal tokens, ties to the lower head, several calls and views") {
  Eigen::MatrixXd weights(3, 4);
  weights << 0.50, 0.2, 0.4, 0.1,  //
      0.25, 0.4, 0.2, 0.1,         //
      0.25, 0.4, 0.4, 0.8;         // token 1 ties heads 1 and 2, token 2 ties heads 0 and 2
  RouterStats stats(3);
  stats.add(weights.leftCols(1));
  stats.add(ConstTokens<double>(weights).slice(1, 2));
  stats.add(Tokens<double>(weights).slice(3, 1));
  CHECK(stats.tokens() == 4);
  CHECK((stats.usage() - Eigen::Vector3d(0.3, 0.2375, 0.4625)).cwiseAbs().maxCoeff() < 1e-15);
  CHECK(stats.top1_share() == Eigen::Vector3d(0.5, 0.25, 0.25));
  // nats: token 0 1.5 ln 2; tokens 1 and 2 the same
  const double nats = 1.5 * std::log(2.0) + 2 * (-0.2 * std::log(0.2) - 0.8 * std::log(0.4)) - 0.2 * std::log(0.1) -
                      0.8 * std::log(0.8);
  CHECK(stats.normalized_entropy() == doctest::Approx(nats / 4 / std::log(3.0)).epsilon(1e-14));
}

TEST_CASE("RouterStats refuses another number of heads with both shapes and stays as it was") {
  RouterStats stats(3);
  const Eigen::MatrixXf wrong = Eigen::MatrixXf::Ones(4, 7);
  CHECK_THROWS_AS(stats.add(wrong), std::invalid_argument);
  const std::string message = message_of([&] { stats.add(wrong); });
  CHECK(message == containing("4x7"));
  CHECK(message == containing("3x7"));
  CHECK(stats.tokens() == 0);
  CHECK(stats.usage() == Eigen::VectorXd::Zero(3));
  CHECK(message_of([] { RouterStats none(0); }) == containing("heads is 0"));
}

TEST_CASE("head cosines: alike, opposite, orthogonal, halfway, dead") {
  FakeLayer<float> layer;
  const Eigen::MatrixXf base = (Eigen::MatrixXf(3, 2) << 1, 2, -3, 0, 0, 1).finished();
  Eigen::MatrixXf orthogonal = Eigen::MatrixXf::Zero(3, 2);
  orthogonal(1, 1) = 5;
  layer.up = {base, 4 * base, -base, orthogonal, Eigen::MatrixXf::Zero(3, 2), base / base.norm() + orthogonal / 5};
  const Eigen::MatrixXd cosine = head_cosine(layer);
  REQUIRE(cosine.rows() == 6);
  REQUIRE(cosine.cols() == 6);
  CHECK(cosine == cosine.transpose());
  CHECK(cosine.cwiseAbs().maxCoeff() <= 1);
  for (Index head : {0, 1, 2, 3, 5}) CHECK(cosine(head, head) == 1);
  CHECK(cosine(0, 1) == doctest::Approx(1).epsilon(1e-14));
  CHECK(cosine(0, 2) == doctest::Approx(-1).epsilon(1e-14));
  CHECK(cosine(0, 3) == 0);
  CHECK(cosine(0, 5) == doctest::Approx(std::sqrt(0.5)).epsilon(1e-6));
  CHECK(cosine.row(4) == Eigen::RowVectorXd::Zero(6));  // the dead head, its diagonal too
}

TEST_CASE("head cosines of numbers whose squares leave double; heads of different shapes are refused") {
  FakeLayer<double> large, different;
  large.up = {Eigen::MatrixXd::Constant(2, 2, 1e200), Eigen::MatrixXd::Constant(2, 2, 1e-200)};
  CHECK(head_cosine(large)(0, 1) == doctest::Approx(1).epsilon(1e-14));
  different.up = {Eigen::MatrixXd::Ones(4, 2), Eigen::MatrixXd::Ones(4, 3)};
  const std::string message = message_of([&] { head_cosine(different); });
  CHECK(message == containing("4x3"));
  CHECK(message == containing("4x2"));
}
