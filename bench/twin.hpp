// SPDX-License-Identifier: MIT
//
// How wrong a float result is: compared with the same layer in double. A mistake in the formulas themselves would be in both,
// and would show as the error of every peer.
#pragma once

#include "adapters.hpp"

#include <algorithm>

namespace bench {

/// The largest difference over the largest magnitude, which is what cancels in a sum of products of numbers of that size.
inline double largest_error(const Eigen::MatrixXd& got, const Eigen::MatrixXd& expected) {
  if (expected.size() == 0) return 0;
  return (got - expected).cwiseAbs().maxCoeff() / expected.cwiseAbs().maxCoeff();
}

/// What one pass adds to zeros. down is [dA; dgate], up is dB; only y where there was no backward pass.
struct Results {
  Eigen::MatrixXd y, dx, down, up;
};

inline double largest_error(const Results& got, const Results& expected) {
  return std::max({largest_error(got.y, expected.y), largest_error(got.dx, expected.dx),
                   largest_error(got.down, expected.down), largest_error(got.up, expected.up)});
}

template <class Layer>
Results results_of(const Problem& p, bool backward) {
  Adapter<Layer> adapter(p);
  adapter.forward();
  Results results;
  results.y = adapter.y.template cast<double>();
  if (!backward) return results;
  adapter.backward();
  const auto& shape = adapter.layer.shape();
  using Stored = Eigen::Matrix<typename Layer::Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  results.dx = adapter.dx.template cast<double>();
  results.down = Eigen::Map<const Stored>(adapter.gradients.down_parameters().data(), shape.down_rows(), shape.in)
                     .template cast<double>();
  results.up =
      Eigen::Map<const Stored, Eigen::Unaligned, Eigen::OuterStride<>>(
          adapter.gradients.up_parameters().data(), shape.out, shape.up_rows(), Eigen::OuterStride<>(shape.up_stride()))
          .template cast<double>();
  return results;
}

/// Whether the twin takes less than about a second, at ten multiply-adds a nanosecond.
inline bool twin_is_quick(const Work& work) { return work.flop < 2e10; }

}  // namespace bench
