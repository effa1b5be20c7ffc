// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/formula.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What a forward pass saves for its backward pass: h = A x and the numbers of the gate. One object serves any layer
/// and batch of its scalar type in turn. It grows and never shrinks.
template <class Scalar>
class AdapterCache {
 public:
  Index tokens() const { return tokens_; }              ///< of the forward pass; 0 before the first
  const AdapterShape& shape() const { return shape_; }  ///< of the layer that filled it
  const detail::Dropout& dropout() const { return dropout_; }
  /// H, (rank × tokens), or (heads · rank × tokens) where every head has its own A. Valid until the next forward pass.
  ConstTokens<Scalar> h() const { return saved().rows(0, shape_.a_rows); }
  /// ω, (heads × tokens). No rows in a LoRA and in a SplitLoRA with Routing::uniform.
  ConstTokens<Scalar> weights() const { return gate().weights; }
  /// π, (heads × tokens): the result of the gate's softmax, before heads are selected.
  ConstTokens<Scalar> probabilities() const {
    return shape_.gate.probability_rows == 0 ? gate().weights : gate().probabilities;
  }
  /// ln Σ exp(ℓ / temperature), (1 × tokens) with GateConfig::keep_log_partition, else no rows.
  ConstTokens<Scalar> log_partition() const { return gate().log_partition; }

  /// Makes room for a pass. The cache is empty until end(), also after a pass that fails.
  Pass<Tokens<Scalar>> begin(const AdapterShape& shape, Index tokens, const detail::Dropout& dropout,
                             Segments segments) {
    tokens_ = 0;
    const auto needed = static_cast<std::size_t>(checked_product(shape.saved_rows(), tokens, "cache"));
    if (values_.size() < needed) values_.resize(needed);
    shape_ = shape;
    dropout_ = dropout;
    segments_.clear();
    prompts_.clear();
    if (segments.count > 0 && shape.gate.pools()) {
      segments_.assign(segments.lengths, segments.lengths + segments.count);
      if (segments.prompts != nullptr) prompts_.assign(segments.prompts, segments.prompts + segments.count);
    }
    return {Tokens<Scalar>(values_.data(), shape.saved_rows(), tokens), dropout_, saved_segments()};
  }
  void end(Index tokens) { tokens_ = tokens; }                                              ///< the pass is complete
  Pass<ConstTokens<Scalar>> pass() const { return {saved(), dropout_, saved_segments()}; }  ///< for backward()

 private:
  ConstTokens<Scalar> saved() const { return {tokens_ == 0 ? nullptr : values_.data(), shape_.saved_rows(), tokens_}; }
  Segments saved_segments() const {
    Segments all = segments_;
    all.prompts = prompts_.empty() ? nullptr : prompts_.data();
    return all;
  }
  GateSaved<ConstTokens<Scalar>> gate() const {
    return shape_.gate.saved(saved().rows(shape_.a_rows, shape_.gate.saved_rows()));
  }

  AlignedVector<Scalar> values_;
  AdapterShape shape_;
  Index tokens_ = 0;
  detail::Dropout dropout_;
  std::vector<Index> segments_, prompts_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
