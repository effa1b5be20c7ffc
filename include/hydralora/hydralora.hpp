// SPDX-License-Identifier: MIT
//
// Views, layers and frozen bases. Training tools are in hydralora/train.hpp.
#pragma once

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/config.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/kernels/head_mix.hpp"
#include "hydralora/kernels/low_rank.hpp"
#include "hydralora/kernels/softmax.hpp"
#include "hydralora/kernels/stack.hpp"
#include "hydralora/layers/adapter.hpp"
#include "hydralora/layers/call_options.hpp"
#include "hydralora/layers/dora.hpp"
#include "hydralora/layers/frozen_linear.hpp"
#include "hydralora/layers/gate.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/shared_b_lora.hpp"
#include "hydralora/layers/sliced.hpp"
#include "hydralora/layers/split_lora.hpp"
#include "hydralora/version.hpp"
