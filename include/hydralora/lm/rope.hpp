// SPDX-License-Identifier: MIT
// Rotary position embeddings, forward and backward.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "hydralora/core/parallel.hpp"
#include "hydralora/core/segments.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/lm/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// Turns the pairs (x_i, x_{i + d/2}) of a head by position · f_i,  f_i = θ^(−2i/d), scaled as the config says.
///
/// Source    Su et al. 2021, arXiv:2104.09864; the pairs and the scaling as in transformers. Frequencies and angles are
///           rounded to float, as there, or long contexts would give other numbers.
template <class Scalar>
class Rope {
 public:
  /// A table for the positions 0 … positions − 1. Memory: head_dim numbers per position.
  Rope(const RopeConfig& config, Index head_dim, Index positions) : half_(head_dim / 2) {
    extend_frequencies(config, head_dim);
    extend(positions);
  }

  /// Makes the table longer, where it is shorter.
  void extend(Index positions) {
    for (; positions_ < positions; ++positions_) {
      for (const float frequency : frequencies_) {
        const auto angle = static_cast<double>(static_cast<float>(positions_) * frequency);
        cosines_.push_back(Scalar(static_cast<real_t<Scalar>>(std::cos(angle))));
        sines_.push_back(Scalar(static_cast<real_t<Scalar>>(std::sin(angle))));
      }
    }
  }

  /// Turns all heads of every token, in place.
  /// @param x          (heads · head_dim × tokens).
  /// @param documents  lengths of the documents; positions begin at `first` in each.
  void forward(Tokens<Scalar> x, const Segments& documents, Index first = 0) const { turn<1>(x, documents, first); }
  void backward(Tokens<Scalar> dx, const Segments& documents) const { turn<-1>(dx, documents, 0); }

 private:
  void extend_frequencies(const RopeConfig& config, Index head_dim) {
    using Type = RopeConfig::Type;
    for (Index i = 0; i < half_; ++i) {
      const double exponent = 2 * static_cast<double>(i) / static_cast<double>(head_dim);
      auto f = static_cast<float>(1 / std::pow(config.theta, exponent));
      if (config.type == Type::linear) f /= static_cast<float>(config.factor);
      if (config.type == Type::llama3) {
        // Stretched where the old context holds a wave fewer than `low` times, as it is above `high`, mixed in between.
        constexpr double turn = 6.283185307179586;
        const double times = config.original_positions * static_cast<double>(f) / turn;
        const double low = config.low_frequency_factor, high = config.high_frequency_factor;
        const double share = std::clamp((times - low) / (high - low), 0.0, 1.0);
        f = static_cast<float>((1 - share) * static_cast<double>(f) / config.factor + share * static_cast<double>(f));
      }
      if (!config.divisors.empty()) f /= config.divisors[static_cast<std::size_t>(i)];
      frequencies_.push_back(f);
    }
  }

  template <int direction>
  void turn(Tokens<Scalar> x, const Segments& documents, Index first) const {
    const Index heads = x.features() / (2 * half_);
    documents.for_each(x.tokens(), [&](Index begin, Index count) {
      assert(first + count <= positions_);
      parallel_chunks(count, 64, 6 * x.features() * count, [&](Index from, Index tokens) {
        for (Index t = from; t < from + tokens; ++t) {
          const Scalar* c = cosines_.data() + (first + t) * half_;
          const Scalar* s = sines_.data() + (first + t) * half_;
          for (Index h = 0; h < heads; ++h) {
            Scalar *a = x.token(begin + t) + 2 * h * half_, *b = a + half_;
            for (Index i = 0; i < half_; ++i) {
              const Scalar u = a[i], v = b[i], sine = static_cast<real_t<Scalar>>(direction) * s[i];
              a[i] = u * c[i] - v * sine;
              b[i] = v * c[i] + u * sine;
            }
          }
        }
      });
    });
  }

  Index half_, positions_ = 0;
  std::vector<float> frequencies_;
  std::vector<Scalar> cosines_, sines_;  // half_ per position
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
