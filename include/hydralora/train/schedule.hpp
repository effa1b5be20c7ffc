// SPDX-License-Identifier: MIT
// The learning-rate schedule.
#pragma once

#include <cmath>
#include <cstdint>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/random.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Factor on the learning rate at `step` (from 0): a linear warm-up, then half a cosine down to final_fraction.
///
///   step < warmup_steps    (step + 1) / warmup_steps           above 0 in the first step, 1 in the last
///   step < total_steps     f + (1 - f) · (1 + cos πu) / 2,     u = (step - warmup) / (total - warmup)
///   from total_steps on    f = final_fraction
///
/// Source   Loshchilov & Hutter 2017, arXiv:1608.03983, eq. (5), without restarts.
/// @return  in [0, 1]; does not rise after the warm-up.
/// @throws std::invalid_argument  unless step ≥ 0, total_steps ≥ 1, 0 ≤ warmup_steps ≤ total_steps and
///          final_fraction in [0, 1].
/// Numerics the same bits on every platform: it does not use libm's cosine.
inline double cosine_schedule(std::int64_t step, std::int64_t total_steps, std::int64_t warmup_steps = 0,
                              double final_fraction = 0) {
  expects(step >= 0, "cosine_schedule: step is ", step, ", expected >= 0");
  expects(total_steps >= 1, "cosine_schedule: total_steps is ", total_steps, ", expected >= 1");
  expects(warmup_steps >= 0 && warmup_steps <= total_steps, "cosine_schedule: warmup_steps is ", warmup_steps,
          ", expected in [0, ", total_steps, "] (total_steps)");
  expects(final_fraction >= 0 && final_fraction <= 1, "cosine_schedule: final_fraction is ", final_fraction,
          ", expected in [0, 1]");
  if (step >= total_steps) return final_fraction;
  if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  const double progress = static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps);
  const double cosine = detail::portable_cos_turns(0.5 * progress);  // cos(πu) is half a turn
  return std::fma(1 - final_fraction, 0.5 + 0.5 * cosine, final_fraction);
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
