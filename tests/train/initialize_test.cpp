// SPDX-License-Identifier: MIT
//
// Where adapters start, and that heads which begin alike part only where something makes them.
#include "hydralora/train/initialize.hpp"

#include <functional>
#include <hydralora/train.hpp>

#include "hydralora/analysis/similarity.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

/// The largest cosine between two different heads after some steps of small batches under an even gate.
double likeness_after_training(const std::function<void(HydraLoRA<double>&)>& start, Index warmup_steps = 0) {
  HydraLoRA<double> layer(HydraLoRAConfig{12, 10, 4, 8, false, 0, 4}, 3);
  start(layer);
  layer.gate().setZero();
  const Matrix<double> wanted = random_matrix<double>(10, 12, 2);
  const HeadWarmup warmup(4, warmup_steps, 5);
  HydraLoRA<double>::Cache cache;
  HydraLoRA<double>::Gradients g(layer.config());
  for (Index step = 0; step < 40; ++step) {
    const Matrix<double> x = random_matrix<double>(12, 4, 100 + static_cast<std::uint64_t>(step));
    Matrix<double> y = Matrix<double>::Zero(10, 4);
    layer.forward(x, y, cache);
    const Matrix<double> dy = (y - wanted * x) / 4;
    g.set_zero();
    layer.backward(x, dy, cache, g);
    warmup.apply(step, g);
    g.gate().setZero();  // the gate stays even: what parts the heads is the start alone
    layer.parameters() -= 0.05 * g.parameters();
  }
  Eigen::MatrixXd cosine = head_cosine(layer);
  cosine.diagonal().setConstant(-1);
  return cosine.maxCoeff();
}

}  // namespace

TEST_CASE("heads of zeros under an even gate stay copies of each other; every remedy parts them") {
  const auto one = doctest::Approx(1).epsilon(1e-12);
  CHECK(likeness_after_training([](auto&) {}) == one);
  CHECK(likeness_after_training([](auto& layer) { initialize_gaussian(layer, 1); }) == one);
  CHECK(likeness_after_training([](auto& layer) { initialize_gaussian(layer, 1, 0.1); }) < 0.99);
  CHECK(likeness_after_training([](auto& layer) { initialize_orthogonal(layer, 1); }) < 0.99);
  CHECK(likeness_after_training([](auto&) {}, 20) < 0.99);
}

TEST_CASE("head warm-up: one head at a time, drawn from the seed, then all") {
  const HeadWarmup warmup(3, 30, 9), same(3, 30, 9), other(3, 30, 10);
  Index seen[3] = {0, 0, 0}, different = 0;
  for (Index step = 0; step < 30; ++step) {
    CHECK(warmup.head(step) == same.head(step));
    different += warmup.head(step) != other.head(step) ? 1 : 0;
    ++seen[warmup.head(step)];
  }
  CHECK(different > 0);
  for (const Index count : seen) CHECK(count > 0);
  CHECK(warmup.head(30) == -1);
  HydraLoRA<float>::Gradients g(HydraLoRAConfig{3, 4, 2, 16, false, 0, 3});
  g.parameters().setOnes();
  warmup.apply(7, g);
  for (Index i = 0; i < 3; ++i) CHECK(g.B(i).isConstant(i == warmup.head(7) ? 1.0F : 0.0F, 0));
  CHECK(g.A().isOnes(0));
  CHECK(g.gate().isOnes(0));
  CHECK(message_of([&] { warmup.head(-1); }) == "HeadWarmup: step is -1, expected >= 0");
  g.parameters().setOnes();
  warmup.apply(30, g);
  CHECK(g.parameters().isOnes(0));
  CHECK(message_of([] { HeadWarmup(0, 1, 0); }) == "HeadWarmup: heads is 0, expected >= 1");
  CHECK(message_of([] { HeadWarmup(1, -1, 0); }) == "HeadWarmup: steps is -1, expected >= 0");
  CHECK(message_of([&] { HeadWarmup(2, 5, 0).apply(0, g); }) == "HeadWarmup: the gradients have 3 heads, expected 2");
}

