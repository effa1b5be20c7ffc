// SPDX-License-Identifier: MIT
//
// LoRA: one low-rank addition to a frozen weight.
#pragma once

#include <cstdint>

#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/layers/adapter_layer.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What a LoRA is made of; checked by the layer.
struct LoRAConfig {
  Index in_features = 0;         ///< of x
  Index out_features = 0;        ///< of y
  Index rank = 8;                ///< of A and B
  double alpha = 16;             ///< s = alpha / rank
  bool rank_stabilized = false;  ///< s = alpha / √rank (rsLoRA) instead of alpha / rank
  double dropout = 0;            ///< probability that a feature on its way into A is dropped in training
};

/// The sizes of its tensors and cache.
inline AdapterShape shape_of(const LoRAConfig& c) {
  return {"LoRA",      c.in_features,     c.out_features,  c.rank,
          /*heads=*/1, /*a_rows=*/c.rank, /*gate_rows=*/0, /*weight_rows=*/0};
}

/// Nothing beyond what every layer asks for.
inline void check_own_settings(const LoRAConfig&) {}

/// The matrices of a LoRA, as parameters or as gradients: maps into the flat buffer, by value, assignable.
template <class Scalar>
class LoRATensors : public detail::AdapterTensors<Scalar, LoRAConfig> {
  using Base = detail::AdapterTensors<Scalar, LoRAConfig>;

 public:
  auto A() { return this->down_matrix(0, this->shape().rank); }  ///< rank × in_features
  auto A() const { return this->down_matrix(0, this->shape().rank); }
  auto B() { return this->head_matrix(0); }  ///< out_features × rank
  auto B() const { return this->head_matrix(0); }

 protected:
  using Base::Base;

  void initialize_tensors(std::uint64_t seed) {
    detail::kaiming_uniform<Scalar>(A(), detail::layer_random(seed, detail::RandomStream::A));
    this->up_parameters().setZero();
  }
};

/// One low-rank adapter, y += s · B (A x).
///
/// Source    Hu et al. 2021, arXiv:2106.09685, eq. (3).
/// forward   h = A x       y += s B h
/// backward  V = s Bᵀ dY   dB += s dY Hᵀ   dA += V Xᵀ   dX += Aᵀ V
///
/// Kept for backward: H, rank numbers per token. The rest of the contract is at forward() and backward() of the base.
template <class Scalar = float>
class LoRA : public detail::AdapterLayer<LoRA<Scalar>, LoRATensors<Scalar>> {
  using Base = detail::AdapterLayer<LoRA<Scalar>, LoRATensors<Scalar>>;
  friend Base;

 public:
  using Base::Base;
  using typename Base::Cache;
  using typename Base::Gradients;

 private:
  void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Tokens<Scalar> h, const detail::Dropout& dropout,
                   const CallOptions<Scalar>&) const {
    detail::project_down(this->down_stack(), this->shape().a_rows, dropout, x, h);  // h = A x
    kernels::expand<Scalar>(this->up_stack(), h, this->scaling(), y);               // y += s B h
  }

  /// From dY to what reaches h of these tokens.
  void backward_tokens(ConstTokens<Scalar> dy, ConstTokens<Scalar> /*h*/, Tokens<Scalar> dh, Stack<Scalar> /*dgate*/,
                       const CallOptions<Scalar>&) const {
    kernels::shrink(this->up_stack(), dy, this->scaling(), dh);  // V = s Bᵀ dY
  }

  /// From dY to the gradient of B, for the features of dY.
  void backward_up(ConstTokens<Scalar> dy, ConstTokens<Scalar> h, ConstTokens<Scalar> /*weights*/,
                   Stack<Scalar> dup) const {
    kernels::accumulate(h, dy, this->scaling(), dup);  // dB += s dY Hᵀ
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
