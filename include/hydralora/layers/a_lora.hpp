// SPDX-License-Identifier: MIT
//
// Renamed to shared_b_lora.hpp. To be removed in version 0.3.
#pragma once

#include "hydralora/layers/shared_b_lora.hpp"
