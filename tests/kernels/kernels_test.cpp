// SPDX-License-Identifier: MIT
//
// The kernels against their reference twins in double: all small sizes, both layouts, strided and misaligned views,
// scales from 1e-15 to 1e15.
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

/// A stack over a matrix in either layout: feature-major (a column-major rows × features matrix) or row-major.
template <class Scalar>
struct StackBuffer {
  Matrix<Scalar> storage;
  bool feature_major;
  Index rows, features;

  StackBuffer(const Matrix<Scalar>& values, bool feature_major_layout)
      : storage(feature_major_layout ? values : Matrix<Scalar>(values.transpose())),
        feature_major(feature_major_layout),
        rows(values.rows()),
        features(values.cols()) {}
  Stack<Scalar> stack() {
    return feature_major ? Stack<Scalar>{storage.data(), rows, features, 1, rows}
                         : Stack<Scalar>{storage.data(), rows, features, features, 1};
  }
  ConstStack<Scalar> view() {
    const Stack<Scalar> s = stack();
    return {s.data, s.rows, s.features, s.row_stride, s.feature_stride};
  }
  Matrix<Scalar> values() const { return feature_major ? storage : Matrix<Scalar>(storage.transpose()); }
};

/// Entry by entry within the rounding of sums of so many terms, whose sizes add up to `magnitude`.
template <class Scalar>
bool agree(const Matrix<Scalar>& found, const Matrix<double>& expected, Index terms, const Matrix<double>& magnitude) {
  const double rounding = tolerance::product_sum<Scalar>(static_cast<double>(terms));
  return ((found.template cast<double>() - expected).cwiseAbs().array() <= rounding * magnitude.array()).all();
}

template <class Scalar>
void check_products(Index rows, Index features, Index tokens, bool feature_major, double scale, std::uint64_t seed) {
  INFO(rows, " rows, ", features, " features, ", tokens, " tokens, feature-major ", feature_major, ", scale ", scale);
  const auto factor = static_cast<Scalar>(scale);
  const Matrix<Scalar> s = factor * random_matrix<Scalar>(rows, features, seed),
                       x = random_matrix<Scalar>(features, tokens, seed + 1),
                       p = random_matrix<Scalar>(rows, tokens, seed + 2),
                       y = factor * random_matrix<Scalar>(features, tokens, seed + 3);
  const Matrix<double> sd = s.template cast<double>(), xd = x.template cast<double>(), pd = p.template cast<double>();
  StackBuffer<Scalar> stack(s, feature_major), ds = stack;
  StackBuffer<double> twin(sd, feature_major), dsd = twin;
  Guarded<Scalar> out(Matrix<Scalar>::Constant(rows, tokens, Scalar(7)), 1, 5), xs(x, 1, 3), ys(y, 2, 3), ps(p, 1, 2);
  Matrix<double> expected(rows, tokens), yd = y.template cast<double>();
  const Matrix<double> y_before = yd.cwiseAbs();
  kernels::shrink<Scalar>(stack.view(), xs.view(), Scalar(1), out.view());
  reference::shrink<double>(twin.view(), xd, expected);
  CHECK(agree(out.values(), expected, features, sd.cwiseAbs() * xd.cwiseAbs()));
  CHECK(out.rest_untouched());
  kernels::expand<Scalar>(stack.view(), ps.view(), Scalar(1.25), ys.view());
  reference::expand<double>(twin.view(), pd, 1.25, yd);
  CHECK(agree(ys.values(), yd, rows, 1.25 * sd.cwiseAbs().transpose() * pd.cwiseAbs() + y_before));
  CHECK(ys.rest_untouched());
  kernels::accumulate<Scalar>(ps.view(), xs.view(), Scalar(-0.75), ds.stack());
  reference::accumulate<double>(pd, xd, -0.75, dsd.stack());
  CHECK(agree(ds.values(), dsd.values(), tokens, pd.cwiseAbs() * xd.cwiseAbs().transpose() + sd.cwiseAbs()));
}

}  // namespace

TEST_CASE_TEMPLATE("the three skinny products agree with their twins", Scalar, float, double) {
  std::uint64_t seed = 0;
  for (const bool feature_major : {true, false}) {
    for (const Index rows : {1, 2, 3, 7, 8, 9, 11, 16, 17, 32, 33, 40}) {
      for (const Index features : {1, 2, 5, 8, 15, 16, 17, 31, 33, 64, 255, 256, 257, 600}) {
        for (const Index tokens : {0, 1, 2, 5, 6, 7, 13})
          check_products<Scalar>(rows, features, tokens, feature_major, 1, ++seed);
      }
    }
  }
  for (const double scale : {1e-15, 1e15}) check_products<Scalar>(9, 70, 20, true, scale, ++seed);
  for (const Index tokens : {47, 48, 49, 127, 128, 129, 300}) check_products<Scalar>(12, 70, tokens, true, 1, ++seed);
}

