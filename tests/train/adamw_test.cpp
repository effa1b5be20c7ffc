// SPDX-License-Identifier: MIT
#include "hydralora/train/adamw.hpp"

#include "support/groups.hpp"

using namespace hydralora;
using namespace support;

namespace {

/// The algorithm as printed, in double.
struct PlainAdamW {
  Eigen::ArrayXd p, m, v;
  double learning_rate, weight_decay;
  int t = 0;

  PlainAdamW(const Eigen::VectorXd& start, double rate, double decay)
      : p(start), m(0 * p), v(0 * p), learning_rate(rate), weight_decay(decay) {}

  void step(const Eigen::VectorXd& gradient, const AdamWConfig& c, double schedule) {
    ++t;
    const Eigen::ArrayXd g = gradient;
    const double rate = learning_rate * schedule;
    p -= rate * weight_decay * p;
    m = c.beta1 * m + (1 - c.beta1) * g;
    v = c.beta2 * v + (1 - c.beta2) * g * g;
    const Eigen::ArrayXd m_hat = m / (1 - std::pow(c.beta1, t)), v_hat = v / (1 - std::pow(c.beta2, t));
    p -= rate * m_hat / (v_hat.sqrt() + c.epsilon);
  }
};

/// Largest difference to the textbook over three groups of their own rates after 25 steps.
template <class Scalar>
double distance_to_textbook(const AdamWConfig& config) {
  const Index sizes[] = {37, 1, 8193};
  const double rates[] = {1e-2, 3e-3, 1e-3}, decays[] = {0.1, 0.0, 1.5};
  std::vector<Vector<Scalar>> p, g;
  std::vector<ParameterGroup<Scalar>> groups;
  std::vector<PlainAdamW> textbooks;
  for (std::size_t k = 0; k < 3; ++k) {
    p.push_back(random_vector<Scalar>(sizes[k], k));
    g.push_back(Vector<Scalar>::Zero(sizes[k]));
    textbooks.emplace_back(p[k].template cast<double>(), rates[k], decays[k]);
  }
  for (std::size_t k = 0; k < 3; ++k) groups.push_back(group_of(p[k], g[k], rates[k], decays[k]));
  AdamW<Scalar> optimiser(groups, config);
  double largest = 0;
  for (std::uint64_t step = 0; step < 25; ++step) {
    const double schedule = 1.0 - static_cast<double>(step) / 30.0;
    for (std::size_t k = 0; k < 3; ++k) {
      fill_random(g[k], 100 + k, step);
      textbooks[k].step(g[k].template cast<double>(), config, schedule);
    }
    optimiser.step(schedule);
    for (std::size_t k = 0; k < 3; ++k) {
      const Eigen::ArrayXd found = p[k].template cast<double>();
      largest = std::max(largest, (found - textbooks[k].p).abs().maxCoeff());
    }
  }
  CHECK(optimiser.steps() == 25);
  return largest;
}

}  // namespace

TEST_CASE("AdamW follows the textbook loop over groups, steps and schedules") {
  const AdamWConfig quick{0.5, 0.8, 1e-2};  // an epsilon that matters: it stands outside the root
  CHECK(distance_to_textbook<double>({}) < 1e-13);
  CHECK(distance_to_textbook<double>(quick) < 1e-13);
  CHECK(distance_to_textbook<long double>({}) < 1e-13);  // the plain twin; the textbook's double rounds
  // Parameters below 8: each step rounds to 2.4e-7 at most, mostly a tenth of that; 25 steps.
  CHECK(distance_to_textbook<float>({}) < 3e-6);
  CHECK(distance_to_textbook<float>(quick) < 3e-6);
}

TEST_CASE("the first AdamW step moves by the learning rate against the sign, whatever the gradient's size") {
  Eigen::VectorXd p = Eigen::VectorXd::Zero(4), g(4);
  g << 1e-3, -1e-3, 1e6, 0;
  AdamW<double> optimiser({group_of<double>(p, g, 0.1)});
  optimiser.step();
  CHECK(p[0] == doctest::Approx(-0.1).epsilon(2e-5));  // epsilon is 1e-5 of the gradient
  CHECK(p[1] == doctest::Approx(0.1).epsilon(2e-5));
  CHECK(p[2] == doctest::Approx(-0.1).epsilon(1e-12));
  CHECK(p[3] == 0);
}

