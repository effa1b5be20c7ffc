// SPDX-License-Identifier: MIT
// Everything in analysis/ that compiles fast. similarity.hpp needs Eigen's SVD and is included by itself.
#pragma once

#include "hydralora/analysis/dbscan.hpp"
#include "hydralora/analysis/k_means.hpp"
#include "hydralora/analysis/router_stats.hpp"
#include "hydralora/analysis/silhouette.hpp"
#include "hydralora/analysis/tf_idf.hpp"
#include "hydralora/analysis/tsne.hpp"
