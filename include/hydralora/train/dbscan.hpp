// SPDX-License-Identifier: MIT
//
// Moved to analysis/. This file goes with version 0.3.
#pragma once

#include "hydralora/analysis/dbscan.hpp"