TEST_CASE("weight decay is decoupled: with no gradient it is all that happens, and the moments do not see it") {
  Eigen::VectorXd p = Eigen::VectorXd::Constant(3, 2), g = Eigen::VectorXd::Zero(3);
  p[2] = 0;  // padding
  AdamW<double> optimiser({group_of<double>(p, g, 0.1, 0.5)});
  optimiser.step();
  CHECK(p[0] == doctest::Approx(2 * 0.95).epsilon(1e-15));
  CHECK(p[2] == 0);
  CHECK((optimiser.state().array() == 0).all());
  optimiser.step(0);
  CHECK(p[0] == doctest::Approx(2 * 0.95).epsilon(1e-15));
}

TEST_CASE("float AdamW keeps the digits of a small decay") {
  // η · decay = 1e-6. As a factor, 1 - 1e-6 rounds to 17 steps of 2^-24 below 1, a decay 1.3 % too strong for every
  // number. Subtracted, each number rounds its own way (by 3 %), and the mean over 4096 of them is right to some 0.05
  // %.
  Eigen::VectorXf p(4096), g = Eigen::VectorXf::Zero(4096);
  const CounterRandom random(1);
  for (Index i = 0; i < p.size(); ++i) p[i] = static_cast<float>(1 + random.uniform(static_cast<std::uint64_t>(i)));
  const Eigen::VectorXd before = p.cast<double>();
  AdamW<float> optimiser({group_of<float>(p, g, 1e-4, 1e-2)});
  optimiser.step();
  const double decay = ((before - p.cast<double>()).array() / before.array()).mean();
  CHECK(decay / 1e-6 == doctest::Approx(1).epsilon(1e-3));  // Approx(1e-6) would allow an absolute error
}

TEST_CASE("the state is m of every group, then v; with steps() it continues a run bit for bit") {
  Eigen::VectorXf p1 = random_vector<float>(19, 1), p2 = random_vector<float>(5, 2), g1(19), g2(5);
  const auto groups = [&] { return std::vector{group_of<float>(p1, g1, 1e-2, 0.1), group_of<float>(p2, g2, 1e-3)}; };
  const auto train = [&](AdamW<float>& optimiser, std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t step = from; step < to; ++step) {
      fill_random(g1, 3, step);
      fill_random(g2, 4, step);
      optimiser.step();
    }
  };
  AdamW<float> first(groups());
  train(first, 0, 1);
  REQUIRE(first.state().size() == 48);
  CHECK(first.state()[19] / (0.1F * g2[0]) == doctest::Approx(1).epsilon(1e-6));
  CHECK(first.state()[24 + 19] / (0.001F * g2[0] * g2[0]) == doctest::Approx(1).epsilon(1e-6));
  const Eigen::VectorXf saved = std::as_const(first).state(), saved_p1 = p1, saved_p2 = p2;
  const std::int64_t saved_steps = first.steps();
  train(first, 1, 4);
  const Eigen::VectorXf end_p1 = p1, end_p2 = p2;
  p1 = saved_p1;
  p2 = saved_p2;
  AdamW<float> second(groups());
  second.state() = saved;
  second.set_steps(saved_steps);
  train(second, 1, 4);
  CHECK((p1.array() == end_p1.array()).all());
  CHECK((p2.array() == end_p2.array()).all());
  CHECK(second.steps() == 4);
}

TEST_CASE("AdamW writes nothing beyond its groups, at every size") {
  for (Index size = 0; size <= 35; ++size) {
    CAPTURE(size);
    Eigen::VectorXf p = Eigen::VectorXf::Constant(size + 2, 7), g = Eigen::VectorXf::Constant(size + 2, 1);
    AdamW<float> optimiser({{{p.data() + 1, size}, {g.data() + 1, size}, 0.5}});  // misaligned by one number
    optimiser.step();
    CHECK(p[0] == 7);
    CHECK(p[size + 1] == 7);
    CHECK((p.segment(1, size).array() - 6.5F).abs().sum() < 1e-5F);
    CHECK((g.array() == 1).all());
  }
}

