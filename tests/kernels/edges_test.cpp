// SPDX-License-Identifier: MIT
//
// The edges of the kernels' blocks. Numbers are small integers, so that every order of summation gives the same sum and
// a result is right or wrong; whatever a kernel has no business with is NaN, so that a number read by mistake shows;
// and buffers end with their last number, so that AddressSanitizer sees what is read beyond.
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

template <class Scalar>
constexpr Scalar not_a_number = std::numeric_limits<Scalar>::quiet_NaN();

/// Integers in [-3, 3].
template <class Scalar>
Matrix<Scalar> integers(Index rows, Index cols, std::uint64_t seed) {
  Matrix<Scalar> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) {
    seed = seed * 6364136223846793005U + 1442695040888963407U;  // Philox took most of the time
    m.data()[i] = static_cast<Scalar>(static_cast<int>((seed >> 33U) % 7) - 3);
  }
  return m;
}

/// How a stack lies in memory.
struct Layout {
  bool feature_major;
  Index gap;    ///< numbers between its runs
  Index slack;  ///< numbers after the last one, NaN, that the kernels may read
};

template <class Scalar>
void check_exactly(Index rows, Index features, Index tokens, const Layout& layout) {
  const std::uint64_t seed = static_cast<std::uint64_t>(rows * 1000003 + features * 1009 + tokens);
  const Matrix<Scalar> s = integers<Scalar>(rows, features, seed), x = integers<Scalar>(features, tokens, seed + 1),
                       p = integers<Scalar>(rows, tokens, seed + 2);
  const Index offset = static_cast<Index>(seed % 3), gap = static_cast<Index>(seed % 5);
  Guarded<Scalar> stack(layout.feature_major ? s : Matrix<Scalar>(s.transpose()), offset, layout.gap, layout.slack);
  const Index row_stride = layout.feature_major ? 1 : stack.stride(),
              feature_stride = layout.feature_major ? stack.stride() : 1;
  const Stack<Scalar> view{stack.data(), rows, features, row_stride, feature_stride, layout.slack};
  const ConstStack<Scalar> read{stack.data(), rows, features, row_stride, feature_stride, layout.slack};
  Guarded<Scalar> xs(x, 1, gap), ps(p, offset, gap);
  std::string wrong;

  Guarded<Scalar> projected(Matrix<Scalar>::Constant(rows, tokens, not_a_number<Scalar>), 1, gap);
  kernels::shrink<Scalar>(read, xs.view(), Scalar(1), projected.view());
  if (projected.values() != s * x || !projected.rest_untouched()) wrong += " shrink";

  Guarded<Scalar> y(x, offset, gap);
  kernels::expand<Scalar>(read, ps.view(), Scalar(2), y.view());
  if (y.values() != x + Scalar(2) * s.transpose() * p || !y.rest_untouched()) wrong += " expand";
  if (!stack.untouched()) wrong += " stack written";

  kernels::accumulate<Scalar>(ps.view(), xs.view(), Scalar(-2), view);
  const Matrix<Scalar> sum = s - Scalar(2) * p * x.transpose();
  if (stack.values() != (layout.feature_major ? sum : Matrix<Scalar>(sum.transpose())) || !stack.rest_untouched()) {
    wrong += " accumulate";
  }
  if (!xs.untouched() || !ps.untouched()) wrong += " input written";

  INFO(rows, " rows, ", features, " features, ", tokens, " tokens, feature-major ", layout.feature_major, ", gap ",
       layout.gap, ", slack ", layout.slack);
  CHECK(wrong == "");
}

