// SPDX-License-Identifier: MIT
//
// Renamed to shared_b_lora.hpp. This file goes with version 0.3.
#pragma once

#include "hydralora/layers/shared_b_lora.hpp"
