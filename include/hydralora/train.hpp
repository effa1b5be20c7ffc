// SPDX-License-Identifier: MIT
// Everything in train/ but initialize.hpp, which needs Eigen's SVD and compiles slowly.
#pragma once

#include "hydralora/analysis.hpp"  // its headers were in train/ until version 0.2; to be removed in version 0.3
#include "hydralora/train/adamw.hpp"
#include "hydralora/train/balance.hpp"
#include "hydralora/train/data_parallel.hpp"
#include "hydralora/train/parameter_group.hpp"
#include "hydralora/train/schedule.hpp"
