// SPDX-License-Identifier: MIT
// Text generation with a cache of keys and values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "hydralora/core/random.hpp"
#include "hydralora/lm/decoder.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

struct GenerationOptions {
  Index max_tokens = 128;
  double temperature = 0;  ///< 0: the most probable token
  double top_p = 1;        ///< only the most probable tokens whose probabilities sum to this
  std::uint64_t seed = 0;
  std::vector<int> end_tokens;       ///< end the text; the end token is not part of it
  int group = 0;                     ///< for GateKind::given
  std::function<void(int)> receive;  ///< gets every token once it is made
};

/// Generates from a prompt. Keys and values of earlier tokens are stored, except where an adapter's gate pools tokens:
/// then every token is a pass over the whole text.
template <class Scalar>
class Generator {
 public:
  explicit Generator(Decoder<Scalar>& model) : model_(model) {}

  /// @return  the new tokens. It ends at an end token, at max_tokens and where the model's context is full.
  /// @throws std::invalid_argument  an empty prompt, one longer than the context, or a token outside the vocabulary.
  std::vector<int> generate(const std::vector<int>& prompt, const GenerationOptions& options) {
    const ModelConfig& c = model_.config;
    expects(!prompt.empty(), "Generator: the prompt is empty");
    expects(static_cast<Index>(prompt.size()) <= c.positions, "Generator: the prompt has ", prompt.size(),
            " tokens, the model's context has ", c.positions);
    std::vector<int> all = prompt, made;
    done_ = 0;
    const Index most = std::min<Index>(c.positions, static_cast<Index>(prompt.size()) + options.max_tokens);
    while (static_cast<Index>(all.size()) < most) {
      const Eigen::VectorXd logits = next_logits(all, prompt.size(), options.group, most);
      const int token = choose(logits, options, made.size());
      const auto& ends = options.end_tokens;
      if (std::find(ends.begin(), ends.end(), token) != ends.end()) break;
      all.push_back(token);
      made.push_back(token);
      if (options.receive) options.receive(token);
    }
    return made;
  }

 private:
  Eigen::VectorXd next_logits(const std::vector<int>& all, std::size_t prompt, int group, Index most) {
    Batch batch;
    batch.add(std::vector<int>(all.begin() + static_cast<std::ptrdiff_t>(done_), all.end()), {}, group);
    batch.labels.assign(batch.ids.size(), not_scored);
    // What is not the prompt counts as scored, so that a gate that pools the prompt reads no answer.
    for (std::size_t t = prompt; done_ == 0 && t < all.size(); ++t) batch.labels[t] = all[t];
    const Index from = static_cast<Index>(done_);
    const bool pools = model_.pools_prompts || model_.pools_causally;
    if (!pools) done_ = all.size();
    return model_.last_logits(batch, pools ? nullptr : &cache_, from, most).template cast<double>();
  }

  static int choose(const Eigen::VectorXd& logits, const GenerationOptions& options, std::size_t index) {
    Index best = 0;
    logits.maxCoeff(&best);
    if (options.temperature <= 0) return static_cast<int>(best);
    Eigen::VectorXd p = ((logits.array() - logits[best]) / options.temperature).exp();
    p /= p.sum();
    std::vector<Index> order(static_cast<std::size_t>(p.size()));
    std::iota(order.begin(), order.end(), Index(0));
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return p[a] > p[b]; });
    double sum = 0;
    std::size_t count = 0;
    while (count < order.size() && (count == 0 || sum < options.top_p)) sum += p[order[count++]];
    double rest = CounterRandom(options.seed).uniform(index) * sum;
    for (std::size_t i = 0; i < count; ++i) {
      rest -= p[order[i]];
      if (rest < 0) return static_cast<int>(order[i]);
    }
    return static_cast<int>(order[count - 1]);
  }

  Decoder<Scalar>& model_;
  KeyValueCache<Scalar> cache_;
  std::size_t done_ = 0;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
