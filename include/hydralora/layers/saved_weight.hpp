// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

#include "hydralora/core/expects.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A copy of a base weight before merge() or an initialisation changed it. Subtracting ΔW would not restore it.
template <class Scalar>
class SavedWeight {
 public:
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  explicit SavedWeight(Matrix original) : original_(std::move(original)) {}

  const Matrix& original() const { return original_; }
  /// Restores the weight (an Eigen matrix, block, map or transpose in memory), bit for bit.
  /// @throws std::invalid_argument  if the shape differs; the weight is then unchanged.
  template <class Weight>
  void restore(Weight&& weight) const {
    expects_shape("SavedWeight::restore", "the weight", Shape{weight.rows(), weight.cols()},
                  Shape{original_.rows(), original_.cols()}, "out x in");
    weight = original_;
  }

 private:
  Matrix original_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
