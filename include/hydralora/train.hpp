// SPDX-License-Identifier: MIT
//
// Everything of floor 4, for programs that train adapters.
#pragma once

#include "hydralora/train/adamw.hpp"
#include "hydralora/train/balance.hpp"
#include "hydralora/train/components.hpp"
#include "hydralora/train/data_parallel.hpp"
#include "hydralora/train/dbscan.hpp"
#include "hydralora/train/parameter_group.hpp"
#include "hydralora/train/router_stats.hpp"
#include "hydralora/train/schedule.hpp"
#include "hydralora/train/tsne.hpp"
