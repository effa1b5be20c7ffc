// SPDX-License-Identifier: MIT
#include "hydralora/layers/combine.hpp"

#include "hydralora/layers/merge.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Scalar>
LoRA<Scalar> random_lora(Index in, Index out, Index rank, double alpha, std::uint64_t seed) {
  LoRA<Scalar> lora(LoRAConfig{in, out, rank, alpha}, seed);
  lora.A() = random_matrix<Scalar>(rank, in, seed);
  lora.B() = random_matrix<Scalar>(out, rank, seed + 1);
  return lora;
}

/// What the layer gives in inference, and beside it in a step of training, with its dropout.
template <class Layer, class Scalar>
Matrix<Scalar> output(const Layer& layer, const Matrix<Scalar>& x, const Matrix<Scalar>& weights = {}) {
  Matrix<Scalar> y = Matrix<Scalar>::Zero(layer.shape().out, 2 * x.cols());
  CallOptions<Scalar> options;
  options.weights = weights;
  options.step = 3;
  typename Layer::Cache cache;
  layer.forward(x, y.leftCols(x.cols()), options);
  layer.forward(x, y.rightCols(x.cols()), cache, options);
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("heads and sums as plain LoRAs, bit for bit, what dropout drops too", Scalar, float, double) {
  for (const bool rank_stabilized : {false, true}) {
    for (const Index out : {11, 1024}) {
      const Matrix<Scalar> x = random_matrix<Scalar>(13, 9, 3);
      HydraLoRA<Scalar> hydra(HydraLoRAConfig{13, out, 4, 5, rank_stabilized, 0.25, 3, Routing::given}, 42);
      SplitLoRA<Scalar> split(SplitLoRAConfig{13, out, 4, 5, rank_stabilized, 0.25, 3}, 43);
      for (Index i = 0; i < 3; ++i) {
        hydra.B(i) = split.B(i) = random_matrix<Scalar>(out, 4, static_cast<std::uint64_t>(i));
      }
      const std::vector<LoRA<Scalar>> loras = plain_loras(hydra);
      REQUIRE(loras.size() == 3);
      for (Index i = 0; i < 3; ++i) {
        Matrix<Scalar> one = Matrix<Scalar>::Zero(3, 9);
        one.row(i).setOnes();
        CHECK(same_bits(output(loras[static_cast<std::size_t>(i)], x), output(hydra, x, one)));
      }
      const LoRA<Scalar> sum = as_lora(split);
      CHECK(sum.shape().rank == 12);
      CHECK(sum.scaling() == doctest::Approx(split.scaling()).epsilon(1e-15));
      if (!rank_stabilized) CHECK(same_bits(output(sum, x), output(split, x)));
      CHECK(output(sum, x).isApprox(output(split, x), Scalar(1e-6)));
    }
  }
  SplitLoRA<Scalar> routed(SplitLoRAConfig{5, 4, 2, 16, false, 0, 3, Routing::learned});
  CHECK(message_of([&] { as_lora(routed); }) == "as_lora: only the plain sum of heads (Routing::uniform) is one LoRA");
}

TEST_CASE_TEMPLATE("a weighted sum of LoRAs: exact, and to a rank with the error that it says", Scalar, float, double) {
  const double rounding = sizeof(Scalar) == 4 ? 2e-6 : 1e-14;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Index in = 9 + static_cast<Index>(seed), out = 25 - static_cast<Index>(seed % 10);
    const LoRA<Scalar> a = random_lora<Scalar>(in, out, 2, 3, seed), b = random_lora<Scalar>(in, out, 3, -4, seed + 50),
                       c = random_lora<Scalar>(in, out, 1, 7, seed + 90);
    const std::vector<const LoRA<Scalar>*> all = {&a, &b, &c};
    const std::vector<double> coefficients = {0.7, -1.3, 0.2};
    const Eigen::MatrixXd expected = 0.7 * delta_weight(a) - 1.3 * delta_weight(b) + 0.2 * delta_weight(c);
    const LoRA<Scalar> exact = combine_exactly(all, coefficients);
    CHECK(exact.shape().rank == 6);
    CHECK(delta_weight(exact).isApprox(expected, rounding));
    const Eigen::VectorXd values = Eigen::JacobiSVD<Eigen::MatrixXd>(expected).singularValues();
    for (const Index rank : {1, 4, 6}) {
      const auto close = combine_to_rank(all, coefficients, rank);
      const double error = (delta_weight(close.lora) - expected).norm() / expected.norm();
      CHECK(close.lora.shape().rank == rank);
      CHECK(std::abs(error - close.relative_error) <= 10 * rounding);
      const double best = values.tail(values.size() - rank).norm() / values.norm();
      CHECK(std::abs(close.relative_error - best) <= 1e-7);  // no LoRA of this rank is closer
      CHECK(close.lora.A().norm() == doctest::Approx(close.lora.B().norm()).epsilon(1e-5));
    }
  }
  const LoRA<Scalar> zero(LoRAConfig{5, 4, 2});
  const auto nothing = combine_to_rank<Scalar>({&zero}, {1.0}, 1);
  CHECK(nothing.relative_error == 0);
  CHECK(delta_weight(nothing.lora).isZero(0));
  // More ranks together than features: the small side decides.
  const LoRA<Scalar> wide = random_lora<Scalar>(3, 4, 5, 5, 1), wider = random_lora<Scalar>(3, 4, 6, 6, 2);
  CHECK(combine_to_rank<Scalar>({&wide, &wider}, {1.0, 1.0}, 3).relative_error < 1e-12);
}

