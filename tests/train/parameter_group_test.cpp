// SPDX-License-Identifier: MIT
#include "hydralora/train/parameter_group.hpp"

#include "support/groups.hpp"

using namespace hydralora;
using namespace support;

TEST_CASE("assigning a parameter group rebinds it and copies no numbers") {
  Eigen::VectorXf a = Eigen::VectorXf::Constant(3, 1), b = Eigen::VectorXf::Constant(5, 2),
                  g = Eigen::VectorXf::Zero(5);
  ParameterGroup<float> first{{a.data(), 3}, {g.data(), 3}, 0.1, 0.5};
  const ParameterGroup<float> second{{b.data(), 5}, {g.data(), 5}, 0.2};
  first = second;
  CHECK(first.parameters.data() == b.data());
  CHECK(first.parameters.size() == 5);
  CHECK(first.gradients.size() == 5);
  CHECK(first.learning_rate == 0.2);
  CHECK(first.weight_decay == 0);
  CHECK((a.array() == 1.0F).all());
}

TEST_CASE("clipping uses the norm over all groups and returns the norm before") {
  Eigen::VectorXd p1(2), p2(1), g1(2), g2(1);
  g1 << 2, 3;
  g2 << 6;
  const std::vector<ParameterGroup<double>> groups{group_of<double>(p1, g1), group_of<double>(p2, g2)};
  CHECK(clip_global_norm(groups, 100) == 7);  // 4 + 9 + 36
  CHECK(g1[0] == 2);
  CHECK(clip_global_norm(groups, 7) == 7);
  CHECK(g2[0] == 6);
  CHECK(clip_global_norm(groups, std::numeric_limits<double>::infinity()) == 7);
  CHECK(g2[0] == 6);
  CHECK(clip_global_norm(groups, 3.5) == 7);
  CHECK(g1[0] == 1);
  CHECK(g1[1] == 1.5);
  CHECK(g2[0] == 3);
  CHECK(clip_global_norm(groups, 3.5) == 3.5);
}

TEST_CASE("clipping float gradients whose squares leave float") {
  Eigen::VectorXf p(20), g = Eigen::VectorXf::Constant(20, 1e30F);
  CHECK(clip_global_norm<float>({group_of<float>(p, g)}, 1) == doctest::Approx(1e30 * std::sqrt(20.0)).epsilon(1e-6));
  CHECK(g[19] == doctest::Approx(1 / std::sqrt(20.0)).epsilon(1e-6));
}

TEST_CASE("every size around the unrolled sum and the chunk is summed and scaled completely") {
  for (const Index size : {0, 1, 7, 8, 9, 15, 16, 17, 8191, 8192, 8193, 20000}) {
    CAPTURE(size);
    Eigen::VectorXd p(size), g = random_vector<double>(size, 5);
    const Eigen::VectorXd before = g;
    const double norm = clip_global_norm<double>({group_of<double>(p, g)}, 0.25);
    CHECK(norm == doctest::Approx(before.norm()).epsilon(1e-13));
    if (size > 0) CHECK((g - before * (0.25 / before.norm())).cwiseAbs().maxCoeff() < 1e-15);
  }
  CHECK(clip_global_norm<float>({}, 1) == 0);
}

TEST_CASE("a norm that is not finite leaves the gradients untouched and is returned") {
  Eigen::VectorXf p(9), g = Eigen::VectorXf::Constant(9, 2);
  g[8] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(clip_global_norm<float>({group_of<float>(p, g)}, 1)));
  CHECK(g[0] == 2);
  g[8] = -std::numeric_limits<float>::infinity();
  CHECK(clip_global_norm<float>({group_of<float>(p, g)}, 1) == std::numeric_limits<double>::infinity());
  CHECK(g[0] == 2);
}

TEST_CASE("clipping refuses what makes no sense, and says which values") {
  Eigen::VectorXf p(4), g = Eigen::VectorXf::Constant(4, 2);
  const std::vector<ParameterGroup<float>> good{group_of<float>(p, g)}, unequal{{{p.data(), 4}, {g.data(), 3}, 1e-3}};
  CHECK_THROWS_AS(clip_global_norm(good, 0), std::invalid_argument);
  CHECK_THROWS_AS(clip_global_norm(good, std::nan("")), std::invalid_argument);
  CHECK(message_of([&] { clip_global_norm(good, -1.5); }) == containing("-1.5"));
  CHECK(g[0] == 2);
  CHECK(message_of([&] { clip_global_norm(unequal, 1); }) == containing("group 0 has 4 parameters but 3 gradients"));
}

TEST_CASE("clipping gives the same bits on any number of threads") {
  Eigen::VectorXf p1(300001), p2(4099), expected;
  double expected_norm = 0;
  for (const int threads : thread_counts) {
    CAPTURE(threads);
    const Threads use(threads);
    Eigen::VectorXf g1 = random_vector<float>(p1.size(), 1), g2 = random_vector<float>(p2.size(), 2);
    const double norm = clip_global_norm<float>({group_of<float>(p1, g1), group_of<float>(p2, g2)}, 1);
    if (threads == 1) expected = g1, expected_norm = norm;
    CHECK(norm == expected_norm);
    CHECK((g1.array() == expected.array()).all());
  }
}