TEST_CASE_TEMPLATE("orthogonal start: A and B are not zero, every B_i A is, and heads differ", Scalar, float, double) {
  HydraLoRA<Scalar> hydra(HydraLoRAConfig{40, 30, 6, 16, false, 0, 3});
  const Matrix<Scalar> gate = hydra.gate();
  hydra.parameters().setOnes();
  initialize_orthogonal(hydra, 4);
  const double zero = std::is_same_v<Scalar, float> ? 1e-6 : 1e-15;
  for (Index i = 0; i < 3; ++i) {
    CHECK(hydra.B(i).norm() > 0.5);
    CHECK((hydra.B(i) * hydra.A()).cwiseAbs().maxCoeff() < zero);
  }
  CHECK(hydra.A().norm() > 0.5);
  CHECK(same_bits<Scalar>(hydra.gate(), gate));
  const Eigen::MatrixXd cosine = head_cosine(hydra);
  CHECK(std::abs(cosine(0, 1)) < 0.5);
  CHECK(apply(hydra, random_matrix<Scalar>(40, 5, 1)).cwiseAbs().maxCoeff() < 100 * zero);

  SplitLoRA<Scalar> split(SplitLoRAConfig{40, 30, 4, 16, false, 0, 2});
  initialize_orthogonal(split, 4);
  for (Index i = 0; i < 2; ++i) CHECK((split.B(i) * split.A(i)).cwiseAbs().maxCoeff() < zero);
  CHECK((split.A(0) - split.A(1)).norm() > 0.1);
  // R and R_i have deviation 0.1 and nothing to do with each other: A has rank/2 · in, B rank/2 · out numbers of it
  LoRA<Scalar> large(LoRAConfig{400, 400, 8});
  initialize_orthogonal(large, 5);
  CHECK(large.A().norm() / std::sqrt(4.0 * 400) == doctest::Approx(0.1).epsilon(0.05));
  CHECK(large.B().norm() / std::sqrt(4.0 * 400) == doctest::Approx(0.1).epsilon(0.05));
  CHECK(aligned_cosine(large.A(), large.B().transpose()) < 0.3);
  initialize_gaussian(split, 4);
  CHECK((split.A(0) - split.A(1)).norm() > 0.1);
  LoRA<Scalar> lora(LoRAConfig{40, 30, 2});
  initialize_orthogonal(lora, 4);
  CHECK((lora.B() * lora.A()).cwiseAbs().maxCoeff() < zero);
  CHECK(lora.A().norm() > 0.1);

  LoRA<Scalar> odd(LoRAConfig{8, 8, 3}, 2);
  const Matrix<Scalar> before = odd.parameters();
  CHECK(message_of([&] { initialize_orthogonal(odd, 1); }) == "initialize_orthogonal: rank 3 of LoRA must be even");
  CHECK(same_bits<Scalar>(odd.parameters(), before));
}

TEST_CASE("gaussian start has its deviation, and B only where asked") {
  HydraLoRA<double> layer(HydraLoRAConfig{400, 300, 5, 16, false, 0, 2});
  initialize_gaussian(layer, 7);
  CHECK(layer.A().norm() / std::sqrt(400.0 * 5) == doctest::Approx(0.2).epsilon(0.05));
  CHECK(layer.B(0).isZero(0));
  initialize_gaussian(layer, 7, 0.01);
  CHECK(layer.B(1).norm() / std::sqrt(300.0 * 5) == doctest::Approx(0.01).epsilon(0.05));
  CHECK((layer.B(0) - layer.B(1)).norm() > 0.1);
  const Matrix<double> before = layer.parameters();
  CHECK(message_of([&] { initialize_gaussian(layer, 7, -1); }) ==
        "initialize_gaussian: up_deviation -1 must be finite and at least 0");
  CHECK(same_bits<double>(layer.parameters(), before));
}

