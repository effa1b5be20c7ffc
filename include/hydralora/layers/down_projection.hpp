// SPDX-License-Identifier: MIT
//
// Renamed to dropout.hpp. This file goes with version 0.3.
#pragma once

#include "hydralora/layers/dropout.hpp"
