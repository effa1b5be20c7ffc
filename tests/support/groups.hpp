// SPDX-License-Identifier: MIT
#pragma once

#include <hydralora/train/parameter_group.hpp>

#include "support/shapes.hpp"

namespace support {

template <class Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

/// In place: assigning a temporary would swap an Eigen vector's memory away from under the groups.
template <class Scalar>
void fill_random(Vector<Scalar>& v, std::uint64_t seed, std::uint64_t step = 0) {
  const CounterRandom random(seed);
  for (Index i = 0; i < v.size(); ++i) v[i] = static_cast<Scalar>(random.normal(static_cast<std::uint64_t>(i), step));
}

template <class Scalar>
Vector<Scalar> random_vector(Index size, std::uint64_t seed) {
  Vector<Scalar> v(size);
  fill_random(v, seed);
  return v;
}

template <class Scalar>
hydralora::ParameterGroup<Scalar> group_of(Vector<Scalar>& p, Vector<Scalar>& g, double learning_rate = 1e-3,
                                           double weight_decay = 0) {
  return {{p.data(), p.size()}, {g.data(), g.size()}, learning_rate, weight_decay};
}

}  // namespace support
