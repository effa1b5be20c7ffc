// SPDX-License-Identifier: MIT
//
// The matrices between HydraLoRA's kernels, with a Problem's numbers, in float or double.
#pragma once

#include <hydralora/kernels/stack.hpp>

#include <initializer_list>

#include "harness.hpp"
#include "problem.hpp"

namespace bench {

template <class Scalar>
using Values = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

/// As the layers store them: [A; gate] is (rows × in), [B_1 … B_N] is (out × rows), both column-major.
template <class Scalar, class M>
hydralora::Stack<Scalar> down_stack(Scalar* data, const M& m) {
  return {data, m.rows(), m.cols(), 1, m.rows()};
}
template <class Scalar, class M>
hydralora::Stack<Scalar> up_stack(Scalar* data, const M& m) {
  return {data, m.cols(), m.rows(), m.rows(), 1};
}

template <class Scalar>
struct Operands {
  using M = Values<Scalar>;
  explicit Operands(const Problem& problem)
      : down(problem.A.rows() + problem.gate.rows(), problem.in),
        up(problem.B.cast<Scalar>()),
        x(problem.x.cast<Scalar>()),
        dy(problem.dy.cast<Scalar>()) {
    const Index heads = problem.heads, rank = problem.rank, tokens = problem.tokens;
    down << problem.A.cast<Scalar>(), problem.gate.cast<Scalar>();
    // Any numbers of the right size do for what lies between two kernels.
    p = x.topRows(1).replicate(rank + heads, 1) + dy.topRows(1).replicate(rank + heads, 1);
    h = p.topRows(rank);
    logits = p.bottomRows(heads);
    for (Index i = 0; i < heads; ++i) logits.row(i) *= static_cast<Scalar>(i + 1) / static_cast<Scalar>(heads);
    weights = logits.cwiseAbs() / static_cast<Scalar>(heads);
    in_place = logits;
    v = x.topRows(1).replicate(heads * rank, 1);
    u = M::Zero(heads * rank, tokens);
    dh = M::Zero(rank, tokens);
    y = M::Zero(problem.out, tokens);
    dx = M::Zero(problem.in, tokens);
    ddown = M::Zero(down.rows(), down.cols());
    dup = M::Zero(up.rows(), up.cols());
    combined = M::Zero(problem.out, rank);
  }

  M down, up, x, dy;                      // the stacks and the wide operands
  M p, v;                                 // (rank + heads × tokens), (heads · rank × tokens)
  M h, weights, logits, in_place, u, dh;  // between the stacks
  M y, dx, ddown, dup;                    // added to
  M combined;                             // B̄, (out × rank)
};

inline Work product(const Matrix& a, const Matrix& b, const Matrix& result) {
  // All three sizes of a product a · b are in the sizes of its operands: (m k) (k n) (m n) = (m k n)².
  const double volume =
      std::sqrt(static_cast<double>(a.size()) * static_cast<double>(b.size()) * static_cast<double>(result.size()));
  const auto read = static_cast<double>(sizeof(float)) * static_cast<double>(a.size() + b.size());
  const auto updated = static_cast<double>(sizeof(float)) * static_cast<double>(result.size());
  return {2 * volume, read, updated, read + updated};
}

/// `flop` per number of the largest operand, the one with a number for every token, head and rank.
inline Work elementwise(double flop, std::initializer_list<const Matrix*> read,
                        std::initializer_list<const Matrix*> written) {
  Work work;
  Index largest = 0;
  for (const Matrix* m : read) {
    work.bytes_read += static_cast<double>(sizeof(float)) * static_cast<double>(m->size());
    largest = std::max(largest, m->size());
  }
  for (const Matrix* m : written) {
    work.bytes_updated += static_cast<double>(sizeof(float)) * static_cast<double>(m->size());
    largest = std::max(largest, m->size());
  }
  work.flop = flop * static_cast<double>(largest);
  work.working_set = work.bytes_read + work.bytes_updated;
  return work;
}

}  // namespace bench
