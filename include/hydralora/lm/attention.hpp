// SPDX-License-Identifier: MIT
// Grouped-query causal attention over packed documents, forward and backward.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>

#include "hydralora/core/narrow.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/segments.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/lm/config.hpp"
#include "hydralora/lm/reference.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

namespace detail {

/// Queries that are taken together: products wide enough for Eigen, and little of the upper triangle computed in vain.
inline constexpr Index query_block = 64;

/// The keys that a block of queries sees: `begin` … `end` − 1 together, `first(i)` … `last(i)` for its query i.
struct KeyRange {
  Index position;  ///< of the block's first query among the keys
  Index window;    ///< 0 = all before
  Index begin, end;

  KeyRange(Index first_position, Index queries, Index window_tokens)
      : position(first_position), window(window_tokens), begin(first(0)), end(first_position + queries) {}
  Index first(Index i) const { return window > 0 ? std::max<Index>(0, position + i + 1 - window) : 0; }
  Index last(Index i) const { return position + i; }
};

/// exp(s − m) / Σ, m = max s, in place. @return  ln Σ exp s.
template <class Scalar>
Scalar softmax_of(Scalar* s, Index count) {
  using B = simd::Batch<Scalar, simd::DefaultArch>;
  constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
  const Index whole = count / width * width;
  const Scalar largest = Eigen::Map<const Eigen::Array<Scalar, Eigen::Dynamic, 1>>(s, count).maxCoeff();
  B sums(Scalar(0));
  for (Index i = 0; i < whole; i += width) {
    const B e = simd::exponential<simd::DefaultArch>(B::load_unaligned(s + i) - B(largest));
    sums += e;
    e.store_unaligned(s + i);
  }
  Scalar sum = simd::ordered_sum<simd::DefaultArch>(sums);
  for (Index i = whole; i < count; ++i) {
    s[i] = std::exp(s[i] - largest);
    sum += s[i];
  }
  const Scalar factor = 1 / sum;
  for (Index i = 0; i < count; ++i) s[i] *= factor;
  return largest + std::log(sum);
}

/// s becomes p = exp(s − ln Σ), d becomes p (d − mean).
template <class Scalar>
void softmax_gradient(Scalar* s, Scalar* d, Index count, Scalar log_sum, Scalar mean) {
  using B = simd::Batch<Scalar, simd::DefaultArch>;
  constexpr Index width = simd::lanes<Scalar, simd::DefaultArch>;
  for (Index i = 0; i < count; i += width) {
    const Index n = count - i;
    const B p = simd::exponential<simd::DefaultArch>(simd::load_first<simd::DefaultArch>(s + i, n) - B(log_sum));
    simd::store_first<simd::DefaultArch>(p, s + i, n);
    simd::store_first<simd::DefaultArch>(B(p * (simd::load_first<simd::DefaultArch>(d + i, n) - B(mean))), d + i, n);
  }
}

/// Zeros in a column of scores outside [first, last].
template <class Scalar>
void mask(Scalar* column, const KeyRange& keys, Index i) {
  std::fill(column, column + keys.first(i) - keys.begin, Scalar(0));
  std::fill(column + keys.last(i) + 1 - keys.begin, column + keys.end - keys.begin, Scalar(0));
}

}  // namespace detail

