// SPDX-License-Identifier: MIT
#pragma once  // Moved to analysis/. To be removed in version 0.3.
#include "hydralora/analysis.hpp"
