// SPDX-License-Identifier: MIT
// Packed documents with their labels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/core/expects.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

constexpr int not_scored = -100;  ///< a label that has no loss, as in transformers
/// Documents one after another. labels[t] is what the model should say for ids[t], given the tokens before it: the same
/// number, or not_scored. The first label of a document is ignored, as nothing is before it.
struct Batch {
  std::vector<int> ids, labels;
  std::vector<Index> documents;  ///< lengths, in order
  std::vector<int> groups;       ///< of every document, for GateKind::given

  Index tokens() const { return static_cast<Index>(ids.size()); }
  void add(const std::vector<int>& document_ids, const std::vector<int>& document_labels, int group = 0) {
    ids.insert(ids.end(), document_ids.begin(), document_ids.end());
    labels.insert(labels.end(), document_labels.begin(), document_labels.end());
    documents.push_back(static_cast<Index>(document_ids.size()));
    groups.push_back(group);
  }
  /// Of every document, the tokens before its first scored one; all of them where none is scored.
  /// @throws std::invalid_argument  a document has a second answer: which one is meant cannot be told.
  std::vector<Index> prompts() const {
    std::vector<Index> all;
    Index first = 0;
    for (const Index length : documents) {
      const auto scored = [&](Index t) { return labels[static_cast<std::size_t>(first + t)] != not_scored; };
      Index begin = 1;
      while (begin < length && !scored(begin)) ++begin;
      Index end = begin;
      while (end < length && scored(end)) ++end;
      for (Index t = end; t < length; ++t) expects(!scored(t), "prompt gate: a document has several answers");
      all.push_back((std::min)(begin, length));
      first += length;
    }
    return all;
  }
  /// The tokens whose successor is scored.
  std::vector<Index> scored() const {
    std::vector<Index> all;
    Index first = 0;
    for (const Index length : documents) {
      for (Index t = first; t + 1 < first + length; ++t) {
        if (labels[static_cast<std::size_t>(t + 1)] != not_scored) all.push_back(t);
      }
      first += length;
    }
    return all;
  }
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
