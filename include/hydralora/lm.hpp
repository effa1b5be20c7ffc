// SPDX-License-Identifier: MIT
// Language models: all of lm/ but lm/text/, which needs PCRE2 and utf8proc.
#pragma once

#include "hydralora/lm/adapters.hpp"
#include "hydralora/lm/data/batches.hpp"
#include "hydralora/lm/data/examples.hpp"
#include "hydralora/lm/generate.hpp"
#include "hydralora/lm/load.hpp"
#include "hydralora/lm/trainer.hpp"
