// SPDX-License-Identifier: MIT
// Initialisations other than the constructor's (A and the gate kaiming-uniform, B = 0), and ways to break the symmetry
// of equal heads: under a uniform gate, heads with B_i = 0 get the same gradient at every step and stay equal
// (head_cosine() shows it). Not part of hydralora/train.hpp, because Eigen's SVD and QR compile slowly.
#pragma once

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/one_instruction_set.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/saved_weight.hpp"
#include "hydralora/layers/split_lora.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// A of a head, or the one A of the layer; B_of() likewise.
template <class Layer>
auto A_of(Layer& layer, [[maybe_unused]] Index head) {
  if constexpr (Layer::Middle::shares_A) {
    return layer.A();
  } else {
    return layer.A(head);
  }
}
template <class Layer>
auto B_of(Layer& layer, [[maybe_unused]] Index head) {
  if constexpr (Layer::Middle::shares_A && Layer::Middle::shares_B) {
    return layer.B();
  } else {
    return layer.B(head);
  }
}
template <class Layer>
Index A_count(const Layer& layer) {
  return layer.shape().a_rows / layer.shape().rank;
}

/// N(0, deviation²), the same on every platform. `head` and `what` select independent draws.
inline Eigen::MatrixXd gaussian_matrix(Index rows, Index cols, double deviation, std::uint64_t seed, Index what,
                                       Index head) {
  // Streams 0 to 2 of a seed are used by the layer (RandomStream).
  const CounterRandom random(seed, 8 + static_cast<std::uint64_t>(what));
  Eigen::MatrixXd matrix(rows, cols);
  for (Index j = 0; j < cols; ++j) {
    for (Index i = 0; i < rows; ++i) {
      matrix(i, j) = deviation * random.normal(static_cast<std::uint64_t>(j), static_cast<std::uint64_t>(i),
                                               static_cast<std::uint64_t>(head));
    }
  }
  return matrix;
}

}  // namespace detail

/// A ~ N(0, 1/rank²) and B_i ~ N(0, up_deviation²), the gate as in a new layer. With the default, B = 0, the adapter
/// adds nothing at first; a small deviation (such as 1e-3) makes the heads differ, and adds a little noise.
/// Source: PEFT's init_lora_weights="gaussian".
/// @throws std::invalid_argument  if up_deviation is negative or not finite; the layer is then unchanged.
template <class Layer>
void initialize_gaussian(Layer& layer, std::uint64_t seed, double up_deviation = 0) {
  using Scalar = typename Layer::Scalar;
  const AdapterShape& shape = layer.shape();
  expects(up_deviation >= 0 && std::isfinite(up_deviation), "initialize_gaussian: up_deviation ", up_deviation,
          " must be finite and at least 0");
  layer.initialize();
  for (Index i = 0; i < detail::A_count(layer); ++i) {
    detail::A_of(layer, i) =
        detail::gaussian_matrix(shape.rank, shape.in, 1.0 / static_cast<double>(shape.rank), seed, 0, i)
            .template cast<Scalar>();
  }
  if (up_deviation == 0) return;
  for (Index i = 0; i < shape.heads; ++i) {
    detail::B_of(layer, i) =
        detail::gaussian_matrix(shape.out, shape.rank, up_deviation, seed, 1, i).template cast<Scalar>();
  }
}

/// A and B_i are not zero and differ between heads, but every B_i A_i = 0: A = Q_oddᵀ R and B_i = R_i Q_even, with the
/// odd and the even rows of an orthogonal rank × rank matrix Q, and R, R_i ~ N(0, 0.1²). The gate as in a new layer.
/// Source: PEFT's init_lora_weights="orthogonal", with an R_i for every head of HydraLoRA.
/// @throws std::invalid_argument  if the rank is odd; the layer is then unchanged.
template <class Layer>
void initialize_orthogonal(Layer& layer, std::uint64_t seed) {
  using Scalar = typename Layer::Scalar;
  const AdapterShape& shape = layer.shape();
  expects(shape.rank % 2 == 0, "initialize_orthogonal: rank ", shape.rank, " of ", shape.layer, " must be even");
  layer.initialize();
  const Index half = shape.rank / 2;
  constexpr double deviation = 0.1;  // as in PEFT
  Eigen::MatrixXd odd(half, shape.rank), even(half, shape.rank);
  for (Index i = 0; i < shape.heads; ++i) {
    if (i < detail::A_count(layer)) {
      const Eigen::MatrixXd Q =
          detail::gaussian_matrix(shape.rank, shape.rank, 1, seed, 2, i).householderQr().householderQ();
      for (Index k = 0; k < half; ++k) {
        odd.row(k) = Q.row(2 * k);
        even.row(k) = Q.row(2 * k + 1);
      }
      detail::A_of(layer, i) =
          (odd.transpose() * detail::gaussian_matrix(half, shape.in, deviation, seed, 3, i)).template cast<Scalar>();
    }
    detail::B_of(layer, i) =
        (detail::gaussian_matrix(shape.out, half, deviation, seed, 4, i) * even).template cast<Scalar>();
  }
}

