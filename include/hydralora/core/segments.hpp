// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Segments of a batch (documents, prompts), given by their lengths in order. Refers to the caller's list.
struct Segments {
  const Index* lengths = nullptr;
  Index count = 0;  ///< 0 = all tokens are one segment
  /// Of every segment, how many of its first tokens GateGranularity::segment pools, at least 1: of a document in a
  /// language model the prompt, so that no token sees a later one. Null: all tokens are pooled.
  const Index* prompts = nullptr;

  Segments() = default;
  Segments(const Index* list, Index size) : lengths(list), count(size) {}
  Segments(const std::vector<Index>& list)  // NOLINT(google-explicit-constructor)
      : Segments(list.data(), static_cast<Index>(list.size())) {}
  Segments(const std::vector<Index>&&) = delete;  // a temporary list would be destroyed before the call

  /// Calls f(first, count) for every segment; without a list, once for all tokens.
  template <class Function>
  void for_each(Index tokens, Function&& f) const {
    for_each_pooled(tokens, [&](Index first, Index length, Index) { f(first, length); });
  }
  /// Calls f(first, count, pooled).
  template <class Function>
  void for_each_pooled(Index tokens, Function&& f) const {
    if (count == 0) return f(Index(0), tokens, tokens);
    for (Index i = 0, first = 0; i < count; first += lengths[i++]) {
      f(first, lengths[i], prompts == nullptr ? lengths[i] : prompts[i]);
    }
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