TEST_CASE_TEMPLATE("softmax and its backward agree with their twins and sum to one", Scalar, float, double) {
  for (Index heads = 1; heads <= 35; ++heads) {
    const Matrix<Scalar> logits = Scalar(3) * random_matrix<Scalar>(heads, 9, static_cast<std::uint64_t>(heads));
    Guarded<Scalar> w(logits);
    Matrix<double> expected = logits.template cast<double>();
    kernels::softmax<Scalar>(w.view());
    reference::softmax<double>(expected);
    CHECK(relative_difference(w.values(), expected) < tolerance::softmax<Scalar>);
    CHECK(w.rest_untouched());
    CHECK((w.values().colwise().sum().array() - 1).abs().maxCoeff() < tolerance::weights_sum<Scalar>);
    const Matrix<Scalar> dw = random_matrix<Scalar>(heads, 9, static_cast<std::uint64_t>(heads) + 50);
    Guarded<Scalar> g(dw);
    Matrix<double> expected_g = dw.template cast<double>();
    kernels::softmax_backward<Scalar>(w.view(), g.view());
    reference::softmax_backward<double>(w.values().template cast<double>().eval(), expected_g);
    CHECK(relative_difference(g.values(), expected_g) < tolerance::product_sum<Scalar>(static_cast<double>(heads)));
    CHECK(g.rest_untouched());
  }
}

TEST_CASE_TEMPLATE("softmax of extreme logits", Scalar, float, double) {
  constexpr Scalar inf = std::numeric_limits<Scalar>::infinity(), nan = std::numeric_limits<Scalar>::quiet_NaN();
  const auto weights = [](std::initializer_list<Scalar> logits) {
    Matrix<Scalar> w(static_cast<Index>(logits.size()), 1);
    std::copy(logits.begin(), logits.end(), w.data());
    Matrix<Scalar> twin = w;
    kernels::softmax<Scalar>(w);
    reference::softmax<Scalar>(twin);
    CHECK(w.array().isNaN().any() == twin.array().isNaN().any());
    if (!w.array().isNaN().any()) CHECK(relative_difference(w, twin) < tolerance::softmax<Scalar>);
    return w;
  };
  CHECK(weights({Scalar(3.25)})(0) == 1);
  CHECK(weights({Scalar(-1e4)})(0) == 1);
  CHECK(weights({-inf})(0) == 1);
  const auto far = weights({Scalar(1e4), Scalar(-1e4), Scalar(0)});
  CHECK(far(0) == 1);
  CHECK(far(1) == 0);
  CHECK(weights({-inf, Scalar(1), Scalar(1)})(0) == 0);
  CHECK(weights({-inf, Scalar(1), Scalar(1)})(1) == Scalar(0.5));
  CHECK(weights({-inf, -inf})(0) == Scalar(0.5));
  CHECK(weights({Scalar(1e4), Scalar(1e4), Scalar(1e4)}).array().isFinite().all());
  CHECK(weights({nan, Scalar(1), Scalar(2)}).array().isNaN().all());
  CHECK(weights({inf, Scalar(1)}).array().isNaN().any());
}

