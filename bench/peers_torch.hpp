// SPDX-License-Identifier: MIT
//
// The two peers in PyTorch. Their code is a module of its own, loaded when first asked for: libtorch brings a BLAS that
// must not answer for the others, and 200 MB that no other benchmark should carry.
#pragma once

#include "problem.hpp"

namespace bench {

enum class TorchStyle { released, smart };

/// What the module exports, under the names below.
using TorchVersion = const char*();
using TorchMake = Peer*(const Problem&, TorchStyle);
inline constexpr const char* torch_version_name = "bench_torch_version";
inline constexpr const char* torch_make_name = "bench_torch_make";

/// torch_released and torch_smart.
std::vector<PeerKind> torch_peers();

}  // namespace bench
