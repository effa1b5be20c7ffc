// SPDX-License-Identifier: MIT
#include "hydralora/layers/merge.hpp"

#include "support/layers.hpp"
#include "support/textbook.hpp"

using namespace hydralora;
using namespace support;

namespace {

/// Those whose ΔW is one matrix for all tokens, given constant weights.
constexpr Kind mergeable[] = {Kind::lora, Kind::split_uniform, Kind::split_given, Kind::shared_b_given};
constexpr Kind routed[] = {Kind::split_learned, Kind::hydra, Kind::shared_b};

Eigen::VectorXd constant_weights(Kind kind, const LayerShape& s, std::uint64_t seed) {
  return takes_weights(kind) ? Eigen::VectorXd(random_matrix<double>(s.heads, 1, seed)) : Eigen::VectorXd();
}

template <class Scalar, class Layer>
Matrix<Scalar> adapted(const Layer& layer, const Matrix<Scalar>& W, const Matrix<Scalar>& x,
                       const Eigen::VectorXd& weights) {
  Matrix<Scalar> y = W * x;
  CallOptions<Scalar> options;
  const Matrix<Scalar> every = weights.cast<Scalar>().replicate(1, x.cols());
  if (weights.size() > 0) options.weights = every;
  layer.forward(x, y, options);
  return y;
}

template <class Stored>
bool same_storage(const Eigen::Matrix<Stored, -1, -1>& a, const Eigen::Matrix<Stored, -1, -1>& b) {
  return a.size() == b.size() && std::memcmp(static_cast<const void*>(a.data()), b.data(),
                                             sizeof(Stored) * static_cast<std::size_t>(a.size())) == 0;
}

}  // namespace

TEST_CASE_TEMPLATE("merged is base and adapter, and restore() takes it back bit for bit", Scalar, float, double) {
  for (const Kind kind : mergeable) {
    for (std::uint64_t index = 0; index < 60; ++index) {
      const LayerShape s = layer_shape(index);
      with_layer<Scalar>(kind, s, 0, index, [&](const auto& layer) {
        const Eigen::VectorXd weights = constant_weights(kind, s, index + 7);
        const Matrix<Scalar> W = random_matrix<Scalar>(s.out, s.in, index + 1), x = random_matrix<Scalar>(s.in, 8, 2);
        const Matrix<Scalar> expected = adapted<Scalar>(layer, W, x, weights);
        const double bound = sizeof(Scalar) == 4 ? 1e-5 : 1e-13;
        Matrix<Scalar> merged = W;
        const SavedWeight<Scalar> saved = merge(layer, merged, weights);
        CHECK((merged * x - expected).norm() <= bound * expected.norm());
        CHECK((merged - W).template cast<double>().isApprox(delta_weight(layer, weights), bound));
        saved.restore(merged);
        CHECK(same_bits(merged, W));
        Matrix<Scalar> transposed = W.transpose();  // stored in × out
        const auto saved_too = merge(layer, transposed.transpose(), weights);
        CHECK((transposed.transpose() * x - expected).norm() <= bound * expected.norm());
        saved_too.restore(transposed.transpose());
        CHECK(same_bits<Scalar>(transposed, W.transpose()));
      });
    }
  }
}

TEST_CASE_TEMPLATE("weights of 16 bits: within their rounding, and restored", Stored, Eigen::half, Eigen::bfloat16) {
  const LayerShape s{40, 30, 3, 2, 8};
  with_layer<float>(Kind::lora, s, 0, 1, [&](const auto& layer) {
    const Eigen::Matrix<Stored, -1, -1> W = random_matrix<float>(s.out, s.in, 3).cast<Stored>();
    Eigen::Matrix<Stored, -1, -1> merged = W;
    const auto saved = merge(layer, merged);
    const Eigen::MatrixXd sum = W.template cast<double>() + delta_weight(layer);
    const double rounding = std::is_same_v<Stored, Eigen::half> ? 1.0 / 2048 : 1.0 / 256;
    CHECK((merged.template cast<double>() - sum).cwiseAbs().maxCoeff() <= rounding * sum.cwiseAbs().maxCoeff());
    CHECK_FALSE(same_storage(merged, W));
    saved.restore(merged);
    CHECK(same_storage(merged, W));
  });
}

