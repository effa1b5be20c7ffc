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
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;  ///< column-major

  explicit SavedWeight(Matrix original) : original_(std::move(original)) {}

  const Matrix& original() const { return original_; }
  /// Restores the weight, bit for bit.
  ///
  /// @param weight  an Eigen matrix, block, map or transpose in memory.
  /// @throws std::invalid_argument  if the shape differs; the weight is then unchanged.
  template <class Derived>
  void restore(Eigen::MatrixBase<Derived>& weight) const {
    expects_shape("SavedWeight::restore", "the weight", Shape{weight.rows(), weight.cols()},
                  Shape{original_.rows(), original_.cols()}, "out x in");
    weight = original_;
  }
  template <class Derived>
  void restore(Eigen::MatrixBase<Derived>&& weight) const {
    restore(weight);
  }

 private:
  Matrix original_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
