// SPDX-License-Identifier: MIT
// For one source file of a program whose files are all compiled with -DHYDRALORA_EXTERN_TEMPLATES: it compiles the
// kernels for float and double, and the other files do not (docs/building.md).
#pragma once

#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/kernels/softmax.hpp"
#include "hydralora/layers/adapter_checks.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/dropout.hpp"
#include "hydralora/layers/gate.hpp"
#include "hydralora/layers/gate_pooling.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace kernels {

HYDRALORA_DEFINE_INSTANCES(HYDRALORA_ELEMENTWISE_INSTANCES)
HYDRALORA_DEFINE_INSTANCES(HYDRALORA_LOW_RANK_INSTANCES)
HYDRALORA_DEFINE_INSTANCES(HYDRALORA_HEAD_MIX_INSTANCES)
HYDRALORA_DEFINE_INSTANCES(HYDRALORA_SOFTMAX_INSTANCES)

}  // namespace kernels

HYDRALORA_DEFINE_INSTANCES(HYDRALORA_GATE_INSTANCES)
namespace detail {

HYDRALORA_DEFINE_INSTANCES(HYDRALORA_ADAPTER_CHECKS_INSTANCES)
HYDRALORA_DEFINE_INSTANCES(HYDRALORA_ADAPTER_TENSORS_INSTANCES)
HYDRALORA_DEFINE_INSTANCES(HYDRALORA_DROPOUT_INSTANCES)
HYDRALORA_DEFINE_INSTANCES(HYDRALORA_GATE_POOLING_INSTANCES)

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
