// SPDX-License-Identifier: MIT
#pragma once  // Renamed. To be removed in version 0.3.
#include "hydralora/layers/dropout.hpp"
