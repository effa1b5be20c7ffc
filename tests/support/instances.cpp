// SPDX-License-Identifier: MIT
#include "support/instances.hpp"

#include <hydralora/instantiate.hpp>

HYDRALORA_TEST_INSTANCES()
