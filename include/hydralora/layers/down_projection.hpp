// SPDX-License-Identifier: MIT
//
// Renamed to dropout.hpp. To be removed in version 0.3.
#pragma once

#include "hydralora/layers/dropout.hpp"
