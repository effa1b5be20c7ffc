// SPDX-License-Identifier: MIT
// Batches from examples: shuffled anew in every epoch, a fixed number of documents or packed to a length.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/lm/data/examples.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// The order in which training sees its examples. It follows from the seed: to go on, a run needs only the position.
class Batches {
 public:
  struct Position {
    std::int64_t epoch = 0, index = 0;
  };

  /// @param examples   at least one; must outlive this.
  /// @param documents  of a batch, where pack is 0.
  /// @param pack       or: as many documents as fit into so many tokens, none of them cut; a longer one stands alone.
  Batches(const std::vector<Example>& examples, Index documents, Index pack, bool shuffle, std::uint64_t seed)
      : examples_(examples), documents_(documents), pack_(pack), shuffle_(shuffle), random_(seed, 77) {
    expects(!examples.empty(), "Batches: there is no example");
    expects(documents >= 1 || pack >= 1, "Batches: a batch has ", documents, " documents");
    order();
  }

  Position position() const { return position_; }
  void set_position(Position position) {
    expects(position.epoch >= 0 && position.index >= 0 && position.index < static_cast<std::int64_t>(examples_.size()),
            "Batches: position ", position.index, " of epoch ", position.epoch, ", there are ", examples_.size(),
            " examples");
    position_ = position;
    order();
  }

  Batch next() {
    Batch batch;
    do {
      const Example& example = examples_[order_[static_cast<std::size_t>(position_.index)]];
      const auto length = static_cast<Index>(example.ids.size());
      if (pack_ > 0 && !batch.documents.empty() && batch.tokens() + length > pack_) break;
      batch.add(example.ids, example.labels, example.group);
      if (++position_.index == static_cast<std::int64_t>(order_.size())) {
        ++position_.epoch;
        position_.index = 0;
        order();
        break;  // no batch has documents of two epochs
      }
    } while (pack_ > 0 || static_cast<Index>(batch.documents.size()) < documents_);
    return batch;
  }

 private:
  void order() {
    order_.resize(examples_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    if (!shuffle_) return;
    for (std::size_t i = order_.size() - 1; i > 0; --i) {  // Fisher and Yates
      std::swap(order_[i], order_[random_.below(i + 1, i, static_cast<std::uint64_t>(position_.epoch))]);
    }
  }

  const std::vector<Example>& examples_;
  Index documents_, pack_;
  bool shuffle_;
  CounterRandom random_;
  Position position_;
  std::vector<std::size_t> order_;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
