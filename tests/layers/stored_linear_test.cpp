// SPDX-License-Identifier: MIT
#include "hydralora/layers/stored_linear.hpp"

#include "hydralora/layers/merge.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Linear>
Linear stored(const Matrix<double>& W) {
  return Linear(typename Linear::Storage(W));
}

template <class Scalar, class Linear>
void check_products(const Linear& linear, std::uint64_t seed) {
  const Matrix<Scalar> W = linear.weight();
  for (const Index tokens : {0, 1, 3, 40}) {
    const Matrix<Scalar> x = random_matrix<Scalar>(W.cols(), tokens, seed),
                         dy = random_matrix<Scalar>(W.rows(), tokens, seed + 1);
    const Matrix<Scalar> y0 = random_matrix<Scalar>(W.rows(), tokens, seed + 2),
                         dx0 = random_matrix<Scalar>(W.cols(), tokens, seed + 3);
    Matrix<Scalar> y = y0, dx = dx0;
    linear.forward(x, y);
    linear.backward(dy, dx);
    const double bound = tolerance::product_sum<Scalar>(static_cast<double>(std::max(W.rows(), W.cols())), 4);
    CHECK(relative_difference(y, y0 + W * x) <= bound * (1 + W.norm()));
    CHECK(relative_difference(dx, dx0 + W.transpose() * dy) <= bound * (1 + W.norm()));
    linear.forward(x, y, Write::overwrite);
    linear.backward(dy, dx, Write::overwrite);
    CHECK(relative_difference(y, W * x) <= bound * (1 + W.norm()));
    CHECK(relative_difference(dx, W.transpose() * dy) <= bound * (1 + W.norm()));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a stored weight multiplies as the numbers that it holds", Scalar, float, double) {
  std::uint64_t seed = 0;
  for (const auto& [out, in] :
       {std::pair<Index, Index>{1, 1}, {5, 3}, {64, 64}, {65, 129}, {200, 77}, {3, 500}, {1030, 5}, {3, 0}, {0, 3}}) {
    CAPTURE(out);
    CAPTURE(in);
    const Matrix<double> W = random_matrix<double>(out, in, ++seed);
    check_products<Scalar>(stored<BFloat16Linear<Scalar>>(W), seed);
    check_products<Scalar>(stored<HalfLinear<Scalar>>(W), seed);
    check_products<Scalar>(stored<Int8Linear<Scalar>>(W), seed);
    check_products<Scalar>(stored<NF4Linear<Scalar>>(W), seed);
  }
}

TEST_CASE("what a storage loses is bounded as it says") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Matrix<double> W = random_matrix<double>(1 + static_cast<Index>(seed) * 3, 70 - static_cast<Index>(seed), seed);
    W.row(0) *= 1e-20;
    if (seed % 4 == 1) W.row(W.rows() - 1).setZero();
    const Matrix<double> floats = W.cast<float>().cast<double>();
    const auto error = [&](const auto& linear) -> Matrix<double> {
      return (linear.weight().template cast<double>() - floats).cwiseAbs();
    };
    const Matrix<double> bf16 = error(stored<BFloat16Linear<>>(W)), half = error(stored<HalfLinear<>>(W));
    CHECK((bf16.array() <= floats.array().abs() / 256).all());
    CHECK((half.array() <= floats.array().abs() / 2048 + 3e-8).all());  // below 6e-5 steps are of one size

    const auto int8 = stored<Int8Linear<>>(W);
    const auto nf4 = stored<NF4Linear<>>(W);
    const Matrix<double> lost = error(int8), lost4 = error(nf4);
    for (Index i = 0; i < W.rows(); ++i) {
      CHECK(lost.row(i).maxCoeff() <= 0.5001 * floats.row(i).cwiseAbs().maxCoeff() / 127);
    }
    for (Index n = 0; n < W.size(); ++n) {
      const Index first = n / 64 * 64;
      double largest = 0;
      for (Index k = first; k < std::min(first + 64, W.size()); ++k) {
        largest = std::max(largest, std::abs(floats(k / W.cols(), k % W.cols())));
      }
      CHECK(lost4(n / W.cols(), n % W.cols()) <= 0.152 * largest * (1 + 1e-6));
    }
    // What was stored once is stored again without loss.
    CHECK(NF4Weight(nf4.weight()) == nf4.storage());
    CHECK(Int8Weight(int8.weight()) == int8.storage());
  }
}

