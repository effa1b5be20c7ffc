// SPDX-License-Identifier: MIT
//
// A mean over seeds and its 95 % interval, for the examples that report one.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <string>
#include <vector>

struct MeanInterval {
  double mean = 0;
  double half_width = 0;  ///< Student's, 95 %; 0 for a single value

  explicit MeanInterval(const std::vector<double>& values) {
    constexpr std::array<double, 11> t{0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
    const auto n = static_cast<double>(values.size());
    double squares = 0;
    for (const double v : values) mean += v / n;
    for (const double v : values) squares += (v - mean) * (v - mean);
    // from 12 values on a little too wide
    if (values.size() > 1) half_width = t[std::min(values.size() - 1, t.size() - 1)] * std::sqrt(squares / (n - 1) / n);
  }

  std::string text(int digits, bool sign = false) const {
    std::ostringstream out;
    out << std::fixed << std::setprecision(digits) << (sign ? std::showpos : std::noshowpos) << mean << std::noshowpos;
    if (half_width > 0) out << " ± " << half_width;
    return out.str();
  }
};
