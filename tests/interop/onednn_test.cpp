// SPDX-License-Identifier: MIT
#include "hydralora/interop/onednn.hpp"

#include <doctest/doctest.h>

#include "support/errors.hpp"

using namespace hydralora;

namespace {

using Matrix = Eigen::MatrixXf;

/// y and dx of a base for views into larger matrices.
template <class Base>
Matrix products(const Base& base, Index tokens, Write write) {
  const Index in = base.in_features(), out = base.out_features();
  std::srand(1);
  const Matrix x = Matrix::Random(in + 3, tokens), dy = Matrix::Random(out + 1, tokens);
  Matrix results = Matrix::Random(in + out + 5, tokens);
  base.forward(ConstTokens<float>(x).rows(2, in), Tokens<float>(results).rows(1, out), write);
  base.backward(ConstTokens<float>(dy).rows(1, out), Tokens<float>(results).rows(out + 2, in), write);
  return results;
}

template <class Base>
void check_against(const Base& base, const DenseView<float>& expected, float tolerance) {
  for (const Index tokens : {1, 5, 40}) {
    for (const Write write : {Write::overwrite, Write::add}) {
      const Matrix a = products(base, tokens, write), b = products(expected, tokens, write);
      CHECK((a - b).norm() <= tolerance * b.norm());
      const Index in = base.in_features(), out = base.out_features();
      for (const Index row : {Index(0), out + 1, out + in + 2}) CHECK(a.row(row) == b.row(row));  // not its own
    }
  }
  Matrix x = Matrix::Zero(3, 2), y = Matrix::Zero(base.out_features(), 2);
  CHECK(support::message_of([&] { base.forward(Tokens<float>(x), Tokens<float>(y)); }) ==
        support::containing("the input is 3x2, expected"));
}

}  // namespace

TEST_CASE("oneDNN multiplies a weight in the host's memory as Eigen does") {
  for (const auto& [out, in] : {std::pair<Index, Index>{17, 33}, {64, 48}, {1, 5}}) {
    const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> W = Matrix::Random(out, in);
    const DenseView<float> view(W.data(), out, in);
    check_against(OneDnnLinear(view), view, 1e-6F);
  }
}

TEST_CASE("a bfloat16 weight: two terms are as good as float, one is not") {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> W = Matrix::Random(64, 48);
  const DenseView<float> view(W.data(), 64, 48);
  const OneDnnBFloat16Linear two(view, 2), one(view, 1);
  W.row(63) *= 2;  // the base has a copy
  Matrix row(48, 1);
  two.row(63, row.data());
  CHECK((2 * row.transpose() - W.row(63)).norm() < 0.01F * W.row(63).norm());
  for (Index i = 0; i < 64; ++i) two.row(i, &W(i, 0));
  if (!OneDnnBFloat16Linear::supported()) {
    MESSAGE("oneDNN does not multiply bfloat16 on this processor: the products are not tested");
  } else {
    check_against(two, view, 1e-5F);
    check_against(one, view, 1e-2F);
    CHECK((products(one, 40, Write::overwrite) - products(view, 40, Write::overwrite)).norm() >
          1e-4F * products(view, 40, Write::overwrite).norm());
  }
  W(3, 3) = std::numeric_limits<float>::infinity();
  CHECK(support::message_of([&] { OneDnnBFloat16Linear(view, 2); }) == support::containing("not finite"));
  CHECK(support::message_of([&] { OneDnnBFloat16Linear(view, 3); }) ==
        "OneDnnBFloat16Linear: 3 terms, expected 1 or 2");
}