TEST_CASE("NF4: the codes, their order in memory and the bytes they take") {
  // One row that holds every code times two, and zeros behind.
  Matrix<float> W = Matrix<float>::Zero(2, 40);
  for (Index i = 0; i < 16; ++i) W(0, i) = 2 * NF4Weight::codes[static_cast<std::size_t>(i)];
  const NF4Linear<float> linear{NF4Weight(W)};
  CHECK(same_bits(linear.weight(), W));  // the zeros too, of which a whole block divides by nothing
  CHECK(linear.storage().scales() == std::vector<float>{2, 0});  // 80 numbers, row after row
  CHECK(linear.storage().bytes() == 40 + 8);
  for (std::size_t i = 1; i < 16; ++i) CHECK(NF4Weight::codes[i] > NF4Weight::codes[i - 1]);
  // A number goes to the nearest code: half way between the lowest two, a little on either side.
  const float between = (NF4Weight::codes[0] + NF4Weight::codes[1]) / 2;
  Matrix<float> sides(1, 3);
  sides << between - 0.01F, between + 0.01F, 1;
  const Matrix<float> read = NF4Linear<float>{NF4Weight(sides)}.weight();
  CHECK(read(0, 0) == NF4Weight::codes[0]);
  CHECK(read(0, 1) == NF4Weight::codes[1]);
  const Matrix<float> large = random_matrix<float>(512, 1024, 1);
  CHECK(static_cast<double>(NF4Weight(large).bytes()) / static_cast<double>(large.size()) == 0.5625);
  const NF4Weight plain(large), twice(large, true);
  CHECK(static_cast<double>(twice.bytes()) / static_cast<double>(large.size()) < 0.52);
  const std::vector<float> scales = plain.scales(), near = twice.scales();
  REQUIRE(scales.size() == near.size());
  const auto [least, most] = std::minmax_element(scales.begin(), scales.end());
  for (std::size_t i = 0; i < scales.size(); ++i) CHECK(std::abs(scales[i] - near[i]) <= (*most - *least) / 250);
  const Matrix<float> zeros = NF4Linear<float>{NF4Weight(Matrix<float>::Zero(3, 70).eval(), true)}.weight();
  CHECK(zeros.isZero(0));
  CHECK(static_cast<double>(Int8Weight(large).bytes()) / static_cast<double>(large.size()) ==
        doctest::Approx(1).epsilon(0.01));
  CHECK(NarrowWeight<Eigen::bfloat16>(large).bytes() == 2 * large.size());
}

TEST_CASE("rows of the smallest and of the largest floats are read within half a step") {
  constexpr float least = std::numeric_limits<float>::denorm_min(), most = std::numeric_limits<float>::max();
  // A step, the 127th part of these, would be 0, denormal or normal; 127 of the last are more than a float.
  for (const float largest : {0.0F, least, 63 * least, 64 * least, 190 * least, 1e-40F, 1e-37F, 2e-36F, 1.0F, most}) {
    CAPTURE(largest);
    Matrix<float> W(2, 5);
    W << largest, largest / 2, 0, -largest, largest / 100, 1, 2, 3, 4, 5;
    const Int8Linear<> int8{Int8Weight(W)};
    const Matrix<double> read = int8.weight().cast<double>(), lost = (read - W.cast<double>()).cwiseAbs();
    for (Index i = 0; i < 2; ++i) {
      CHECK(lost.row(i).maxCoeff() <= 0.5001 * static_cast<double>(int8.storage().steps()[i]));
    }
    CHECK(int8.storage().steps()[0] <= std::max(largest / 127, std::numeric_limits<float>::min()));
    CHECK(Int8Weight(int8.weight()) == int8.storage());
    const Matrix<double> lost4 = (NF4Linear<>{NF4Weight(W.topRows(1))}.weight() - W.topRows(1)).cast<double>();
    CHECK(lost4.cwiseAbs().maxCoeff() <=
          0.152 * static_cast<double>(largest) * (1 + 1e-6) + static_cast<double>(least));
  }
}

