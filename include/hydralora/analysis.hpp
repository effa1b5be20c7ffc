// SPDX-License-Identifier: MIT
//
// Everything in analysis/ but similarity.hpp, which needs Eigen's SVD and compiles slowly.
#pragma once

#include "hydralora/analysis/components.hpp"
#include "hydralora/analysis/dbscan.hpp"
#include "hydralora/analysis/router_stats.hpp"
#include "hydralora/analysis/tsne.hpp"