/// One head: out_i = Σ_j p_ij v_j,  p_i = softmax over j of ⟨q_i, k_j⟩ / √head_dim, for the keys j up to the query's
/// own position, which is i + keys − queries.
/// @param q         (head_dim × queries), read.
/// @param k, v      (head_dim × keys), keys ≥ queries, read.
/// @param window    a query sees so many keys, its own included; 0 = all before.
/// @param log_sums  OVERWRITTEN: ln Σ exp of the scores, for backward; a number per query, `stride` apart.
/// @param out       (head_dim × queries), OVERWRITTEN. Must not overlap q, k or v.
/// Cost     2 · head_dim flop per query and key, twice. Scratch: query_block · keys numbers.
template <class Scalar>
void attend(ConstTokens<Scalar> q, ConstTokens<Scalar> k, ConstTokens<Scalar> v, Index window, Scalar* log_sums,
            Index stride, Tokens<Scalar> out) {
  assert(q.shape() == out.shape() && k.shape() == v.shape() && k.tokens() >= q.tokens());
  if constexpr (!simd::has_simd<Scalar>) {
    reference::attend(q, k, v, window, log_sums, stride, out);
  } else {
    const Scalar scale = 1 / std::sqrt(Scalar(q.features()));
    for (Index first = 0; first < q.tokens(); first += detail::query_block) {
      const Index count = (std::min)(detail::query_block, q.tokens() - first);
      const detail::KeyRange keys(first + k.tokens() - q.tokens(), count, window);
      const Index seen = keys.end - keys.begin;
      ScratchFrame scratch;
      const Tokens<Scalar> scores = scratch.take_tokens<Scalar>(seen, count);
      const Tokens<Scalar> scaled = scratch.take_tokens<Scalar>(q.features(), count);
      scaled.matrix() = scale * q.slice(first, count).matrix();
      scores.matrix().noalias() = k.slice(keys.begin, seen).matrix().transpose() * scaled.matrix();
      for (Index i = 0; i < count; ++i) {
        Scalar* const column = scores.token(i);
        detail::mask(column, keys, i);
        log_sums[(first + i) * stride] =
            detail::softmax_of(column + keys.first(i) - keys.begin, keys.last(i) + 1 - keys.first(i));
      }
      out.slice(first, count).matrix().noalias() = v.slice(keys.begin, seen).matrix() * scores.matrix();
    }
  }
}

/// The gradients of attend(), with the scores computed again.
/// @param out       what attend() gave, read.
/// @param dq        (head_dim × queries), OVERWRITTEN. Must not overlap q.
/// @param dk, dv    (head_dim × keys), ADDED to.
template <class Scalar>
void attend_backward(ConstTokens<Scalar> q, ConstTokens<Scalar> k, ConstTokens<Scalar> v, Index window,
                     const Scalar* log_sums, Index stride, ConstTokens<Scalar> out, ConstTokens<Scalar> dout,
                     Tokens<Scalar> dq, Tokens<Scalar> dk, Tokens<Scalar> dv) {
  assert(q.shape() == out.shape() && q.shape() == dq.shape() && k.shape() == dk.shape() && k.shape() == dv.shape());
  if constexpr (!simd::has_simd<Scalar>) {
    reference::attend_backward(q, k, v, window, log_sums, stride, out, dout, dq, dk, dv);
  } else {
    const Scalar scale = 1 / std::sqrt(Scalar(q.features()));
    for (Index first = 0; first < q.tokens(); first += detail::query_block) {
      const Index count = (std::min)(detail::query_block, q.tokens() - first);
      const detail::KeyRange keys(first + k.tokens() - q.tokens(), count, window);
      const Index seen = keys.end - keys.begin;
      ScratchFrame scratch;
      const Tokens<Scalar> p = scratch.take_tokens<Scalar>(seen, count), ds = scratch.take_tokens<Scalar>(seen, count);
      const Tokens<Scalar> scaled = scratch.take_tokens<Scalar>(q.features(), count);
      const auto keys_seen = k.slice(keys.begin, seen).matrix(), values_seen = v.slice(keys.begin, seen).matrix();
      const auto d = dout.slice(first, count).matrix();
      scaled.matrix() = scale * q.slice(first, count).matrix();
      p.matrix().noalias() = keys_seen.transpose() * scaled.matrix();
      ds.matrix().noalias() = values_seen.transpose() * d;
      for (Index i = 0; i < count; ++i) {
        // Masked scores are set to 0 and never raised: exp(s − ln Σ) of a masked key may be infinite.
        detail::mask(p.token(i), keys, i);
        detail::mask(ds.token(i), keys, i);
        const Index from = keys.first(i) - keys.begin;
        const Scalar mean = out.slice(first + i, 1).matrix().col(0).dot(d.col(i));
        detail::softmax_gradient(p.token(i) + from, ds.token(i) + from, keys.last(i) + 1 - keys.first(i),
                                 log_sums[(first + i) * stride], mean);
      }
      dv.slice(keys.begin, seen).matrix().noalias() += d * p.matrix().transpose();
      dk.slice(keys.begin, seen).matrix().noalias() += scaled.matrix() * ds.matrix().transpose();
      dq.slice(first, count).matrix().noalias() = keys_seen * ds.matrix();
      kernels::scale<Scalar>(dq.slice(first, count), scale);
    }
  }
}