TEST_CASE("LoRAHub's composition is the product of the sums") {
  const LoRA<double> a = random_lora<double>(9, 7, 2, 4, 1), b = random_lora<double>(9, 7, 2, 4, 5);
  const LoRA<double> both = combine_as_lorahub<double>({&a, &b}, {0.25, 2});
  CHECK(delta_weight(both).isApprox(2 * (0.25 * a.B() + 2 * b.B()) * (0.25 * a.A() + 2 * b.A()), 1e-14));
  CHECK(combine_as_lorahub<double>({&a}, {1}).parameters() == a.parameters());
}

TEST_CASE("what cannot be combined is refused") {
  const LoRA<float> a = random_lora<float>(9, 7, 2, 4, 1), b = random_lora<float>(9, 6, 2, 4, 2),
                    c = random_lora<float>(9, 7, 3, 4, 3), twice = random_lora<float>(9, 7, 2, 8, 1);
  LoRA<float> broken = a;
  broken.A()(0, 0) = std::numeric_limits<float>::quiet_NaN();
  using List = std::vector<const LoRA<float>*>;
  const auto exactly = [](const List& list, const std::vector<double>& coefficients) {
    return message_of([&] { combine_exactly(list, coefficients); });
  };
  const auto to_rank = [](const List& list, const std::vector<double>& coefficients, Index rank) {
    return message_of([&] { combine_to_rank(list, coefficients, rank); });
  };
  const auto as_lorahub = [](const List& list) { return message_of([&] { combine_as_lorahub(list, {1, 2}); }); };
  LoRA<float> large = a;
  large.parameters().setConstant(1e30F);
  CHECK(exactly({}, {}) == "combine_exactly: 0 LoRAs and 0 coefficients");
  CHECK(exactly({&a}, {1, 2}) == "combine_exactly: 1 LoRAs and 2 coefficients");
  CHECK(exactly({&a, nullptr}, {1, 2}) == "combine_exactly: LoRA 1 is null");
  CHECK(exactly({&a, &b}, {1, 2}) == "combine_exactly: LoRA 1 is 9->6, the first is 9->7");
  CHECK(exactly({&a}, {std::nan("")}) == containing("coefficient 0"));
  CHECK(exactly({&large}, {1e30}) == containing("not finite in the LoRA's scalar type"));
  CHECK(to_rank({&a, &c}, {1, 2}, 6) == "combine_to_rank: rank 6, expected 1 to 5");
  CHECK(to_rank({&a, &c}, {1, 2}, 0) == "combine_to_rank: rank 0, expected 1 to 5");
  CHECK(to_rank({&broken}, {1}, 1) == "combine_to_rank: a LoRA is not finite");
  CHECK(as_lorahub({&a, &c}) == containing("LoRA 1 is LoRA 9->7 rank 3"));
  // One scaling can serve for all only where they have the same.
  CHECK(as_lorahub({&a, &twice}) == containing("with scaling 4, the first LoRA 9->7 rank 2"));
}