TEST_CASE_TEMPLATE("PiSSA and OLoRA: the whole computes what it did, and W comes back", Scalar, float, double) {
  const double rounding = std::is_same_v<Scalar, float> ? 2e-6 : 1e-14;
  for (const auto& [out, in] : {std::pair<Index, Index>{30, 40}, {40, 30}, {6, 50}}) {
    const Matrix<Scalar> original = random_matrix<Scalar>(out, in, 1), x = random_matrix<Scalar>(in, 9, 2);
    const auto check = [&](auto layer, auto&& start) {
      Matrix<Scalar> W = original;
      const SavedWeight<Scalar> saved = start(layer, W);
      CHECK((W - original).norm() > 0.1 * original.norm());
      CHECK(relative_difference(W * x + apply(layer, x), original * x) < 30 * rounding);
      if constexpr (std::is_same_v<Scalar, double>) {
        CHECK((W + layer.scaling() * detail::B_of(layer, 0) * detail::A_of(layer, 0) - original).norm() < 1e-12);
      }
      saved.restore(W);
      CHECK(same_bits(W, original));
      Matrix<Scalar> other = Matrix<Scalar>::Zero(out, in + 1);
      CHECK_THROWS_AS(saved.restore(other), std::invalid_argument);
      CHECK(other.isZero(0));
    };
    const auto pissa = [](auto& layer, auto& W) { return initialize_pissa(layer, W); };
    const auto olora = [](auto& layer, auto& W) { return initialize_olora(layer, W); };
    const LoRA<Scalar> lora(LoRAConfig{in, out, 4, 6});
    const HydraLoRA<Scalar> hydra(HydraLoRAConfig{in, out, 4, 6, false, 0, 3});
    check(lora, pissa);
    check(lora, olora);
    check(hydra, pissa);
    check(hydra, olora);

    // PiSSA takes the largest singular values: what is left of W has the others.
    LoRA<Scalar> layer = lora;
    Matrix<Scalar> W = original;
    initialize_pissa(layer, W);
    const Eigen::VectorXd before = Eigen::JacobiSVD<Eigen::MatrixXd>(original.template cast<double>()).singularValues();
    const Eigen::VectorXd after = Eigen::JacobiSVD<Eigen::MatrixXd>(W.template cast<double>()).singularValues();
    const Index rest = before.size() - 4;
    CHECK((after.head(rest) - before.tail(rest)).cwiseAbs().maxCoeff() < 100 * rounding);
    CHECK(delta_norm(layer) == doctest::Approx(before.head(4).norm()));
    // the singular values go to A and B alike
    for (Index k = 0; k < 4; ++k) {
      const double share = before[k] / static_cast<double>(layer.scaling());
      CHECK(static_cast<double>(layer.A().row(k).squaredNorm()) == doctest::Approx(share).epsilon(1e-4));
      CHECK(static_cast<double>(layer.B().col(k).squaredNorm()) == doctest::Approx(share).epsilon(1e-4));
    }
    // OLoRA's B is orthonormal.
    W = original;
    initialize_olora(layer, W);
    CHECK((layer.B().transpose() * layer.B() - Matrix<Scalar>::Identity(4, 4)).norm() < 10 * rounding);
  }
}

