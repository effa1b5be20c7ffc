// SPDX-License-Identifier: MIT
#include "support/instances.hpp"

HYDRALORA_TEST_DECOMPOSITIONS()