TEST_CASE("an adapter is merged into a stored weight and taken out again, bit for bit") {
  const LayerShape s{70, 50, 3, 2, 8};
  const Matrix<double> W = random_matrix<double>(s.out, s.in, 3);
  const auto check = [&](auto linear) {
    using Storage = typename decltype(linear)::Storage;
    with_layer<float>(Kind::lora, s, 0, 1, [&](const auto& layer) {
      const Storage before = linear.storage();
      const Eigen::MatrixXd merged = linear.weight().template cast<double>() + delta_weight(layer);
      const Storage old = linear.exchange(merged);
      CHECK_FALSE(linear.storage() == before);
      CHECK((linear.weight().template cast<double>() - merged).norm() <= 0.15 * merged.norm());
      linear.exchange(old);
      CHECK(linear.storage() == before);
      // Equal is what reads as the same numbers in the same shape: twice W may have the codes of W.
      CHECK_FALSE(Storage(2 * W) == before);
      CHECK_FALSE(Storage(Matrix<float>::Ones(2, 3)) == Storage(Matrix<float>::Ones(3, 2)));
      CHECK(message_of([&] { linear.exchange(Matrix<float>::Ones(3, 4)); }) ==
            "StoredLinear::exchange: the weight is 3x4, expected 50x70 (out x in)");
      Matrix<float> broken = Matrix<float>::Ones(s.out, s.in);
      broken(2, 3) = std::numeric_limits<float>::infinity();
      CHECK(message_of([&] { linear.exchange(broken); }) == containing("finite"));
      CHECK(linear.storage() == before);
    });
  };
  check(stored<BFloat16Linear<>>(W));
  check(stored<HalfLinear<>>(W));
  check(stored<Int8Linear<>>(W));
  check(stored<NF4Linear<>>(W));
}

TEST_CASE("stored weights under an adapter, on any number of threads, and what they refuse") {
  const Matrix<double> W = random_matrix<double>(300, 500, 3);
  const AdaptedLinear<NF4Linear<float>, LoRA<float>> layer(stored<NF4Linear<float>>(W),
                                                           LoRA<float>(LoRAConfig{500, 300, 4}));
  const Matrix<float> x = random_matrix<float>(500, 60, 1), dy = random_matrix<float>(300, 60, 2);
  Matrix<float> first_y, first_dx;
  for (const int threads : thread_counts) {
    const Threads scope(threads);
    Matrix<float> y = Matrix<float>::Zero(300, 60), dx = Matrix<float>::Zero(500, 60);
    LoRA<float>::Cache cache;
    LoRA<float>::Gradients g(layer.adapter.config());
    layer.forward(x, y, cache);
    layer.backward(x, dy, cache, g, dx);
    if (threads == 1) first_y = y, first_dx = dx;
    CHECK(same_bits(y, first_y));
    CHECK(same_bits(dx, first_dx));
  }
  const auto linear = stored<Int8Linear<float>>(W);
  Matrix<float> y(300, 59);
  CHECK(message_of([&] { linear.forward(x, y); }) ==
        "StoredLinear::forward: from 500x60 to 300x59, expected 500x60 to 300x60");
  Matrix<float> both(500, 60);
  CHECK(message_of([&] { linear.forward(both, both.topRows(300)); }) == containing("overlap"));
  Matrix<float> large = Matrix<float>::Constant(1, 1, 1e5F);
  CHECK(message_of([&] { NarrowWeight<Eigen::half>{large}; }) ==
        "NarrowWeight: a number is not finite, or too large for 16 bits");
  large(0, 0) = std::numeric_limits<float>::quiet_NaN();
  CHECK(message_of([&] { NF4Weight{large}; }) == "NF4Weight: number (0, 0) is not finite as a float");
  CHECK(message_of([&] { Int8Weight{large}; }) == "Int8Weight: row 0 has a number that is not finite as a float");
}