TEST_CASE_TEMPLATE("head mixing and the reduction over the heads agree with their twins", Scalar, float, double) {
  std::uint64_t seed = 900;
  for (const bool shared : {true, false}) {
    for (const Index heads : {1, 2, 3, 4, 8, 10}) {
      for (const Index rank : {1, 2, 3, 4, 7, 8, 9, 16, 17, 33}) {
        for (const Index tokens : {0, 1, 3, 70}) {
          INFO("shared ", shared, ", ", heads, " heads, rank ", rank, ", ", tokens, " tokens");
          ++seed;
          const Matrix<Scalar> h = random_matrix<Scalar>(shared ? rank : heads * rank, tokens, seed),
                               w = random_matrix<Scalar>(heads, tokens, seed + 1),
                               v = random_matrix<Scalar>(heads * rank, tokens, seed + 2);
          const Matrix<double> hd = h.template cast<double>(), wd = w.template cast<double>(),
                               vd = v.template cast<double>();
          Guarded<Scalar> u(Matrix<Scalar>::Zero(heads * rank, tokens)), dw(w), dh(h), hs(h), ws(w), vs(v);
          Matrix<double> ud(heads * rank, tokens), dwd(heads, tokens), dhd(h.rows(), tokens);
          kernels::mix_heads<Scalar>(hs.view(), ws.view(), u.view());
          kernels::mix_heads_backward<Scalar>(vs.view(), hs.view(), ws.view(), dw.view(), dh.view());
          reference::mix_heads<double>(hd, wd, ud);
          reference::mix_heads_backward<double>(vd, hd, wd, dwd, dhd);
          const double bound = tolerance::product_sum<Scalar>(static_cast<double>(rank + heads), 4);
          CHECK(relative_difference(u.values(), ud) < bound);
          CHECK(relative_difference(dw.values(), dwd) < bound);
          CHECK(relative_difference(dh.values(), dhd) < bound);
          CHECK((u.rest_untouched() && dw.rest_untouched() && dh.rest_untouched()));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("one weighting for a run of tokens: combined heads, then a plain product", Scalar, float, double) {
  for (const Index heads : {1, 2, 3, 8}) {
    for (const Index rank : {1, 3, 8}) {
      for (const Index features : {1, 7, 33, 300, 1024}) {
        INFO(heads, " heads, rank ", rank, ", ", features, " features");
        StackBuffer<Scalar> up(random_matrix<Scalar>(heads * rank, features, 1), false);
        const Matrix<Scalar> weights = random_matrix<Scalar>(heads, 1, 2), h = random_matrix<Scalar>(rank, 5, 3);
        Matrix<Scalar> combined = Matrix<Scalar>::Constant(features, rank, Scalar(9));
        const Stack<Scalar> stack{combined.data(), rank, features, features, 1};
        kernels::combine_heads<Scalar>(up.view(), weights, stack);

        Matrix<double> expected = Matrix<double>::Zero(features, rank);
        for (Index i = 0; i < heads; ++i) {
          const auto weight = static_cast<double>(weights(i, 0));
          expected += weight * up.storage.middleCols(i * rank, rank).template cast<double>();
        }
        const double rounding = tolerance::product_sum<Scalar>(static_cast<double>(heads * rank));
        CHECK((combined.template cast<double>() - expected).cwiseAbs().maxCoeff() <=
              rounding * static_cast<double>(heads));

        // The same as mixing every token by itself.
        Matrix<Scalar> together = Matrix<Scalar>::Zero(features, 5), one_by_one = together, u(heads * rank, 5);
        kernels::expand<Scalar>({combined.data(), rank, features, features, 1}, h, Scalar(1), together);
        kernels::mix_heads<Scalar>(h, Matrix<Scalar>(weights.replicate(1, 5)), u);
        kernels::expand<Scalar>(up.view(), u, Scalar(1), one_by_one);
        CHECK((together - one_by_one).cwiseAbs().maxCoeff() <=
              static_cast<Scalar>(rounding * static_cast<double>(heads * rank)));

        // One head alone comes through exactly.
        Matrix<Scalar> one_hot = Matrix<Scalar>::Zero(heads, 1);
        one_hot(heads - 1, 0) = 1;
        kernels::combine_heads<Scalar>(up.view(), one_hot, stack);
        CHECK(combined == up.storage.rightCols(rank));
      }
    }
  }
}

TEST_CASE("NaN and Inf in one token stay in that token: the products, softmax and head mixing, forward and backward") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const Matrix<float> s = random_matrix<float>(12, 40, 4), y = random_matrix<float>(40, 13, 5);
  StackBuffer<float> by_rows(s, false), by_features(s, true);
  const auto run = [&](const Matrix<float>& x) {  // its first rows are h of rank 3 and the logits
    Matrix<float> p(12, 13), w = x.topRows(4), u(12, 13), dw(4, 13), dh(3, 13), out = y;
    kernels::shrink<float>(by_features.view(), x, 1.0F, p);
    kernels::softmax<float>(w);
    kernels::mix_heads<float>(x.topRows(3), w, u);
    kernels::expand<float>(by_rows.view(), u, 0.5F, out);
    kernels::mix_heads_backward<float>(u, x.topRows(3), w, dw, dh);
    kernels::softmax_backward<float>(w, dw);
    Matrix<float> all(12 + 4 + 12 + 40 + 4 + 3, 13);
    all << p, w, u, out, dw, dh;
    return all;
  };
  const Matrix<float> x = random_matrix<float>(40, 13, 6), clean = run(x);
  for (const float bad : {nan, inf}) {
    for (Index dirty_token = 0; dirty_token < 13; ++dirty_token) {
      Matrix<float> changed = x;
      changed(0, dirty_token) = bad;
      const Matrix<float> dirty = run(changed);
      CHECK_FALSE(dirty.col(dirty_token).array().isFinite().any());
      if (bad != inf) CHECK(dirty.col(dirty_token).array().isNaN().all());
      for (Index t = 0; t < 13; ++t) {
        if (t != dirty_token) CHECK(same_bits<float>(dirty.col(t), clean.col(t)));
      }
    }
  }
}

TEST_CASE("head mixing gives the same bits on any number of threads") {
  const Index heads = 4, rank = 8, tokens = 40000;  // above parallel_work_minimum
  REQUIRE(heads * rank * tokens > parallel_work_minimum);
  const Matrix<float> h = random_matrix<float>(rank, tokens, 1), w = random_matrix<float>(heads, tokens, 2),
                      v = random_matrix<float>(heads * rank, tokens, 3);
  Matrix<float> first_u, first_dw, first_dh;
  for (const int threads : thread_counts) {
    const Threads use(threads);
    Matrix<float> u(heads * rank, tokens), dw(heads, tokens), dh(rank, tokens);
    kernels::mix_heads<float>(h, w, u);
    kernels::mix_heads_backward<float>(v, h, w, dw, dh);
    if (threads == 1) first_u = u, first_dw = dw, first_dh = dh;
    CHECK((same_bits(u, first_u) && same_bits(dw, first_dw) && same_bits(dh, first_dh)));
    CHECK(same_bits<float>(u.col(tokens - 1).tail(rank), w(heads - 1, tokens - 1) * h.col(tokens - 1)));
  }
}
