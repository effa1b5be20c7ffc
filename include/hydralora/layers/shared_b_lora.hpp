// SPDX-License-Identifier: MIT
//
// SharedBLoRA: HydraLoRA the other way round. N routed down-projections A_i and one up-projection B that they share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/layers/adapter_layer.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What an SharedBLoRA is made of; checked by the layer.
struct SharedBLoRAConfig {
  Index in_features = 0;         ///< of x
  Index out_features = 0;        ///< of y
  Index rank = 8;                ///< of each head
  double alpha = 16;             ///< s = alpha / rank
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;            ///< probability that a feature on its way into the A_i is dropped; the gate sees all
  Index heads = 4;               ///< N; one head is exactly LoRA
  Routing routing = Routing::learned;  ///< where ω comes from; not uniform, which would be one LoRA
  GateConfig gate = {};                ///< for Routing::learned
};

/// The sizes of its tensors and cache.
inline AdapterShape shape_of(const SharedBLoRAConfig& c) {
  const Index a_rows = checked_product(std::max<Index>(c.heads, 0), std::max<Index>(c.rank, 0), "SharedBLoRA");
  AdapterShape shape{"SharedBLoRA",
                     c.in_features,
                     c.out_features,
                     c.rank,
                     c.heads,
                     a_rows,
                     /*gate_rows=*/0,
                     /*weight_rows=*/c.heads};
  shape.up_heads = 1;
  detail::add_gate(shape, c.routing, c.gate);
  return shape;
}

/// Refuses what makes no sense in this layer only. @throws std::invalid_argument with the reason.
inline void check_own_settings(const SharedBLoRAConfig& c) {
  expects(c.routing != Routing::uniform, "SharedBLoRA: Routing::uniform would be one LoRA with A = A_1 + ... + A_N");
  detail::check_gate("SharedBLoRA", c.gate, c.routing, c.heads, c.dropout);
}

/// The matrices of an SharedBLoRA, as parameters or as gradients: maps into the flat buffer, by value, assignable.
template <class Scalar>
class SharedBLoRATensors : public detail::AdapterTensors<Scalar, SharedBLoRAConfig> {
  using Base = detail::AdapterTensors<Scalar, SharedBLoRAConfig>;

 public:
  auto A(Index head) { return this->head_rows(head); }  ///< rank × in_features
  auto A(Index head) const { return this->head_rows(head); }
  auto B() { return this->head_matrix(0); }  ///< out_features × rank, shared by the A_i
  auto B() const { return this->head_matrix(0); }
  auto gate() { return this->gate_matrix(); }  ///< heads × in_features; where it reads A x, heads × heads · rank
  auto gate() const { return this->gate_matrix(); }

 protected:
  using Base::Base;

  void initialize_tensors(std::uint64_t seed) {
    for (Index head = 0; head < this->shape().heads; ++head) {
      detail::kaiming_uniform<Scalar>(A(head), detail::layer_random(seed, detail::RandomStream::A), head);
    }
    detail::kaiming_uniform<Scalar>(gate(), detail::layer_random(seed, detail::RandomStream::gate));
    this->up_parameters().setZero();
  }
};

/// N routed down-projections, one shared up-projection:  y += s · B Σ_i ω_i(x) A_i x,  ω(x) = softmax(G x).
///
/// Source    Ban and Ji 2025, arXiv:2509.25414, which finds that B carries what tasks share. Gates as in HydraLoRA.
/// forward   [h_1 … h_N; ℓ] = [A_1 … A_N; G] x     ω = softmax(ℓ)     h̄ = Σ_i ω_i h_i     y += s B h̄
/// backward  v = s Bᵀ dY                           dB += s dY H̄ᵀ
///           dω_i = ⟨v, h_i⟩     dh_i = ω_i v      dℓ = ω ∘ (dω − ⟨ω, dω⟩)
///           [dA_1 … dA_N; dG] += [dH; dL] Xᵀ      dX += [A_1 … A_N; G]ᵀ [dH; dL]
///
/// The two steps in the middle are HydraLoRA's with h and v in each other's place, and so are their kernels.
/// Kept for backward: heads · rank + heads numbers per token; h̄ is summed again. The rest of the contract is at forward()
/// and backward() of the base.
template <class Scalar = float>
class SharedBLoRA : public detail::AdapterLayer<SharedBLoRA<Scalar>, SharedBLoRATensors<Scalar>> {
  using Base = detail::AdapterLayer<SharedBLoRA<Scalar>, SharedBLoRATensors<Scalar>>;
  friend Base;

