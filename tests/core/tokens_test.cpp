// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <hydralora/core/tokens.hpp>
#include <type_traits>
#include <vector>

using namespace hydralora;

namespace {
const float* address_of(ConstTokens<float> x) { return x.data(); }
float* writable_address_of(Tokens<float> y) { return y.data(); }
}  // namespace

TEST_CASE("a view of an Eigen expression is the same memory, never a copy") {
  Eigen::MatrixXf m = Eigen::MatrixXf::Random(6, 5);
  const Eigen::MatrixXf& constant = m;
  CHECK(address_of(m) == m.data());
  CHECK(address_of(constant) == m.data());
  CHECK(address_of(m.middleCols(2, 2)) == m.data() + 12);
  CHECK(address_of(m.middleRows(1, 3)) == m.data() + 1);
  CHECK(address_of(m.block(2, 1, 3, 2)) == &m(2, 1));
  CHECK(address_of(m.col(3)) == &m(0, 3));
  CHECK(writable_address_of(m) == m.data());
  CHECK(writable_address_of(m.rightCols(2)) == &m(0, 3));
  const Eigen::Ref<const Eigen::MatrixXf> ref(m);
  CHECK(address_of(ref) == m.data());
  const Eigen::Map<Eigen::MatrixXf, 0, Eigen::OuterStride<>> map(m.data(), 3, 5, Eigen::OuterStride<>(6));
  CHECK(address_of(map) == m.data());
  CHECK(ConstTokens<float>(map).stride() == 6);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = m.transpose();
  CHECK(address_of(rows.transpose()) == rows.data());  // a transposed row-major buffer has contiguous columns
  Eigen::VectorXf v = Eigen::VectorXf::Random(4);
  CHECK(address_of(v) == v.data());
  CHECK(ConstTokens<float>(v).shape() == Shape{4, 1});
}

TEST_CASE("a view reports its shape, and its parts point into the same memory") {
  Eigen::MatrixXf m = Eigen::MatrixXf::Random(6, 5);
  const Tokens<float> view = m.middleRows(1, 4);
  CHECK(view.shape() == Shape{4, 5});
  CHECK(view.stride() == 6);
  CHECK(&view(2, 3) == &m(3, 3));
  CHECK(view.slice(1, 3).token(2) == &m(1, 3));
  CHECK(view.rows(1, 2).data() == &m(2, 0));
  CHECK(view.matrix() == m.middleRows(1, 4));
  const ConstTokens<float> constant = view;
  CHECK(constant.matrix() == view.matrix());
}

TEST_CASE("views from raw pointers check their arguments") {
  std::vector<float> buffer(20);
  CHECK(ConstTokens<float>(buffer.data(), 4, 5).stride() == 4);
  CHECK(ConstTokens<float>(buffer.data(), 3, 5, 4).token(4) == buffer.data() + 16);
  CHECK_NOTHROW(ConstTokens<float>(nullptr, 4, 0));
  CHECK_THROWS_WITH_AS(ConstTokens<float>(buffer.data(), -1, 5), "tokens view: negative size -1x5",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(ConstTokens<float>(buffer.data(), 4, 5, 3), "tokens view: stride 3 is below 4 features",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(Tokens<float>(nullptr, 4, 5), "tokens view: null data for 4x5", std::invalid_argument);
}

TEST_CASE("views of an Eigen::Map are checked as raw pointers are") {
  using Map = Eigen::Map<Eigen::MatrixXf, 0, Eigen::OuterStride<>>;
  std::vector<float> buffer(20);
  CHECK_NOTHROW(ConstTokens<float>(Map(buffer.data(), 4, 5, Eigen::OuterStride<>(4))));
  CHECK_NOTHROW(ConstTokens<float>(Map(nullptr, 4, 0, Eigen::OuterStride<>(4))));
  CHECK_THROWS_WITH_AS(ConstTokens<float>(Map(buffer.data(), 4, 5, Eigen::OuterStride<>(3))),
                       "tokens view: stride 3 is below 4 features", std::invalid_argument);
}

TEST_CASE("overlap is exact, also for interleaved columns") {
  Eigen::MatrixXf m = Eigen::MatrixXf::Zero(8, 6);
  const auto meets = [](ConstTokens<float> a, ConstTokens<float> b) { return overlap(a, b) && overlap(b, a); };
  const auto apart = [](ConstTokens<float> a, ConstTokens<float> b) { return !overlap(a, b) && !overlap(b, a); };
  CHECK(meets(m, m));
  CHECK(apart(m.topRows(4), m.bottomRows(4)));
  CHECK(meets(m.topRows(5), m.bottomRows(4)));
  CHECK(apart(m.leftCols(3), m.rightCols(3)));
  CHECK(meets(m.leftCols(4), m.rightCols(3)));
  CHECK(meets(m.col(2), m.middleRows(1, 1)));
  CHECK(apart(m.topRows(2), m.middleRows(3, 1)));
  CHECK(apart(m.leftCols(0), m));
  // different strides: columns of 3 every 7 against columns of 2 every 5
  std::vector<float> buffer(64);
  for (Index offset = 0; offset < 20; ++offset) {
    bool shared = false;
    for (Index t = 0; t < 4; ++t) {
      for (Index u = 0; u < 3; ++u) {
        for (Index i = 0; i < 3; ++i) {
          for (Index j = 0; j < 2; ++j) shared = shared || t * 7 + i == offset + u * 5 + j;
        }
      }
    }
    CAPTURE(offset);
    CHECK(overlap<float>({buffer.data(), 3, 4, 7}, {buffer.data() + offset, 2, 3, 5}) == shared);
  }
}
