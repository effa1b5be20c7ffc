// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>

#include "results.hpp"

namespace report {

/// The numbers behind the plots as tab-separated files, for plots.gp.
void write_plot_data(const std::filesystem::path& folder, const Results& results);

}  // namespace report