TEST_CASE("PiSSA and OLoRA refuse what they cannot do, and change nothing") {
  LoRA<float> layer(LoRAConfig{6, 5, 2}, 1), tall(LoRAConfig{6, 5, 6}), negative(LoRAConfig{6, 5, 2, -4}),
      infinite(LoRAConfig{6, 5, 2, 1e300});
  HydraLoRA<float> given(HydraLoRAConfig{6, 5, 2, 16, false, 0, 3, Routing::given});
  const Matrix<float> parameters = layer.parameters();
  Matrix<float> W = random_matrix<float>(5, 6, 1), narrow = W.leftCols(5);
  const auto pissa = [](LoRA<float>& l, Matrix<float>& weight) {
    return message_of([&] { initialize_pissa(l, weight); });
  };
  W(1, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK(message_of([&] { initialize_olora(layer, W); }) == "initialize_olora: the weight is not finite");
  W(1, 1) = 0;
  const Matrix<float> before = W;
  CHECK(pissa(layer, narrow) == "initialize_pissa: the weight is 5x5, expected 5x6 (out x in)");
  CHECK(pissa(tall, W) == "initialize_pissa: rank 6 of LoRA is above the weight's 5");
  CHECK(pissa(negative, W) == "initialize_pissa: scaling -2 must be finite and above 0");
  CHECK(pissa(infinite, W) == "initialize_pissa: scaling inf must be finite and above 0");
  CHECK(message_of([&] { initialize_olora(given, W); }) ==
        "initialize_olora: needs weights of the heads that sum to 1: Routing::learned");
  CHECK(same_bits(W, before));
  CHECK(same_bits<float>(layer.parameters(), parameters));
  LoRA<double> wide(LoRAConfig{6, 5, 2});
  Matrix<double> large = 1e200 * random_matrix<double>(5, 6, 1);
  const Matrix<double> large_before = large;
  CHECK(message_of([&] { initialize_olora(wide, large); }) ==
        "initialize_olora: the weight's numbers are too large to be split");
  CHECK(same_bits(large, large_before));
  CHECK(wide.B().isZero(0));
}

TEST_CASE("a gate from centroids sends every centroid to its own head") {
  HydraLoRA<float> layer(HydraLoRAConfig{20, 4, 2, 16, false, 0, 5}, 2);
  const Matrix<float> A = layer.A();
  const Matrix<double> centroids = random_matrix<double>(20, 5, 3);
  initialize_gate(layer, centroids, 3);
  CHECK(same_bits<float>(layer.A(), A));
  const Matrix<double> logits = layer.gate().cast<double>() * (centroids.colwise() - centroids.rowwise().mean());
  CHECK(logits.diagonal().mean() == doctest::Approx(3));
  for (Index i = 0; i < 5; ++i) {
    Index top = -1;
    logits.col(i).maxCoeff(&top);
    CHECK(top == i);
  }
  HydraLoRAConfig projected{20, 4, 2, 16, false, 0, 3};
  projected.gate.input = GateInput::projection;
  HydraLoRA<double> on_projection(projected);
  initialize_gate(on_projection, random_matrix<double>(2, 3, 1));
  const Matrix<float> before = layer.parameters();
  const auto refused = [&](const Matrix<double>& points, double strength = 1) {
    return message_of([&] { initialize_gate(layer, points, strength); });
  };
  CHECK(refused(centroids.leftCols(4)) == "initialize_gate: centroids is 20x4, expected 20x5 (gate inputs x heads)");
  for (const double same : {1.0, 0.1}) {
    CHECK(refused(Matrix<double>::Constant(20, 5, same)) == "initialize_gate: the centroids are all the same");
  }
  CHECK(refused(1e-60 * centroids) == "initialize_gate: the centroids are too close together");
  CHECK(refused(centroids, std::numeric_limits<double>::infinity()) ==
        "initialize_gate: centroids or strength inf are not finite");
  SplitLoRA<float> uniform(SplitLoRAConfig{20, 4, 2});
  CHECK(message_of([&] { initialize_gate(uniform, centroids); }) == containing("has no learned gate"));
  CHECK(same_bits<float>(layer.parameters(), before));
}

TEST_CASE("the norm of ΔW from Gram matrices is that of ΔW") {
  const auto hydra = randomized(HydraLoRA<double>(HydraLoRAConfig{9, 1024, 3, 6, false, 0, 3}), 1);
  const auto split = randomized(SplitLoRA<double>(SplitLoRAConfig{9, 7, 3, 6, false, 0, 2}), 2);
  const auto shared_b = randomized(SharedBLoRA<double>(SharedBLoRAConfig{9, 7, 2, 4, false, 0, 3}), 5);
  // weights 1, alpha below 0
  auto summed = randomized(HydraLoRA<double>(HydraLoRAConfig{9, 7, 3, -6, false, 0, 2, Routing::uniform}), 4);
  Eigen::VectorXd w(3);
  w << 0.2, 0.7, 0.1;
  Matrix<double> sum = Matrix<double>::Zero(1024, 9), even = sum;
  for (Index i = 0; i < 3; ++i) {
    sum += 2 * w[i] * hydra.B(i) * hydra.A();
    even += 2.0 / 3 * hydra.B(i) * hydra.A();
  }
  CHECK(delta_norm(hydra, w) == doctest::Approx(sum.norm()).epsilon(1e-12));
  CHECK(delta_norm(hydra) == doctest::Approx(even.norm()).epsilon(1e-12));
  CHECK(delta_norm(split) ==
        doctest::Approx((2 * split.B(0) * split.A(0) + 2 * split.B(1) * split.A(1)).norm()).epsilon(1e-12));
  Eigen::MatrixXd mean_A = Eigen::MatrixXd::Zero(2, 9);
  for (Index i = 0; i < 3; ++i) mean_A += w[i] * shared_b.A(i);
  CHECK(delta_norm(shared_b, w) == doctest::Approx((2 * shared_b.B() * mean_A).norm()).epsilon(1e-12));
  CHECK(delta_norm(LoRA<float>(LoRAConfig{9, 7, 3, 6})) == 0);  // B = 0: it does nothing
  CHECK(delta_norm(summed) == doctest::Approx((2 * (summed.B(0) + summed.B(1)) * summed.A()).norm()).epsilon(1e-12));
  summed.A()(0, 0) = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(delta_norm(summed)));
  CHECK(message_of([&] { delta_norm(hydra, Eigen::VectorXd::Ones(2)); }) ==
        "delta_norm: 2 weights, expected 3 (heads)");
}

