// SPDX-License-Identifier: MIT
#pragma once

#include <ostream>

#include "results.hpp"

namespace report {

/// What this project set out to reach, as a table: floor, aim, and what was measured on one and on two threads.
void write_goals(std::ostream& out, const Results& results);

}  // namespace report