/// Calls f(head, first token, tokens) for every query head of every document, in parallel.
template <class Function>
void for_each_head(const ModelConfig& c, const Segments& documents, Index tokens, Function&& f) {
  documents.for_each(tokens, [&](Index first, Index count) {
    // At least two calls, so that Eigen never splits a product by the number of threads (see parallel_slices()).
    parallel_for(std::max<Index>(c.heads, 2), 8 * count * count * c.q_features() + parallel_work_minimum, [&](Index h) {
      if (h < c.heads) f(h, first, count);
    });
  });
}

/// Attention of all heads. No token sees another document. Source: Vaswani et al. 2017, arXiv:1706.03762; groups of
/// query heads share a key and a value: Ainslie et al. 2023, arXiv:2305.13245.
/// @param q         (at least q features × tokens): the queries in the first rows, after rotary embeddings, read.
/// @param kv        (2 kv features × tokens): keys above values, read. Of one document they may be more tokens than the
///                  queries: the last ones are the queries'.
/// @param log_sums  OVERWRITTEN with `heads` numbers per token, for backward.
/// @param out       (q features × tokens), OVERWRITTEN. Must not overlap the others.
/// Numerics  the same bits for any number of threads.
template <class Scalar>
void attention(const ModelConfig& c, Index window, ConstTokens<Scalar> q, ConstTokens<Scalar> kv,
               const Segments& documents, Scalar* log_sums, Tokens<Scalar> out) {
  const Index before = kv.tokens() - q.tokens(), group = c.heads / c.kv_heads;
  for_each_head(c, documents, q.tokens(), [&](Index h, Index first, Index count) {
    const auto head = [&](const auto& x, Index n, Index size) {
      return x.rows(n * c.head_dim, c.head_dim).slice(first, size);
    };
    attend<Scalar>(head(q, h, count), head(kv, h / group, before + count),
                   head(kv, c.kv_heads + h / group, before + count), window, log_sums + first * c.heads + h, c.heads,
                   head(out, h, count));
  });
}

/// @param dqkv  (q + 2 kv features × tokens), OVERWRITTEN. Must overlap nothing else.
/// Cost     2.5 times attention(). Scratch: a dk and dv for every query head, which are summed head by head.
template <class Scalar>
void attention_backward(const ModelConfig& c, Index window, ConstTokens<Scalar> qkv, const Segments& documents,
                        const Scalar* log_sums, ConstTokens<Scalar> out, ConstTokens<Scalar> dout,
                        Tokens<Scalar> dqkv) {
  const Index group = c.heads / c.kv_heads, q_features = c.q_features(), kv_features = c.kv_features();
  const ConstTokens<Scalar> k = qkv.rows(q_features, kv_features), v = qkv.rows(q_features + kv_features, kv_features);
  ScratchFrame scratch;
  const Tokens<Scalar> dk = scratch.take_tokens<Scalar>(q_features, qkv.tokens());
  const Tokens<Scalar> dv = scratch.take_tokens<Scalar>(q_features, qkv.tokens());
  for_each_head(c, documents, qkv.tokens(), [&](Index h, Index first, Index count) {
    const auto head = [&](const auto& x, Index n) { return x.rows(n * c.head_dim, c.head_dim).slice(first, count); };
    kernels::fill<Scalar>(head(dk, h), Scalar(0));
    kernels::fill<Scalar>(head(dv, h), Scalar(0));
    attend_backward<Scalar>(head(qkv, h), head(k, h / group), head(v, h / group), window,
                            log_sums + first * c.heads + h, c.heads, head(out, h), head(dout, h), head(dqkv, h),
                            head(dk, h), head(dv, h));
  });
  for (Index h = 0; h < c.heads; ++h) {  // a group's heads share a key: their gradients are summed
    for (const auto& [from, first] : {std::pair(dk, q_features), std::pair(dv, q_features + kv_features)}) {
      const Tokens<Scalar> to = dqkv.rows(first + h / group * c.head_dim, c.head_dim);
      const Tokens<Scalar> part = from.rows(h * c.head_dim, c.head_dim);
      if (h % group == 0) kernels::copy<Scalar>(part, to);
      if (h % group != 0) kernels::add<Scalar>(part, to);
    }
  }
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
