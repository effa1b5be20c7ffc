// SPDX-License-Identifier: MIT
// What a router does and whether the heads differ: numbers to watch in training.
#pragma once

#include <algorithm>
#include <cmath>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Statistics of routing weights ω over many tokens. The weights of a token should be ≥ 0 with sum 1.
///
///   normalized_entropy  1 = every token gets all heads equally: the router does nothing. Near 0 = one head per token.
///   usage               1/N each is balanced. One head near 1 = collapse; a head near 0 is dead.
///   top1_share          the same by the largest weight, which is noise where the entropy is near 1.
///
/// Sums are in double, in token order.
class RouterStats {
 public:
  explicit RouterStats(Index heads) {
    expects(heads >= 1, "RouterStats: heads is ", heads, ", expected >= 1");
    weight_sums_ = top1_counts_ = Eigen::VectorXd::Zero(heads);
  }
  Index heads() const { return weight_sums_.size(); }
  Index tokens() const { return tokens_; }

  /// @param weights  (heads × tokens), read. A NaN shows in the results.
  /// @throws std::invalid_argument  on another number of heads; the statistics are then unchanged.
  /// Cost     one logarithm per number; allocates nothing.
  template <class Scalar>
  void add(ConstTokens<Scalar> weights) {
    expects_shape("RouterStats::add", "weights", weights.shape(), Shape{heads(), weights.tokens()}, "heads x tokens");
    for (Index t = 0; t < weights.tokens(); ++t) {
      const Scalar* column = weights.token(t);
      Index top = 0;
      for (Index head = 0; head < heads(); ++head) {
        const auto weight = static_cast<double>(column[head]);
        weight_sums_[head] += weight;
        if (weight != 0) entropy_sum_ -= weight * std::log(weight);  // 0 · ln 0 = 0
        if (column[head] > column[top]) top = head;
      }
      top1_counts_[top] += 1;
    }
    tokens_ += weights.tokens();
  }
  template <class Derived>
  void add(const Eigen::DenseBase<Derived>& weights) {
    add(ConstTokens<typename Derived::Scalar>(weights.derived()));
  }

  // Without tokens all of these are 0.
  /// The mean weight of each head.
  Eigen::VectorXd usage() const { return weight_sums_ / token_divisor(); }
  /// The share of tokens whose largest weight is that of the head; of equal ones the lower counts.
  Eigen::VectorXd top1_share() const { return top1_counts_ / token_divisor(); }
  /// The mean over tokens of  -Σ_i ω_i ln ω_i / ln N, in [0, 1] for weights that sum to 1; 0 for N = 1.
  double normalized_entropy() const {
    if (heads() == 1) return 0;
    return entropy_sum_ / (token_divisor() * std::log(static_cast<double>(heads())));
  }

 private:
  double token_divisor() const { return static_cast<double>(std::max<Index>(tokens_, 1)); }

  Eigen::VectorXd weight_sums_, top1_counts_;
  double entropy_sum_ = 0;
  Index tokens_ = 0;
};

/// Cosines between the up-projections of a layer's heads:  C_ij = ⟨B_i, B_j⟩ / (‖B_i‖ ‖B_j‖), the B flattened.
///
/// Near 1 = the heads are alike; near 0 = they write different directions; near -1 = one undoes the other. The cosine
/// with an all-zero head is 0, also on the diagonal, which otherwise is exactly 1.
/// @param layer  has config().heads and B(head), an Eigen expression; all heads of one shape.
/// @return  (heads × heads), symmetric, within [-1, 1].
/// @throws std::invalid_argument  if a head's shape differs from the first head's.
/// Cost     N² · out · rank flop; copies all heads to double.
template <class Layer>
Eigen::MatrixXd head_cosine(const Layer& layer) {
  const Index heads = layer.config().heads;
  Eigen::MatrixXd cosine = Eigen::MatrixXd::Zero(heads, heads);
  Eigen::MatrixXd directions;  // column i: B_i, flattened, of norm 1
  Shape first{0, 0};
  for (Index i = 0; i < heads; ++i) {
    const Eigen::MatrixXd B = layer.B(i).template cast<double>();
    const Shape shape{B.rows(), B.cols()};
    if (i == 0) {
      first = shape;
      directions.resize(B.size(), heads);
    }
    expects_shape("head_cosine", "B of a head", shape, first, "the shape of the first head's");
    directions.col(i) = Eigen::Map<const Eigen::VectorXd>(B.data(), B.size());
    const double norm = directions.col(i).stableNorm();  // squares of numbers near 1e200 would overflow
    if (norm == 0) continue;
    directions.col(i) /= norm;
    cosine(i, i) = 1;
    for (Index j = 0; j < i; ++j) {
      cosine(i, j) = cosine(j, i) = std::clamp(directions.col(i).dot(directions.col(j)), -1.0, 1.0);
    }
  }
  return cosine;
}

/// ‖ΔW‖ (Frobenius) of a layer without forming ΔW. It shows an adapter that was loaded but does nothing.
/// ‖s Σ_i ω_i B_i A_i‖² = s² Σ_ij ω_i ω_j ⟨B_iᵀ B_j, A_i A_jᵀ⟩, from the two Gram matrices of the stacks.
/// @param layer    a LoRA, SplitLoRA, HydraLoRA or SharedBLoRA.
/// @param weights  ω, for example RouterStats::usage(). Empty: 1 each without a router, 1/N each with one.
/// @throws std::invalid_argument  on another number of weights.
/// Cost     2 · (heads · rank)² · (in + out) flop, in double. If heads cancel, the result has fewer digits.
template <class Layer>
double delta_norm(const Layer& layer, const Eigen::VectorXd& weights = {}) {
  const auto& shape = layer.shape();
  const Index rank = shape.rank, heads = shape.heads;
  expects(weights.size() == 0 || weights.size() == heads, "delta_norm: ", weights.size(), " weights, expected ", heads,
          " (heads)");
  const auto dense = [](const auto& stack, Index rows) {  // a copy of the rows as (features × rows), in double
    Eigen::MatrixXd m(stack.features, rows);
    for (Index k = 0; k < rows; ++k) {
      for (Index j = 0; j < stack.features; ++j) m(j, k) = static_cast<double>(stack(k, j));
    }
    return m;
  };
  const Eigen::MatrixXd A = dense(layer.down_stack(), shape.a_rows), B = dense(layer.up_stack(), shape.up_rows());
  const Eigen::MatrixXd gram_A = A.transpose() * A, gram_B = B.transpose() * B;
  const double even = shape.gated() || shape.takes_weights ? 1 / static_cast<double>(heads) : 1;
  double sum = 0;
  for (Index i = 0; i < heads; ++i) {
    for (Index j = 0; j < heads; ++j) {
      const Index a_i = shape.a_rows == rank ? 0 : i * rank, a_j = shape.a_rows == rank ? 0 : j * rank;
      const Index b_i = shape.up_heads == 1 ? 0 : i * rank, b_j = shape.up_heads == 1 ? 0 : j * rank;
      const double both = weights.size() == 0 ? even * even : weights[i] * weights[j];
      sum += both * gram_B.block(b_i, b_j, rank, rank).cwiseProduct(gram_A.block(a_i, a_j, rank, rank)).sum();
    }
  }
  return std::abs(static_cast<double>(layer.scaling())) * std::sqrt(sum < 0 ? 0 : sum);  // NaN stays NaN
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