TEST_CASE("similarity: rotations do not count, orthogonal spans have nothing in common") {
  const Matrix<double> A = random_matrix<double>(4, 30, 1), other = random_matrix<double>(4, 30, 2);
  const Matrix<double> Q = random_matrix<double>(4, 4, 3).householderQr().householderQ();
  CHECK(aligned_cosine(A, 3 * Q * A) == doctest::Approx(1));
  CHECK(aligned_cosine(A, other) < 0.7);
  CHECK(aligned_cosine(A, Matrix<double>::Zero(4, 30)) == 0);
  CHECK(aligned_cosine(A.cast<float>(), A) == doctest::Approx(1));
  CHECK_THROWS_AS(aligned_cosine(A, A.leftCols(29)), std::invalid_argument);

  const Matrix<double> mixed = random_matrix<double>(4, 4, 5) * A;  // the same span
  CHECK((principal_cosines(A.transpose(), mixed.transpose()).array() - 1).abs().maxCoeff() < 1e-9);
  Matrix<double> axes = Matrix<double>::Zero(6, 2), turned = axes;
  axes(0, 0) = axes(1, 1) = 1;
  turned(0, 0) = 2;
  turned(2, 1) = 3;
  const Eigen::VectorXd cosines = principal_cosines(axes, turned);
  CHECK(cosines[0] == doctest::Approx(1));
  CHECK(std::abs(cosines[1]) < 1e-12);
  CHECK_THROWS_AS(principal_cosines(axes, turned.topRows(5)), std::invalid_argument);
  // what depends on other columns adds nothing, and zeros have no direction
  Matrix<double> twice = Matrix<double>::Zero(4, 2), elsewhere = twice;
  twice.row(0).setOnes();
  elsewhere.row(1).setOnes();
  CHECK(principal_cosines(twice, elsewhere).size() == 1);
  CHECK(principal_cosines(twice, elsewhere)[0] < 1e-12);
  CHECK(principal_cosines(twice, twice)[0] == doctest::Approx(1));
  CHECK(principal_cosines(twice, Matrix<double>::Zero(4, 2)).size() == 0);
  CHECK(principal_cosines(twice, Matrix<double>(4, 0)).size() == 0);
  CHECK(principal_cosines(axes.transpose(), axes.transpose()).size() == 2);
  twice(2, 0) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(principal_cosines(twice, elsewhere), std::invalid_argument);
  CHECK_THROWS_AS(aligned_cosine(twice, elsewhere), std::invalid_argument);

  // points on a line in the direction (3, 4): one component holds everything
  Matrix<double> line(2, 5);
  for (Index i = 0; i < 5; ++i) {
    line(0, i) = 3 * static_cast<double>(i * i) + 1;
    line(1, i) = 4 * static_cast<double>(i * i) + 9;
  }
  const PrincipalComponents pca = principal_components(line, 2);
  CHECK(pca.variance[0] == doctest::Approx(1));
  CHECK(pca.variance[1] == doctest::Approx(0));
  for (Index i = 0; i < 5; ++i) CHECK(pca.coordinates(0, i) == doctest::Approx(5.0 * static_cast<double>(i * i) - 30));
  CHECK(principal_components(Matrix<double>::Ones(3, 4), 1).variance[0] == 0);
  CHECK(principal_components(Matrix<double>::Constant(3, 3, 0.1), 1).variance[0] == 0);
  CHECK_THROWS_AS(principal_components(line, 3), std::invalid_argument);
  CHECK_THROWS_AS(principal_components(line, 0), std::invalid_argument);
}