namespace detail {

template <class Layer, class Weight>
void check_weight_for(const char* where, const Layer& layer, const Weight& weight) {
  using Middle = typename Layer::Middle;
  static_assert(std::is_same_v<typename Middle::Linear, Middle> && Middle::shares_A,
                "hydralora: only a layer with one A can start as a part of W; use LoRA or HydraLoRA");
  const AdapterShape& shape = layer.shape();
  expects(Layer::Middle::shares_B || shape.gated(), where,
          ": needs weights of the heads that sum to 1: Routing::learned");
  expects_shape(where, "the weight", Shape{weight.rows(), weight.cols()}, Shape{shape.out, shape.in}, "out x in");
  expects(shape.rank <= (std::min)(shape.in, shape.out), where, ": rank ", shape.rank, " of ", shape.layer,
          " is above the weight's ", (std::min)(shape.in, shape.out));
  expects(weight.allFinite(), where, ": the weight is not finite");
  expects(layer.scaling() > 0 && std::isfinite(layer.scaling()), where, ": scaling ", layer.scaling(),
          " must be finite and above 0");
}

/// Moves s · B A from W to the adapter. All heads get the same B, so any ω with sum 1 adds s · B A.
template <class Layer, class Scalar>
SavedWeight<Scalar> move_into_adapter(const char* where, Layer& layer, const Eigen::MatrixXd& B,
                                      const Eigen::MatrixXd& A,
                                      Eigen::Ref<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>> weight) {
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  const Matrix rounded_B = B.template cast<Scalar>(), rounded_A = A.template cast<Scalar>();
  // The product of the rounded matrices: what the adapter will add.
  const Eigen::MatrixXd moved = rounded_B.template cast<double>() * rounded_A.template cast<double>();
  const Matrix rest =
      (weight.template cast<double>() - static_cast<double>(layer.scaling()) * moved).template cast<Scalar>();
  expects(rounded_A.allFinite() && rounded_B.allFinite() && rest.allFinite(), where,
          ": the weight's numbers are too large to be split");
  SavedWeight<Scalar> saved(weight);
  layer.initialize();
  A_of(layer, 0) = rounded_A;
  for (Index i = 0; i < layer.shape().heads; ++i) B_of(layer, i) = rounded_B;
  weight = rest;
  return saved;
}

}  // namespace detail

