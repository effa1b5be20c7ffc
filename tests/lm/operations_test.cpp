// SPDX-License-Identifier: MIT
//
// The operations of a decoder against their plain twins, at sizes around the registers and blocks of queries.
// decoder_test.cpp compares the twins with transformers, and their gradients with a complex step.
#include <doctest/doctest.h>

#include <hydralora/lm/attention.hpp>
#include <hydralora/lm/batch.hpp>
#include <hydralora/lm/cross_entropy.hpp>
#include <hydralora/lm/reference.hpp>
#include <hydralora/lm/rms_norm.hpp>
#include <hydralora/lm/rope.hpp>
#include <hydralora/lm/swiglu.hpp>

#include "support/shapes.hpp"

using namespace hydralora;
using namespace hydralora::lm;
using namespace support;

namespace {

namespace twin = hydralora::lm::reference;

ModelConfig heads_of(Index heads, Index kv_heads, Index head_dim) {
  ModelConfig c;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = head_dim;
  return c;
}

/// Attention of all heads and its gradients, by the plain twin, head by head and document by document.
struct PlainAttention {
  support::Matrix<float> out, dqkv;

  PlainAttention(const ModelConfig& c, Index window, const support::Matrix<float>& qkv,
                 const std::vector<Index>& documents, const support::Matrix<float>& dout)
      : out(dout.rows(), dout.cols()), dqkv(support::Matrix<float>::Zero(qkv.rows(), qkv.cols())) {
    const Index d = c.head_dim, group = c.heads / c.kv_heads;
    Index first = 0;
    for (const Index count : documents) {
      for (Index h = 0; h < c.heads; ++h) {
        const Index key = c.q_features() + h / group * d, value = key + c.kv_features();
        const auto part = [&](const support::Matrix<float>& m, Index row) -> support::Matrix<float> {
          return m.block(row, first, d, count);
        };
        const support::Matrix<float> q = part(qkv, h * d), k = part(qkv, key), v = part(qkv, value),
                                     dy = part(dout, h * d);
        std::vector<float> log_sums(static_cast<std::size_t>(count));
        support::Matrix<float> y(d, count), dq(d, count);
        support::Matrix<float> dk = support::Matrix<float>::Zero(d, count), dv = support::Matrix<float>::Zero(d, count);
        twin::attend<float>(q, k, v, window, log_sums.data(), 1, y);
        twin::attend_backward<float>(q, k, v, window, log_sums.data(), 1, y, dy, dq, dk, dv);
        out.block(h * d, first, d, count) = y;
        dqkv.block(h * d, first, d, count) = dq;
        dqkv.block(key, first, d, count) += dk;
        dqkv.block(value, first, d, count) += dv;
      }
      first += count;
    }
  }
};

}  // namespace

TEST_CASE("attention and its backward agree with the twin, also where queries lie behind stored keys") {
  const ModelConfig c = heads_of(6, 3, 10);
  const Index qf = c.q_features(), rows = qf + 2 * c.kv_features();
  const std::vector<Index> lists[] = {{1}, {7}, {64}, {65}, {1, 70, 2}, {33, 129}};
  for (const std::vector<Index>& documents : lists) {
    Index tokens = 0;
    for (const Index count : documents) tokens += count;
    const support::Matrix<float> qkv = random_matrix<float>(rows, tokens, 1),
                                 dout = random_matrix<float>(qf, tokens, 2);
    for (const Index window : {0, 1, 5, 70}) {
      CAPTURE(tokens);
      CAPTURE(window);
      const PlainAttention expected(c, window, qkv, documents, dout);
      support::Matrix<float> out(qf, tokens), dqkv(rows, tokens);
      std::vector<float> log_sums(static_cast<std::size_t>(c.heads * tokens));
      const ConstTokens<float> kv = ConstTokens<float>(qkv).rows(qf, rows - qf);
      attention<float>(c, window, qkv, kv, documents, log_sums.data(), out);
      attention_backward<float>(c, window, qkv, documents, log_sums.data(), out, dout, dqkv);
      CHECK(relative_difference(out, expected.out) <= tolerance::law<float>);
      CHECK(relative_difference(dqkv, expected.dqkv) <= tolerance::law<float>);

      if (documents.size() > 1) continue;
      for (const Index stored : {tokens / 2, tokens - 1}) {
        support::Matrix<float> rest(qf, tokens - stored);
        attention<float>(c, window, qkv.rightCols(tokens - stored), kv, {}, log_sums.data(), rest);
        CHECK(relative_difference(rest, out.rightCols(tokens - stored)) <= tolerance::law<float>);
      }
    }
  }
}