/// In every layout: both orders, with and without gaps, with no slack, one number and plenty.
template <class Scalar>
void check_layouts(Index rows, Index features, Index tokens) {
  for (const Layout& layout : {Layout{true, 0, 0}, Layout{true, 0, 1}, Layout{true, 0, 64}, Layout{true, 3, 0},
                               Layout{true, 3, 64}, Layout{false, 0, 0}, Layout{false, 3, 0}}) {
    check_exactly<Scalar>(rows, features, tokens, layout);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("the skinny products at every number of rows", Scalar, float, double) {
  for (Index rows = 1; rows <= 70; ++rows) {
    check_layouts<Scalar>(rows, 21, 3);
    check_layouts<Scalar>(rows, 70, 11);
    check_exactly<Scalar>(rows, 300, 1, {true, 0, 64});
    check_exactly<Scalar>(rows, 261, 20, {true, 0, 64});
  }
}

TEST_CASE_TEMPLATE("the skinny products at features of the first blocks and around others", Scalar, float, double) {
  std::vector<Index> some;
  for (Index features = 1; features <= 270; ++features) some.push_back(features);
  for (const Index block : {512, 768, 1024, 2048, 4096}) {
    for (Index features = block - 2; features <= block + 2; ++features) some.push_back(features);
  }
  for (const Index features : {1030, 1055, 1087, 1300, 1791, 2000}) some.push_back(features);
  for (const Index features : some) {
    for (const Index tokens : {1, 2, 4, 7}) {
      check_exactly<Scalar>(3, features, tokens, {false, 1, 0});
      check_exactly<Scalar>(9, features, tokens, {true, 0, 20});
    }
    check_exactly<Scalar>(5, features, 70, {false, 0, 0});
    check_exactly<Scalar>(16, features, 66, {true, 0, 0});
  }
}

TEST_CASE_TEMPLATE("the skinny products at tokens of the first blocks and around others", Scalar, float, double) {
  std::vector<Index> some;
  for (Index tokens = 0; tokens <= 70; ++tokens) some.push_back(tokens);
  for (const Index block : {128, 192, 256, 512, 1024}) {
    for (const Index more : {-2, -1, 0, 1, 2, 5, 8}) some.push_back(block + more);
  }
  for (const Index tokens : some) {
    check_layouts<Scalar>(7, 37, tokens);
    check_exactly<Scalar>(33, 140, tokens, {true, 0, 31});
    check_exactly<Scalar>(2, 1100, tokens, {false, 0, 0});
  }
}

TEST_CASE_TEMPLATE("the skinny products of stacks larger than the cache, on any threads", Scalar, float, double) {
  for (const int threads : {1, 4}) {
    const Threads use(threads);
    check_exactly<Scalar>(70, 2000, 9, {true, 0, 64});
    check_exactly<Scalar>(64, 2100, 70, {true, 0, 0});
    check_exactly<Scalar>(70, 2000, 130, {false, 32, 0});
    check_exactly<Scalar>(12, 300, 1100, {true, 0, 64});
    check_exactly<Scalar>(12, 300, 1100, {false, 0, 0});
  }
}

TEST_CASE_TEMPLATE("a token's P and Y have the same bits alone and in any batch", Scalar, float, double) {
  constexpr Index features = 2100, tokens = 131;  // 8 blocks of 256 side by side and one more; two groups of tokens
  const Matrix<Scalar> x = random_matrix<Scalar>(features, tokens, 1);
  for (const Index rows : {3, 17, 70}) {  // the last does not stay in the cache
    const Matrix<Scalar> s = random_matrix<Scalar>(rows, features, 2), p = random_matrix<Scalar>(rows, tokens, 3);
    for (const bool feature_major : {true, false}) {
      INFO(rows, " rows, feature-major ", feature_major);
      Guarded<Scalar> buffer(feature_major ? s : Matrix<Scalar>(s.transpose()), 0, 0, 64);
      const ConstStack<Scalar> stack = feature_major
                                           ? ConstStack<Scalar>{buffer.data(), rows, features, 1, rows, 64}
                                           : ConstStack<Scalar>{buffer.data(), rows, features, features, 1, 64};
      const auto run = [&](Index begin, Index count) {
        Matrix<Scalar> result(rows + features, count);
        result.bottomRows(features) = x.middleCols(begin, count);
        kernels::shrink<Scalar>(stack, x.middleCols(begin, count), Scalar(1), result.topRows(rows));
        kernels::expand<Scalar>(stack, p.middleCols(begin, count), Scalar(0.7), result.bottomRows(features));
        return result;
      };
      Matrix<Scalar> whole;
      for (const int threads : {1, 4}) {
        const Threads use(threads);
        const Matrix<Scalar> result = run(0, tokens);
        if (threads == 1) whole = result;
        CHECK(same_bits(result, whole));
      }
      for (const Index count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64, 65}) {
        CAPTURE(count);
        for (const Index begin : {Index(0), Index(7), tokens - count}) {
          CHECK(same_bits<Scalar>(run(begin, count), whole.middleCols(begin, count)));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("head mixing at every rank", Scalar, float, double) {
  for (const bool shared : {true, false}) {
    for (Index heads = 1; heads <= 9; ++heads) {
      for (Index rank = 1; rank <= 40; ++rank) {
        for (const Index tokens : {1, 3, 66}) {
          if (tokens == 66 && heads % 3 != 0) continue;
          const std::uint64_t seed = static_cast<std::uint64_t>(heads * 1009 + rank);
          const Index gap = rank % 3;
          const Matrix<Scalar> h = integers<Scalar>(shared ? rank : heads * rank, tokens, seed),
                               w = integers<Scalar>(heads, tokens, seed + 1),
                               v = integers<Scalar>(heads * rank, tokens, seed + 2);
          Matrix<Scalar> u(heads * rank, tokens), dw(heads, tokens), dh(h.rows(), tokens);
          reference::mix_heads<Scalar>(h, w, u);
          reference::mix_heads_backward<Scalar>(v, h, w, dw, dh);
          const auto empty = [&](const Matrix<Scalar>& like) {
            return Guarded<Scalar>(Matrix<Scalar>::Constant(like.rows(), like.cols(), not_a_number<Scalar>), 1, gap);
          };
          Guarded<Scalar> hs(h, 1, gap), ws(w, 0, gap), vs(v, 1, gap), us = empty(u), dws = empty(dw), dhs = empty(dh);
          kernels::mix_heads<Scalar>(hs.view(), ws.view(), us.view());
          kernels::mix_heads_backward<Scalar>(vs.view(), hs.view(), ws.view(), dws.view(), dhs.view());
          INFO("shared ", shared, ", ", heads, " heads, rank ", rank, ", ", tokens, " tokens");
          CHECK((us.values() == u && us.rest_untouched()));
          CHECK((dws.values() == dw && dws.rest_untouched()));
          CHECK((dhs.values() == dh && dhs.rest_untouched()));
          CHECK((hs.untouched() && ws.untouched() && vs.untouched()));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("NaN in one head stays in that head", Scalar, float, double) {
  const Index tokens = 3;
  for (const Index heads : {2, 3, 5}) {
    for (Index rank = 1; rank <= 35; ++rank) {
      for (Index dirty = 0; dirty < heads; ++dirty) {
        INFO(heads, " heads, rank ", rank, ", dirty ", dirty);
        Matrix<Scalar> h = integers<Scalar>(heads * rank, tokens, 1), w = integers<Scalar>(heads, tokens, 2),
                       v = integers<Scalar>(heads * rank, tokens, 3);
        const Matrix<Scalar> shared = integers<Scalar>(rank, tokens, 4), clean_v = v;
        Matrix<Scalar> u(heads * rank, tokens), dw(heads, tokens), dh(heads * rank, tokens), dshared(rank, tokens);
        h.middleRows(dirty * rank, rank).setConstant(not_a_number<Scalar>);
        const auto only_dirty = [&](const Matrix<Scalar>& m) {
          const Index run = m.rows() / heads;
          for (Index i = 0; i < heads; ++i) {
            const auto isnan = m.middleRows(i * run, run).array().isNaN();
            if (i == dirty ? !isnan.all() : isnan.any()) return false;
          }
          return true;
        };
        kernels::mix_heads<Scalar>(h, w, u);
        CHECK(only_dirty(u));
        kernels::mix_heads_backward<Scalar>(v, h, w, dw, dh);
        CHECK(only_dirty(dw));
        CHECK_FALSE(dh.array().isNaN().any());
        v.middleRows(dirty * rank, rank).setConstant(not_a_number<Scalar>);
        kernels::mix_heads_backward<Scalar>(v, shared, w, dw, dshared);
        CHECK(only_dirty(dw));
        w.row(dirty).setConstant(not_a_number<Scalar>);
        kernels::mix_heads<Scalar>(shared, w, u);
        CHECK(only_dirty(u));
        kernels::mix_heads_backward<Scalar>(clean_v, shared, w, dw, dshared);
        CHECK_FALSE(dw.array().isNaN().any());
      }
    }
  }
}

TEST_CASE_TEMPLATE("NaN and Inf stay in their token, row or feature in all three products", Scalar, float, double) {
  const Index features = 1070;
  for (const Index rows : {3, 9, 20}) {
    for (const Index tokens : {2, 7, 13, 70}) {
      for (const bool feature_major : {true, false}) {
        INFO(rows, " rows, ", tokens, " tokens, feature-major ", feature_major);
        const Matrix<Scalar> s = integers<Scalar>(rows, features, 1);
        const Matrix<Scalar> turned = s.transpose();
        const ConstStack<Scalar> stack = feature_major ? ConstStack<Scalar>{s.data(), rows, features, 1, rows}
                                                       : ConstStack<Scalar>{turned.data(), rows, features, features, 1};
        const Matrix<Scalar> x = integers<Scalar>(features, tokens, 2), p = integers<Scalar>(rows, tokens, 3);
        const Matrix<Scalar> contracted = s * x, expanded = s.transpose() * p, ds = p * x.transpose();
        const Index token = tokens / 2, row = rows / 2;
        for (const Index feature : {Index(0), Index(255), features - 1}) {
          Matrix<Scalar> dirty_x = x, dirty_p = p;
          dirty_x(feature, token) = not_a_number<Scalar>;
          dirty_p(row, token) = std::numeric_limits<Scalar>::infinity();
          Matrix<Scalar> out(rows, tokens), grown = Matrix<Scalar>::Zero(features, tokens),
                                            sum = Matrix<Scalar>::Zero(rows, features),
                                            sum_turned = Matrix<Scalar>::Zero(features, rows);
          kernels::shrink<Scalar>(stack, dirty_x, Scalar(1), out);
          kernels::expand<Scalar>(stack, dirty_p, Scalar(1), grown);
          CHECK(out.col(token).array().isNaN().all());
          CHECK_FALSE(grown.col(token).array().isFinite().any());  // Inf, or NaN where the stack is zero
          out.col(token) = contracted.col(token);
          grown.col(token) = expanded.col(token);
          CHECK(out == contracted);
          CHECK(grown == expanded);
          // accumulate: a feature's NaN and a row's Inf each spoil a line of dS
          const Stack<Scalar> d = feature_major ? Stack<Scalar>{sum.data(), rows, features, 1, rows}
                                                : Stack<Scalar>{sum_turned.data(), rows, features, features, 1};
          kernels::accumulate<Scalar>(dirty_p, dirty_x, Scalar(1), d);
          Matrix<Scalar> got = feature_major ? sum : Matrix<Scalar>(sum_turned.transpose());
          CHECK(got.col(feature).array().isNaN().all());
          CHECK_FALSE(got.row(row).array().isFinite().any());
          got.col(feature) = ds.col(feature);
          got.row(row) = ds.row(row);
          CHECK(got == ds);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("softmax gives a token the same bits in any batch, and writes nothing else", Scalar, float, double) {
  for (Index heads = 1; heads <= 40; ++heads) {
    for (const Index tokens : {1, 5, 64, 65, 131}) {
      INFO(heads, " heads, ", tokens, " tokens");
      Matrix<Scalar> logits = Scalar(3) * random_matrix<Scalar>(heads, tokens, 1);
      const Matrix<Scalar> dw = random_matrix<Scalar>(heads, tokens, 2);
      if (tokens > 2)
        logits(heads - 1, 1) = not_a_number<Scalar>, logits(0, 2) = std::numeric_limits<Scalar>::infinity();
      Guarded<Scalar> w(logits, 1, heads % 3), g(dw, 0, heads % 4);
      kernels::softmax<Scalar>(w.view());
      CHECK(w.rest_untouched());
      const Matrix<Scalar> weights = w.values();
      kernels::softmax_backward<Scalar>(w.view(), g.view());
      CHECK(g.rest_untouched());
      for (Index t = 0; t < tokens; ++t) {
        if (tokens > 2 && (t == 1 || t == 2)) {
          CHECK(weights.col(t).array().isNaN().any());
          continue;
        }
        Matrix<Scalar> alone = logits.col(t), gradient = dw.col(t);
        kernels::softmax<Scalar>(alone);
        kernels::softmax_backward<Scalar>(alone, gradient);
        CHECK(same_bits<Scalar>(alone, weights.col(t)));
        CHECK(same_bits<Scalar>(gradient, g.values().col(t)));
      }
    }
  }
}
