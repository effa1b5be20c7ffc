// SPDX-License-Identifier: MIT
// Merging an adapter into the weight of its base. It is exact if ΔW is the same for all tokens: LoRA, the plain sum of
// a SplitLoRA's heads, constant weights of the heads. A routed layer can only be merged approximately.
#pragma once

#include <type_traits>
#include <utility>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/one_instruction_set.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/adapter_shape.hpp"
#include "hydralora/layers/call_options.hpp"
#include "hydralora/layers/gate.hpp"
#include "hydralora/layers/saved_weight.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// s Σ_i ω_i B_i A_i in double, (out × in). With a shared A or B: A_i = A, B_i = B.
template <class Layer>
Eigen::MatrixXd weighted_delta(const Layer& layer, const Eigen::VectorXd& weights) {
  const AdapterShape& shape = layer.shape();
  const Index rank = shape.rank;
  const auto rows = [](const auto& stack, Index first, Index count) {  // (count × features)
    return Eigen::MatrixXd::NullaryExpr(
        count, stack.features, [&stack, first](Index i, Index j) { return static_cast<double>(stack(first + i, j)); });
  };
  Eigen::MatrixXd delta = Eigen::MatrixXd::Zero(shape.out, shape.in);
  const bool one_A = shape.a_rows == rank, one_B = shape.up_heads == 1;
  for (Index i = 0; i < shape.heads; ++i) {
    delta.noalias() += weights[i] * rows(layer.up_stack(), one_B ? 0 : i * rank, rank).transpose() *
                       rows(layer.down_stack(), one_A ? 0 : i * rank, rank);
  }
  return static_cast<double>(layer.scaling()) * delta;
}

/// The constant weights of the heads. @throws std::invalid_argument if the layer has none.
template <class Layer>
Eigen::VectorXd constant_weights(const char* where, const Layer& layer, const Eigen::VectorXd& weights) {
  using Middle = typename Layer::Middle;
  static_assert(std::is_same_v<typename Middle::Linear, Middle>,
                "hydralora: this layer's middle is not linear, so there is no delta W to merge.");
  const AdapterShape& shape = layer.shape();
  expects(!shape.gated(), where, ": a routed ", shape.layer,
          " has another delta W for every token: use merge_approximately()");
  if (!shape.takes_weights) {
    expects(weights.size() == 0, where, ": ", weights.size(), " weights for a ", shape.layer, " that takes none");
    return Eigen::VectorXd::Ones(shape.heads);
  }
  expects(weights.size() == shape.heads, where, ": ", weights.size(), " weights, expected ", shape.heads,
          " (heads), the same for all tokens");
  return weights;
}

/// W += delta, computed in double. Nothing is changed unless the result is finite.
template <class Derived>
SavedWeight<typename Derived::Scalar> add_to_weight(const char* where, const Eigen::MatrixXd& delta,
                                                    Eigen::MatrixBase<Derived>& weight) {
  using Scalar = typename Derived::Scalar;
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  expects_shape(where, "the weight", Shape{weight.rows(), weight.cols()}, Shape{delta.rows(), delta.cols()},
                "out x in");
  const Matrix merged = (weight.template cast<double>() + delta).template cast<Scalar>();
  expects(merged.template cast<double>().allFinite(), where,
          ": the weight or delta W is not finite, or their sum is too large for the weight's type");
  SavedWeight<Scalar> saved{Matrix(weight)};
  weight = merged;
  return saved;
}

}  // namespace detail

/// ΔW = s Σ_i ω_i B_i A_i, (out × in), for a layer with the same ΔW for all tokens.
/// @param weights  ω, only with Routing::given.
/// @throws std::invalid_argument  on a layer with a learned gate, or another number of weights.
/// Cost     2 · heads · rank · in · out flop, in double.
template <class Layer>
Eigen::MatrixXd delta_weight(const Layer& layer, const Eigen::VectorXd& weights = {}) {
  return detail::weighted_delta(layer, detail::constant_weights("delta_weight", layer, weights));
}

/// W += ΔW: the base then computes what base and adapter computed, up to rounding to W's type.
/// @param weight   (out × in), CHANGED: an Eigen matrix, block or map of float, double, Eigen::half or Eigen::bfloat16.
///                 Pass a weight stored as in × out as W.transpose(), a row-major buffer as the transpose of its map.
/// @param weights  ω, only with Routing::given: for example a task's one-hot weights.
/// @return  the old weight; its restore() undoes the merge, bit for bit.
/// @throws std::invalid_argument  as delta_weight(), on another shape, or if the sum is not finite in W's type; the
///                 weight is then unchanged.
/// Cost     delta_weight() and some copies of W.
template <class Layer, class Weight>
SavedWeight<typename std::decay_t<Weight>::Scalar> merge(const Layer& layer, Weight&& weight,
                                                         const Eigen::VectorXd& weights = {}) {
  return detail::add_to_weight(
      "merge", detail::weighted_delta(layer, detail::constant_weights("merge", layer, weights)), weight);
}

template <class Scalar>
struct ApproximateMerge {
  SavedWeight<Scalar> saved;  ///< the old weight
  Eigen::VectorXd weights;    ///< of the heads, as merged: the means over the calibration tokens
  double relative_error = 0;  ///< ‖merged W x − (W x + ΔW(x))‖ / ‖W x + ΔW(x)‖ over the calibration tokens
};

/// Merges a routed layer with the mean weights of its gate over the calibration tokens, and measures the error on these
/// tokens; on others it may be larger. In HydraLoRA's ablation (arXiv:2404.19245) averaged heads did worse than LoRA.
/// @param weight       as in merge().
/// @param calibration  (in_features × tokens), at least one, typical inputs of the layer. `options` as in forward().
/// @throws std::invalid_argument  on a layer without a learned gate, no tokens, or as merge(); W is then unchanged.
template <class Layer, class Weight>
ApproximateMerge<typename std::decay_t<Weight>::Scalar> merge_approximately(
    const Layer& layer, Weight&& weight, ConstTokens<typename Layer::Activation> calibration,
    const CallOptions<typename Layer::Sum>& options = {}) {
  using Scalar = typename Layer::Activation;
  constexpr auto where = "merge_approximately";
  const AdapterShape& shape = layer.shape();
  expects(shape.gated(), where, ": a ", shape.layer, " without a learned gate is merged exactly by merge()");
  expects(calibration.tokens() > 0, where, ": no calibration tokens");
  expects_shape(where, "the weight", Shape{weight.rows(), weight.cols()}, Shape{shape.out, shape.in}, "out x in");
  typename Layer::Cache cache;
  typename Tokens<Scalar>::Matrix routed = Tokens<Scalar>::Matrix::Zero(shape.out, calibration.tokens());
  layer.forward(calibration, routed, cache, options);
  const Eigen::MatrixXd x = calibration.matrix().template cast<double>();
  const Eigen::MatrixXd exact = weight.template cast<double>() * x + routed.template cast<double>();
  Eigen::VectorXd weights = cache.weights().matrix().template cast<double>().rowwise().mean();
  auto saved = detail::add_to_weight(where, detail::weighted_delta(layer, weights), weight);
  const double size = exact.norm(), error = (weight.template cast<double>() * x - exact).norm();
  return {std::move(saved), std::move(weights), size > 0 ? error / size : error};
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
