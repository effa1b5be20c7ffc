// SPDX-License-Identifier: MIT
// Everything an embedding host needs: views, layers, frozen bases. Training tools are in hydralora/train.hpp.
#pragma once

#include "hydralora/layers/dora.hpp"
#include "hydralora/layers/frozen_linear.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/shared_b_lora.hpp"
#include "hydralora/layers/sliced.hpp"
#include "hydralora/layers/split_lora.hpp"
