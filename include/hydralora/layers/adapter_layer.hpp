// SPDX-License-Identifier: MIT
//
// Replaced by adapter.hpp and formula.hpp. To be removed in version 0.3.
#pragma once

#include "hydralora/layers/adapter.hpp"