TEST_CASE("what cannot be merged is refused, and the weight stays as it was") {
  const LayerShape s{8, 6, 2, 3, 5};
  const Matrix<float> W = random_matrix<float>(s.out, s.in, 3);
  const Matrix<float> tokens = Matrix<float>::Ones(8, 2), none(8, 0);
  Matrix<float> weight = W;
  for (const Kind kind : routed) {
    with_layer<float>(kind, s, 0, 1, [&](const auto& layer) {
      CHECK(message_of([&] { merge(layer, weight); }) == containing("another delta W for every token"));
      CHECK(message_of([&] { delta_weight(layer); }) == containing("use merge_approximately()"));
    });
  }
  with_layer<float>(Kind::split_given, s, 0, 1, [&](const auto& layer) {
    CHECK(message_of([&] { merge(layer, weight); }) == containing("0 weights, expected 3 (heads)"));
    CHECK(message_of([&] { merge(layer, weight, Eigen::VectorXd::Ones(2)); }) == containing("2 weights"));
  });
  with_layer<float>(Kind::lora, s, 0, 1, [&](auto layer) {
    CHECK(message_of([&] { merge(layer, weight, Eigen::VectorXd::Ones(1)); }) ==
          "merge: 1 weights for a LoRA that takes none");
    CHECK(message_of([&] { merge(layer, weight.transpose()); }) == "merge: the weight is 8x6, expected 6x8 (out x in)");
    layer.parameters()[3] = std::numeric_limits<float>::quiet_NaN();
    CHECK(message_of([&] { merge(layer, weight); }) == containing("is not finite"));
    layer.parameters().setConstant(1e20F);  // fits no float, and half a float less
    CHECK(message_of([&] { merge(layer, weight); }) == containing("too large for the weight's type"));
    layer.parameters().setConstant(200);
    Eigen::Matrix<Eigen::half, -1, -1> half = W.cast<Eigen::half>();
    CHECK(message_of([&] { merge(layer, half); }) == containing("too large for the weight's type"));
    CHECK(same_storage<Eigen::half>(half, W.cast<Eigen::half>()));
    const SavedWeight<float> saved(Matrix<float>::Ones(3, 2));
    CHECK(message_of([&] { saved.restore(weight); }) ==
          "SavedWeight::restore: the weight is 6x8, expected 3x2 (out x in)");
    CHECK(message_of([&] { merge_approximately(layer, weight, tokens); }) ==
          "merge_approximately: a LoRA without a learned gate is merged exactly by merge()");
  });
  with_layer<float>(Kind::hydra, s, 0, 1, [&](const auto& layer) {
    CHECK(message_of([&] { merge_approximately(layer, weight, none); }) == containing("no calibration tokens"));
    CHECK(message_of([&] { merge_approximately(layer, weight.leftCols(7), tokens); }) == containing("6x7"));
  });
  CHECK(same_bits(weight, W));
}

TEST_CASE("an approximate merge takes the gate's mean over all the tokens, and reports what it loses") {
  for (const Kind kind : routed) {
    const LayerShape s{12, 9, 2, 3, 40};
    with_layer<double>(kind, s, 0, 3, [&](auto layer) {
      const Matrix<double> W = random_matrix<double>(s.out, s.in, 3), x = random_matrix<double>(s.in, s.tokens, 4);
      Matrix<double> merged = W, exact = W * x;
      typename std::decay_t<decltype(layer)>::Cache cache;
      layer.forward(x, exact, cache);
      const auto result = merge_approximately(layer, merged, x);
      const auto book = textbook<double>(layer);
      Matrix<double> by_hand = W;
      for (Index i = 0; i < s.heads; ++i) {
        double mean = 0;
        for (Index t = 0; t < s.tokens; ++t) mean += cache.weights()(i, t) / static_cast<double>(s.tokens);
        CHECK(result.weights[i] == doctest::Approx(mean).epsilon(1e-12));
        const auto head = static_cast<std::size_t>(i);
        by_hand += book.scaling * mean * book.B[head] * book.A[head];
      }
      CHECK(relative_difference(merged, by_hand) < 1e-13);
      CHECK(result.relative_error == doctest::Approx((merged * x - exact).norm() / exact.norm()).epsilon(1e-12));
      CHECK(result.relative_error > 1e-3);  // these gates do route
      CHECK(result.weights.sum() == doctest::Approx(1).epsilon(1e-12));
      result.saved.restore(merged);
      CHECK(same_bits(merged, W));
      // One token has one ω, and then nothing is lost.
      CHECK(merge_approximately(layer, merged, x.leftCols(1)).relative_error < 1e-14);
    });
  }
}