 public:
  using Base::Base;
  using typename Base::Cache;      ///< what forward() keeps for backward()
  using typename Base::Gradients;  ///< of the parameters, with their accessors

 private:
  void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Tokens<Scalar> kept, const detail::Dropout& dropout,
                   const CallOptions<Scalar>& options) const {
    const AdapterShape& shape = this->shape();
    const Tokens<Scalar> h = kept.rows(0, shape.a_rows), weights = kept.rows(shape.a_rows, shape.heads);

    // [h_1 … h_N; ℓ] = [A_1 … A_N; G] x; the logits land where the weights are kept
    detail::project_down(this->down_stack(), shape.a_rows, dropout, x, kept.rows(0, shape.down_rows()));
    this->weigh_heads(kept, options);  // ω = softmax(ℓ)
    ScratchFrame scratch;
    const Tokens<Scalar> mean = scratch.take_tokens<Scalar>(shape.rank, x.tokens());
    weighted_sum(h, weights, mean);                                       // h̄ = Σ_i ω_i h_i
    kernels::expand<Scalar>(this->up_stack(), mean, this->scaling(), y);  // y += s B h̄
  }

  /// From dY to what reaches [h_1 … h_N; ℓ] of these tokens.
  void backward_tokens(ConstTokens<Scalar> dy, ConstTokens<Scalar> kept, Tokens<Scalar> dkept, Stack<Scalar> dgate,
                       const CallOptions<Scalar>& options) const {
    const AdapterShape& shape = this->shape();
    const ConstTokens<Scalar> h = kept.rows(0, shape.a_rows), weights = kept.rows(shape.a_rows, shape.heads);
    const Tokens<Scalar> dh = dkept.rows(0, shape.a_rows), dweights = dkept.rows(shape.a_rows, shape.heads);
    ScratchFrame scratch;
    const Tokens<Scalar> v = scratch.take_tokens<Scalar>(shape.rank, dy.tokens());
    const Tokens<Scalar> unused = scratch.take_tokens<Scalar>(shape.rank, dy.tokens());

    kernels::shrink(this->up_stack(), dy, this->scaling(), v);                                         // v = s Bᵀ dY
    kernels::mix_heads_backward<Scalar>(h, v, weights, dweights, unused);  // dω_i = ⟨h_i, v⟩
    kernels::mix_heads<Scalar>(v, weights, dh);                            // dh_i = ω_i v
    this->weigh_heads_backward(kept, dkept, dgate, options);               // dℓ = ω ∘ (dω − ⟨ω, dω⟩)
  }

  /// From dY to the gradient of B, for the features of dY.
  void backward_up(ConstTokens<Scalar> dy, ConstTokens<Scalar> h, ConstTokens<Scalar> weights,
                   Stack<Scalar> dup) const {
    ScratchFrame scratch;
    const Tokens<Scalar> mean = scratch.take_tokens<Scalar>(dup.rows, dy.tokens());
    weighted_sum(h, weights, mean);                               // h̄ = Σ_i ω_i h_i
    kernels::accumulate<Scalar>(mean, dy, this->scaling(), dup);  // dB += s dY H̄ᵀ
  }

  /// Σ_i ω_i h_i: HydraLoRA's reduction over the heads, whose other result has no use here.
  static void weighted_sum(ConstTokens<Scalar> h, ConstTokens<Scalar> weights, Tokens<Scalar> sum) {
    ScratchFrame scratch;
    const Tokens<Scalar> unused = scratch.take_tokens<Scalar>(weights.features(), weights.tokens());
    kernels::mix_heads_backward<Scalar>(h, h.rows(0, sum.features()), weights, unused, sum);
  }
};

/// The former names: PEFT calls activated LoRA (arXiv:2504.12397) aLoRA.
using ALoRAConfig [[deprecated("use SharedBLoRAConfig")]] = SharedBLoRAConfig;
template <class Scalar = float>
using ALoRA [[deprecated("use SharedBLoRA")]] = SharedBLoRA<Scalar>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