TEST_CASE("AdamW finds the minimum of a badly scaled bowl") {
  Eigen::VectorXd p = Eigen::VectorXd::Constant(3, 1), g(3);
  const Eigen::Vector3d curvature(1e-3, 1, 1e3);
  AdamW<double> optimiser({group_of<double>(p, g, 0.05)});
  for (int i = 0; i < 2000; ++i) {
    g = curvature.cwiseProduct(p);
    optimiser.step(1 - i / 2000.0);
  }
  CHECK(p.cwiseAbs().maxCoeff() < 1e-3);
}

TEST_CASE("AdamW gives the same bits on any number of threads") {
  Eigen::VectorXf expected;
  for (const int threads : thread_counts) {
    CAPTURE(threads);
    const Threads use(threads);
    Eigen::VectorXf p1 = random_vector<float>(300007, 1), p2 = random_vector<float>(8195, 2), g1(p1.size()),
                    g2(p2.size());
    AdamW<float> optimiser({group_of<float>(p1, g1, 1e-3, 0.01), group_of<float>(p2, g2, 1e-2)});
    for (std::uint64_t step = 0; step < 3; ++step) {
      fill_random(g1, 3, step);
      fill_random(g2, 4, step);
      optimiser.step();
    }
    Eigen::VectorXf all(p1.size() + p2.size() + optimiser.state().size());
    all << p1, p2, optimiser.state();
    if (threads == 1) expected = all;
    CHECK((all.array() == expected.array()).all());
  }
}

TEST_CASE("AdamW refuses what makes no sense, and says which values") {
  Eigen::VectorXf p = Eigen::VectorXf::Constant(8, 3), g = Eigen::VectorXf::Zero(8);
  using Groups = std::vector<ParameterGroup<float>>;
  const auto make = [](Groups groups, AdamWConfig config = {}) {
    return message_of([&] { AdamW<float>(std::move(groups), config); });
  };
  const Groups good{group_of<float>(p, g, 1e-3)};
  CHECK(make(good) == "nothing thrown");
  CHECK(make({}) == "nothing thrown");
  CHECK(make({{{p.data(), 5}, {g.data(), 4}, 1e-3}}) == containing("group 0 has 5 parameters but 4 gradients"));
  CHECK(make({{{nullptr, 5}, {g.data(), 5}, 1e-3}}) == containing("group 0 has 5 numbers at a null pointer"));
  CHECK(make({group_of<float>(p, g, -0.25)}) == containing("-0.25"));
  CHECK(make({group_of<float>(p, g, std::nan(""))}) == containing("nan"));
  CHECK(make({group_of<float>(p, g, 1e-3, -0.75)}) == containing("-0.75"));
  CHECK(make(good, {1.0, 0.999, 1e-8}) == containing("beta1 is 1,"));
  CHECK(make(good, {0.9, -0.5, 1e-8}) == containing("beta2 is -0.5"));
  CHECK(make(good, {0.9, 0.999, 0.0}) == containing("epsilon is 0"));
  CHECK(make(good, {0.9, 0.999, 1e-60}) == containing("epsilon is 1e-60"));  // 0 in float

  // one number in two groups; parameters and gradients in one buffer; two groups with one gradient; neighbours are fine
  CHECK(make({{{p.data(), 5}, {g.data(), 5}, 1e-3}, {{p.data() + 4, 3}, {g.data() + 5, 3}, 1e-3}}) ==
        containing("parameters of group 0 and parameters of group 1 overlap"));
  CHECK(make({{{p.data(), 5}, {p.data() + 3, 5}, 1e-3}}) == containing("overlap"));
  CHECK(make({{{p.data(), 4}, {g.data(), 4}, 1e-3}, {{p.data() + 4, 4}, {g.data(), 4}, 1e-3}}) ==
        containing("overlap"));
  CHECK(make({{{p.data(), 4}, {g.data(), 4}, 1e-3}, {{p.data() + 4, 4}, {g.data() + 4, 4}, 1e-3}}) == "nothing thrown");

  AdamW<float> optimiser(good);
  CHECK(message_of([&] { optimiser.step(-2); }) == containing("-2"));
  CHECK(message_of([&] { optimiser.step(std::numeric_limits<double>::infinity()); }) == containing("inf"));
  CHECK(message_of([&] { optimiser.set_steps(-3); }) == containing("-3"));
  CHECK_THROWS_AS(optimiser.set_steps(-1), std::invalid_argument);
  CHECK(optimiser.steps() == 0);
  CHECK((p.array() == 3).all());
}
