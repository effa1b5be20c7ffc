// SPDX-License-Identifier: MIT
//
// Moved to analysis/. To be removed in version 0.3.
#pragma once

#include "hydralora/analysis/tsne.hpp"
