// SPDX-License-Identifier: MIT
//
// Replaced by adapter.hpp and formula.hpp. This file goes with version 0.3.
#pragma once

#include "hydralora/layers/adapter.hpp"
