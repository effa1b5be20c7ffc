// SPDX-License-Identifier: MIT
#pragma once

#include <ostream>

#include "results.hpp"

namespace report {

/// The whole page in Markdown. Every number in it comes from the results; goals.cpp holds the goals' own.
void write_page(std::ostream& out, const Results& results, bool with_plots);

}  // namespace report
