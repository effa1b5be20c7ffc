// SPDX-License-Identifier: MIT
// Losses against a router that uses only one head. Their gradients go into CallOptions::logits_gradient.
#pragma once

#include <cmath>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/softmax.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// The factors of the losses; 0 = not used. Too large a factor makes the gate uniform: often 0.01 for a small adapter.
struct BalanceWeights {
  double importance = 0;  ///< of cv² of the heads' importance
  double load = 0;        ///< of N · Σ_i f_i p_i
  double z = 0;           ///< needs GateConfig::keep_log_partition
};

/// The losses of one batch, without their factors.
struct BalanceLosses {
  /// cv² of the heads' importance I_i = Σ_t m_t ω_i(t): unbiased variance over squared mean. 0 = balanced. Source:
  /// Shazeer et al. 2017, arXiv:1701.06538, eq. (7); unbiased as in LoRAMoE, arXiv:2312.09979.
  double importance = 0;
  /// N · Σ_i f_i p_i: f_i the share of tokens whose most probable head is i (a constant to the gradient), p_i its mean
  /// probability. 1 = balanced, N = one head takes all. Source: Switch Transformer, arXiv:2101.03961, eq. (4).
  double load = 0;
  /// The mean of (ln Σ_i exp(ℓ_i / temperature))²; 0 without keep_log_partition. ST-MoE, arXiv:2202.08906, eq. (5).
  double z = 0;

  /// To be added to the training loss.
  double weighted(const BalanceWeights& w) const { return w.importance * importance + w.load * load + w.z * z; }
};

/// The balance losses of a forward pass and the gradient of their weighted sum.
///
///   CallOptions<float> options;
///   gradient.setZero();
///   const BalanceLosses losses = balance_losses(weights, layer, cache, gradient);
///   options.logits_gradient = gradient;
///   layer.backward(x, dy, cache, g, dx, options);
///
/// @param cache     filled by the layer's forward().
/// @param gradient  (heads × tokens), ADDED to: the gradient with respect to the pooled logits / temperature.
/// @param mask      m, (1 × tokens), read: 1 for a token that counts, 0 for padding. Empty: all count.
/// @throws std::invalid_argument  on a shape mismatch, a layer without a learned gate, w.z without keep_log_partition,
///                  an overlapping, negative or non-finite mask, non-finite factors; the gradient is then untouched.
/// Cost     about ten flop per weight. Sums are in double, in token order. All losses are 0 if no token counts.
template <class Layer>
BalanceLosses balance_losses(const BalanceWeights& w, const Layer& layer, const typename Layer::Cache& cache,
                             Tokens<typename Layer::Scalar> gradient, ConstTokens<typename Layer::Scalar> mask = {}) {
  using Scalar = typename Layer::Scalar;
  constexpr auto where = "balance_losses";
  const ConstTokens<Scalar> weights = cache.weights(), probabilities = cache.probabilities(),
                            log_partition = cache.log_partition();
  const Index heads = layer.shape().heads, tokens = cache.tokens();
  expects(layer.shape().gated(), where, ": ", layer.shape(), " has no learned gate");
  expects(cache.shape() == layer.shape(), where, ": the cache is from ", cache.shape(), ", expected ", layer.shape());
  expects(std::isfinite(w.importance) && std::isfinite(w.load) && std::isfinite(w.z), where, ": the weights ",
          w.importance, ", ", w.load, ", ", w.z, " must be finite");
  expects_shape(where, "gradient", gradient.shape(), Shape{heads, tokens}, "heads x tokens");
  if (mask.features() != 0 || mask.tokens() != 0) {
    expects_shape(where, "mask", mask.shape(), Shape{1, tokens}, "1 x tokens");
    expects(!overlap<Scalar>(mask, gradient), where, ": mask ", mask.shape(), " and gradient ", gradient.shape(),
            " overlap");
  }
  expects(w.z == 0 || log_partition.features() == 1, where,
          ": the z-loss needs GateConfig::keep_log_partition in this layer");
  for (Index t = 0; t < mask.tokens(); ++t) {
    expects(mask(0, t) >= 0 && std::isfinite(mask(0, t)), where, ": mask of token ", t, " is ", mask(0, t),
            ", expected finite and >= 0");
  }
  const auto counts = [&](Index t) { return mask.tokens() == 0 ? 1.0 : static_cast<double>(mask(0, t)); };
  const auto n = static_cast<double>(heads);
  Eigen::VectorXd importance = Eigen::VectorXd::Zero(heads), votes = importance, mass = importance;
  double counted = 0, z = 0;
  for (Index t = 0; t < tokens; ++t) {
    Index top = 0;
    for (Index i = 0; i < heads; ++i) {
      importance[i] += counts(t) * static_cast<double>(weights(i, t));
      mass[i] += counts(t) * static_cast<double>(probabilities(i, t));
      if (probabilities(i, t) > probabilities(top, t)) top = i;
    }
    votes[top] += counts(t);
    counted += counts(t);
    if (log_partition.features() == 1) z += counts(t) * std::pow(static_cast<double>(log_partition(0, t)), 2);
  }
  BalanceLosses losses;
  if (counted == 0) return losses;
  const double mean = importance.sum() / n;
  const double variance = heads > 1 ? (importance.array() - mean).square().sum() / (n - 1) : 0;
  losses.importance = variance / mean / mean;
  losses.load = n * votes.dot(mass) / (counted * counted);
  losses.z = z / counted;

  // The importance gives dω and the load dπ; the softmax turns both into dℓ. The z-loss gives dℓ directly.
  ScratchFrame scratch;
  const Tokens<Scalar> dweights = scratch.take_tokens<Scalar>(heads, tokens);
  const Tokens<Scalar> dprobabilities = scratch.take_tokens<Scalar>(heads, tokens);
  for (Index i = 0; i < heads; ++i) {
    const double d_importance =
        heads > 1 ? 2 / mean * ((importance[i] - mean) / mean / (n - 1) - losses.importance / n) : 0;
    const double d_load = n * votes[i] / (counted * counted);
    for (Index t = 0; t < tokens; ++t) {
      dweights(i, t) = static_cast<Scalar>(w.importance * d_importance * counts(t));
      dprobabilities(i, t) = static_cast<Scalar>(w.load * d_load * counts(t));
    }
  }
  kernels::softmax_backward(layer.config().gate.straight_through() ? probabilities : weights, dweights);
  kernels::softmax_backward(probabilities, dprobabilities);
  gradient.matrix() += dweights.matrix() + dprobabilities.matrix();
  if (w.z == 0) return losses;
  for (Index t = 0; t < tokens; ++t) {
    const double factor = w.z * 2 * static_cast<double>(log_partition(0, t)) * counts(t) / counted;
    for (Index i = 0; i < heads; ++i) gradient(i, t) += static_cast<Scalar>(factor) * probabilities(i, t);
  }
  return losses;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
