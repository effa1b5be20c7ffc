// SPDX-License-Identifier: MIT
// How alike adapters are: the A and the B of two layers, of two runs, of the heads of one layer; and a plane to draw
// many. With the same seed every A starts as the same matrix (arXiv:2509.25414), so compare runs with different seeds
// too. Not part of hydralora/analysis.hpp, as Eigen's SVD compiles slowly.
#pragma once

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/one_instruction_set.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The cosine of two matrices after the best rotation of their rows: max over orthogonal R of ⟨X, R Y⟩ / (‖X‖ ‖Y‖),
/// which is the nuclear norm of X Yᵀ over the norms. For A; for B pass B(i).transpose(). So matrices that differ only
/// by a rotation of the rank-r space, which B A does not depend on, have cosine 1.
/// @return  in [0, 1]; 0 if one of them is zero.
/// @throws std::invalid_argument  if the shapes differ, or on numbers that are not finite.
template <class X, class Y>
double aligned_cosine(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Y>& y) {
  expects_shape("aligned_cosine", "the second matrix", Shape{y.rows(), y.cols()}, Shape{x.rows(), x.cols()},
                "the shape of the first");
  const Eigen::MatrixXd a = x.template cast<double>(), b = y.template cast<double>();
  expects(a.allFinite() && b.allFinite(), "aligned_cosine: the matrices are not finite");
  const double norm_a = a.stableNorm(), norm_b = b.stableNorm();
  if (norm_a == 0 || norm_b == 0) return 0;
  const Eigen::BDCSVD<Eigen::MatrixXd> svd((a / norm_a) * (b / norm_b).transpose());
  return (std::min)(1.0, svd.singularValues().sum());
}

/// The cosines of the principal angles between two column spaces, descending: all 1 = one contains the other, all 0 =
/// orthogonal. For B(i); for A pass A().transpose(). Source: Björck and Golub 1973.
/// @return  as many numbers in [0, 1] as the smaller rank; none for a zero matrix.
/// @throws std::invalid_argument  if the numbers of rows differ, or on numbers that are not finite.
template <class X, class Y>
Eigen::VectorXd principal_cosines(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Y>& y) {
  expects(x.rows() == y.rows(), "principal_cosines: columns of ", x.rows(), " and of ", y.rows(), " numbers");
  expects(x.allFinite() && y.allFinite(), "principal_cosines: the columns are not finite");
  const auto orthonormal = [](const Eigen::MatrixXd& m) -> Eigen::MatrixXd {
    if (m.size() == 0) return Eigen::MatrixXd(m.rows(), 0);
    const Eigen::ColPivHouseholderQR<Eigen::MatrixXd> qr(m);
    return qr.householderQ() * Eigen::MatrixXd::Identity(m.rows(), qr.rank());
  };
  const Eigen::MatrixXd overlap =
      orthonormal(x.template cast<double>()).transpose() * orthonormal(y.template cast<double>());
  if (overlap.size() == 0) return Eigen::VectorXd();
  return Eigen::BDCSVD<Eigen::MatrixXd>(overlap).singularValues().cwiseMin(1.0);
}

struct PrincipalComponents {
  Eigen::MatrixXd coordinates;  ///< (components × samples)
  Eigen::VectorXd variance;     ///< of each component, as a share of the total, descending
};

/// PCA of the centred columns. The coordinate with the largest absolute value of each component is positive.
/// @param samples     (features × samples): flattened matrices, activations.
/// @param components  1 … min(features, samples).
/// @throws std::invalid_argument  on another number of components, or numbers that are not finite.
/// Cost     one SVD in double of a features × samples matrix.
template <class Derived>
PrincipalComponents principal_components(const Eigen::MatrixBase<Derived>& samples, Index components) {
  const Eigen::MatrixXd points = samples;
  expects(components >= 1 && components <= (std::min)(points.rows(), points.cols()),
          "principal_components: ", components, " components of ", Shape{points.rows(), points.cols()},
          " numbers (features x samples)");
  expects(points.allFinite(), "principal_components: the points are not finite");
  Eigen::MatrixXd centred = points.colwise() - points.rowwise().mean();
  constexpr double rounding = 1e-12;  // of centring equal numbers
  if (centred.cwiseAbs().maxCoeff() <= rounding * points.cwiseAbs().maxCoeff()) centred.setZero();
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(centred, Eigen::ComputeThinV);
  const Eigen::VectorXd squares = svd.singularValues().cwiseAbs2();
  PrincipalComponents result;
  result.coordinates =
      svd.singularValues().head(components).asDiagonal() * svd.matrixV().leftCols(components).transpose();
  result.variance =
      squares.sum() > 0 ? Eigen::VectorXd(squares.head(components) / squares.sum()) : Eigen::VectorXd::Zero(components);
  for (Index i = 0; i < components; ++i) {
    Index largest = 0;
    result.coordinates.row(i).cwiseAbs().maxCoeff(&largest);
    if (result.coordinates(i, largest) < 0) result.coordinates.row(i) *= -1;
  }
  return result;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