TEST_CASE("rotary embeddings turn each pair by its position, anew in every document, and back") {
  const Index head_dim = 6, heads = 3;
  const Rope<double> rope({}, head_dim, 90);
  const std::vector<Index> documents{3, 70, 1};
  const Index tokens = 74, first = 11;
  const support::Matrix<double> before = random_matrix<double>(heads * head_dim, tokens, 3);
  support::Matrix<double> x = before, expected = before;
  rope.forward(x, documents, first);
  Index begin = 0;
  for (const Index count : documents) {
    for (Index t = 0; t < count; ++t) {
      for (Index i = 0; i < heads * head_dim; ++i) {
        const Index pair = i % (head_dim / 2),
                    other = i % head_dim < head_dim / 2 ? i + head_dim / 2 : i - head_dim / 2;
        const auto f = static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(pair) / head_dim));
        const auto angle = static_cast<double>(static_cast<float>(first + t) * f);
        const double sine = i % head_dim < head_dim / 2 ? -std::sin(angle) : std::sin(angle);
        expected(i, begin + t) = before(i, begin + t) * std::cos(angle) + before(other, begin + t) * sine;
      }
    }
    begin += count;
  }
  CHECK(relative_difference(x, expected) <= tolerance::law<double>);
  support::Matrix<double> turned = before;
  rope.forward(turned, documents);
  rope.backward(turned, documents);
  CHECK(relative_difference(turned, before) <= tolerance::law<double>);
}

TEST_CASE_TEMPLATE("RMSNorm and its backward agree with the twin", Scalar, float, double) {
  for (const Index features : {1, 3, 8, 15, 16, 17, 33, 64}) {
    CAPTURE(features);
    const Index tokens = 67;
    const support::Matrix<Scalar> x = random_matrix<Scalar>(features, tokens, 4),
                                  dn = random_matrix<Scalar>(features, tokens, 5);
    const support::Matrix<Scalar> gain = random_matrix<Scalar>(features, 1, 6),
                                  dx = random_matrix<Scalar>(features, tokens, 7);
    std::vector<Scalar> inverse(tokens), plain_inverse(tokens);
    Guarded<Scalar> n(x), ours(dx);
    support::Matrix<Scalar> plain_n = x, plain = dx;
    rms_norm<Scalar>(x, gain.data(), 1e-5, inverse.data(), n.view());
    rms_norm_backward<Scalar>(x, gain.data(), inverse.data(), dn, ours.view());
    twin::rms_norm<Scalar>(x, gain.data(), 1e-5, plain_inverse.data(), plain_n);
    twin::rms_norm_backward<Scalar>(x, gain.data(), plain_inverse.data(), dn, plain);
    CHECK(relative_difference(n.values(), plain_n) <= tolerance::law<Scalar>);
    CHECK(relative_difference(ours.values(), plain) <= tolerance::law<Scalar>);
    CHECK(n.rest_untouched());
    CHECK(ours.rest_untouched());
  }
}

TEST_CASE_TEMPLATE("SwiGLU and its backward agree with the twin", Scalar, float, double) {
  for (const Index features : {1, 3, 8, 15, 16, 17, 33}) {
    CAPTURE(features);
    const Index tokens = 19;
    const support::Matrix<Scalar> in = 4 * random_matrix<Scalar>(2 * features, tokens, 8);
    const support::Matrix<Scalar> dh = random_matrix<Scalar>(features, tokens, 9);
    Guarded<Scalar> h(dh), ours(in);
    support::Matrix<Scalar> plain_h = dh, plain = in;
    swiglu<Scalar>(in, h.view());
    swiglu_backward<Scalar>(ours.view(), dh);
    twin::swiglu<Scalar>(in, plain_h);
    twin::swiglu_backward<Scalar>(plain, dh);
    CHECK(relative_difference(h.values(), plain_h) <= tolerance::law<Scalar>);
    CHECK(relative_difference(ours.values(), plain) <= tolerance::law<Scalar>);
    CHECK(h.rest_untouched());
    CHECK(ours.rest_untouched());
  }
}

TEST_CASE_TEMPLATE("cross entropy and its gradient agree with the twin", Scalar, float, double) {
  for (const Index vocabulary : {1, 7, 16, 33}) {
    CAPTURE(vocabulary);
    const Index tokens = 9;
    const support::Matrix<Scalar> logits = 5 * random_matrix<Scalar>(vocabulary, tokens, 10);
    std::vector<int> labels;
    for (Index t = 0; t < tokens; ++t) labels.push_back(static_cast<int>(t * 5 % vocabulary));
    Guarded<Scalar> ours(logits);
    support::Matrix<Scalar> plain = logits;
    const double loss = cross_entropy<Scalar>(ours.view(), labels.data(), Scalar(0.25));
    const double expected = twin::cross_entropy<Scalar>(plain, labels.data(), Scalar(0.25));
    CHECK(std::abs(loss - expected) <= tolerance::law<Scalar> * (1 + expected));
    CHECK(relative_difference(ours.values(), plain) <= tolerance::law<Scalar>);
    CHECK(ours.rest_untouched());
  }
}

TEST_CASE("batch: no token is scored by the first label of the next document") {
  Batch batch;
  batch.add({1, 2, 3}, {not_scored, 2, 3});
  batch.add({4}, {4});
  batch.add({5, 6, 7}, {5, not_scored, 7});
  CHECK(batch.scored() == std::vector<Index>{0, 1, 5});
  CHECK(batch.prompts() == std::vector<Index>{1, 1, 2});
  CHECK(batch.tokens() == 7);
}
