// SPDX-License-Identifier: MIT
// kernels/low_rank.hpp on the register tile. A task of one thread owns a part of the result, so that no sum is split.
#pragma once

#include "hydralora/kernels/simd/accumulate.hpp"
#include "hydralora/kernels/simd/expand.hpp"
#include "hydralora/kernels/simd/shrink.hpp"