/// Moves the principal part of W into the adapter:  W = U Σ Vᵀ,  A = √(Σ_r / s) V_rᵀ,  B = U_r √(Σ_r / s),  W −= s B A.
/// Base and adapter together compute the same as the base before, up to rounding and without dropout.
/// Source   PiSSA, Meng et al. 2024, arXiv:2404.02948. For LoRA, and HydraLoRA with a learned gate: its heads all start
///          with the same B, so use HeadWarmup too.
/// @param layer   A and every B are OVERWRITTEN; the gate is initialised as in a new layer.
/// @param weight  (out × in), CHANGED.
/// @return  the old weight, to restore it.
/// @throws std::invalid_argument  on another shape, a rank above min(in, out), or a W that is not finite or too large;
///                   nothing is then changed.
/// Cost     one SVD in double, about 20 · in · out · min(in, out) flop, and some copies of W.
template <class Layer>
SavedWeight<typename Layer::Scalar> initialize_pissa(
    Layer& layer, Eigen::Ref<Eigen::Matrix<typename Layer::Scalar, Eigen::Dynamic, Eigen::Dynamic>> weight) {
  detail::check_weight_for("initialize_pissa", layer, weight);
  const Index rank = layer.shape().rank;
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(weight.template cast<double>(), Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd root = (svd.singularValues().head(rank) / static_cast<double>(layer.scaling())).cwiseSqrt();
  return detail::move_into_adapter<Layer, typename Layer::Scalar>(
      "initialize_pissa", layer, svd.matrixU().leftCols(rank) * root.asDiagonal(),
      root.asDiagonal() * svd.matrixV().leftCols(rank).transpose(), weight);
}

/// The same with the first columns of W = Q R:  B = Q_r,  A = R_r,  W −= s B A. B is orthonormal.
/// Source   OLoRA, Büyükakyüz 2024, arXiv:2406.01775.
/// Layers, changes, result and errors as in initialize_pissa().
/// Cost     one QR in double, about 4/3 · in · out · min(in, out) flop, and some copies of W.
template <class Layer>
SavedWeight<typename Layer::Scalar> initialize_olora(
    Layer& layer, Eigen::Ref<Eigen::Matrix<typename Layer::Scalar, Eigen::Dynamic, Eigen::Dynamic>> weight) {
  detail::check_weight_for("initialize_olora", layer, weight);
  const Index rank = layer.shape().rank;
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(weight.template cast<double>());
  const Eigen::MatrixXd Q = qr.householderQ() * Eigen::MatrixXd::Identity(weight.rows(), rank);
  Eigen::MatrixXd R = qr.matrixQR().topRows(rank);
  for (Index j = 0; j < rank; ++j) R.col(j).tail(rank - 1 - j).setZero();  // removes the Householder vectors
  return detail::move_into_adapter<Layer, typename Layer::Scalar>("initialize_olora", layer, Q, R, weight);
}

/// Initialises the gate from clusters of its inputs:  G_i = strength · (c_i − c̄) / v,  v the mean of ‖c_i − c̄‖².
/// The logit of head i is about `strength` higher at c_i than at c̄. Only the gate is OVERWRITTEN.
/// @param centroids  (in_features × heads), such as KMeansResult::centroids; (rank × heads) if the gate reads A x.
/// @param strength   in logits.
/// @throws std::invalid_argument  on a layer without a learned gate, another shape, or equal or non-finite centroids.
template <class Layer, class Derived>
void initialize_gate(Layer& layer, const Eigen::MatrixBase<Derived>& centroids, double strength = 1) {
  expects(layer.shape().gated(), "initialize_gate: ", layer.shape(), " has no learned gate");
  auto gate = layer.gate();
  expects_shape("initialize_gate", "centroids", Shape{centroids.rows(), centroids.cols()},
                Shape{gate.cols(), gate.rows()}, "gate inputs x heads");
  const Eigen::MatrixXd c = centroids.template cast<double>();
  const Eigen::MatrixXd from_centre = c.colwise() - c.rowwise().mean();
  const double spread = from_centre.squaredNorm() / static_cast<double>(c.cols());
  const double square = c.squaredNorm() / static_cast<double>(c.cols());
  expects(std::isfinite(square) && std::isfinite(strength), "initialize_gate: centroids or strength ", strength,
          " are not finite");
  constexpr double rounding = 1e-24;  // of a mean in double, squared, with a margin
  expects(spread > rounding * square, "initialize_gate: the centroids are all the same");
  using Scalar = typename Layer::Scalar;
  const Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> rows =
      (strength / spread * from_centre.transpose()).template cast<Scalar>();
  expects(rows.allFinite(), "initialize_gate: the centroids are too close together");
  gate = rows;
}

/// During the first steps only one head, drawn at random for every step, gets a gradient, so that equal heads diverge.
///
///   const HeadWarmup warmup(layer.config().heads, 100, seed);
///   layer.backward(x, dy, cache, g, dx);
///   warmup.apply(step, g);
///
/// Its functions throw std::invalid_argument on heads < 1, steps < 0, step < 0 or gradients of other heads.
class HeadWarmup {
 public:
  HeadWarmup(Index heads, Index steps, std::uint64_t seed) : heads_(heads), steps_(steps), random_(seed, 7) {
    expects(heads >= 1, "HeadWarmup: heads is ", heads, ", expected >= 1");
    expects(steps >= 0, "HeadWarmup: steps is ", steps, ", expected >= 0");
  }
  /// The head that learns in this step (0, 1, …), or −1 if all do.
  Index head(Index step) const {
    expects(step >= 0, "HeadWarmup: step is ", step, ", expected >= 0");
    if (step >= steps_) return -1;
    return static_cast<Index>(random_.below(static_cast<std::uint64_t>(heads_), static_cast<std::uint64_t>(step)));
  }
  /// Sets the gradients of the other heads' B to 0. Those of A and the gate are unchanged.
  template <class Gradients>
  void apply(Index step, Gradients& g) const {
    const Index active = head(step), has = g.config().heads;
    expects(has == heads_, "HeadWarmup: the gradients have ", has, " heads, expected ", heads_);
    for (Index i = 0; active >= 0 && i < heads_; ++i) {
      if (i != active) g.B(i).setZero();
    }
  }

 private:
  Index heads_, steps_;
  CounterRandom random_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
