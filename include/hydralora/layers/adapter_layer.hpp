// SPDX-License-Identifier: MIT
#pragma once  // Replaced by adapter.hpp and formula.hpp. To be removed in version 0.3.
#include "hydralora/layers/adapter.hpp"
