// SPDX-License-Identifier: MIT
//
// Everything in train/ that compiles fast. initialize.hpp needs Eigen's SVD and is included by itself.
#pragma once

#include "hydralora/analysis.hpp"  // its headers were in train/ until version 0.2; this line goes with version 0.3
#include "hydralora/train/adamw.hpp"
#include "hydralora/train/balance.hpp"
#include "hydralora/train/data_parallel.hpp"
#include "hydralora/train/parameter_group.hpp"
#include "hydralora/train/schedule.hpp"
