// SPDX-License-Identifier: MIT
// A decoder of the Llama family: embedding, blocks, RMSNorm, lm_head; the loss of a batch and its gradients.
#pragma once

#include <algorithm>
#include <complex>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/lm/batch.hpp"
#include "hydralora/lm/block.hpp"
#include "hydralora/lm/cross_entropy.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// Keys above values of the tokens so far, (2 · kv features × tokens) per block.
template <class Scalar>
struct KeyValueCache {
  std::vector<Matrix<Scalar>> layers;

  void begin(const ModelConfig& c, Index tokens) {
    layers.resize(static_cast<std::size_t>(c.layers));
    for (Matrix<Scalar>& one : layers) one.resize(2 * c.kv_features(), tokens);
  }
};

/// The model's weights and what a training step needs. Load one with load_decoder() (lm/load.hpp).
template <class Scalar>
class Decoder {
 public:
  explicit Decoder(ModelConfig model)
      : config(std::move(model)),
        rope(config.rope, config.head_dim, 0),
        blocks(static_cast<std::size_t>(config.layers)) {}
  Decoder(const Decoder&) = delete;  // the layers refer to `weights`
  Decoder& operator=(const Decoder&) = delete;

  ModelConfig config;
  Rope<Scalar> rope;
  std::shared_ptr<const Weight<Scalar>> embedding;
  std::vector<Block<Scalar>> blocks;
  Gain<Scalar> norm;
  Linear<Scalar> head;                ///< lm_head
  Tokens<Scalar> embedding_gradient;  ///< (hidden × vocabulary), for full fine-tuning, else empty
  AlignedVector<Scalar> weights;      ///< what the base has not taken over, end to end, in for_each_tensor()'s order
  bool checkpointing = false;         ///< save only the blocks' inputs, and compute them again in backward
  bool saves_bfloat16 = false;        ///< round gate_up of BlockCache, of floats only
  bool pools_prompts = false, pools_causally = false;  ///< an adapter has GateKind::prompt, GateKind::causal
  Index given_heads = 0;                               ///< heads of the adapters with GateKind::given, or 0

  template <class Function>
  void for_each_linear(Function&& f) {
    for (Block<Scalar>& block : blocks) block.for_each_linear(f);
  }

  /// Σ over the scored tokens of −ln p(label), for evaluation.
  /// @param best  if not null, the most probable token in the place of each scored one is APPENDED.
  loss_t<Scalar> loss(const Batch& batch, std::vector<int>* best = nullptr) {
    LinearCall<Scalar> call;
    complete(batch, call);
    forward(batch, call);
    return head_loss(batch, 0, call, best);
  }

  /// The same, with the gradients of scale · loss ADDED to those of the adapters or weights. With scale = 1 / (labelled
  /// tokens of a whole step) several batches and ranks add up to the gradient of the mean.
  loss_t<Scalar> loss_and_gradients(const Batch& batch, real_t<Scalar> scale, LinearCall<Scalar> call = {}) {
    call.training = true;
    complete(batch, call);
    forward(batch, call);
    const Index tokens = batch.tokens(), last = config.layers - 1;
    scratch_.resize_backward(config, tokens);
    dx_.setZero(config.hidden, tokens);
    const loss_t<Scalar> sum = head_loss(batch, scale, call);
    for (Index l = last; l >= 0; --l) {
      BlockCache<Scalar>& s = cache(l);
      if (checkpointing && l < last) {  // inputs_[l + 1] is no longer needed
        blocks[at(l)].forward(config, rope, batch.documents, inputs_[at(l)], s, scratch_, inputs_[at(l + 1)], call);
      }
      blocks[at(l)].backward(config, rope, batch.documents, inputs_[at(l)], s, scratch_, dx_,
                             l == 0 && embedding_gradient.tokens() == 0, call);
    }
    if (embedding_gradient.tokens() > 0) {
      for (Index t = 0; t < tokens; ++t) {
        kernels::add<Scalar>(Tokens<Scalar>(dx_).slice(t, 1), embedding_gradient.slice(batch.ids[at(t)], 1));
      }
    }
    return sum;
  }

  /// f(first token, (vocabulary × tokens) logits) for pieces of the batch in order.
  template <class Function>
  void logits(const Batch& batch, Function&& f, LinearCall<Scalar> call = {}) {
    complete(batch, call);
    forward(batch, call);
    for (Index first = 0; first < batch.tokens(); first += head_chunk) {
      const Index count = (std::min)(head_chunk, batch.tokens() - first);
      std::vector<Index> columns;
      for (Index t = first; t < first + count; ++t) columns.push_back(t);
      head_forward(columns.data(), count, call);
      f(first, ConstTokens<Scalar>(logits_).slice(0, count));
    }
  }

  /// The logits behind the last token of one document, for generation.
  /// @param cache  keys and values of the `first` tokens before the batch, to which the batch's are added. Null: no
  ///               token is before the batch.
  /// @param most   tokens that the cache will hold.
  Eigen::Matrix<Scalar, Eigen::Dynamic, 1> last_logits(const Batch& batch, KeyValueCache<Scalar>* cache, Index first,
                                                       Index most) {
    LinearCall<Scalar> call;
    complete(batch, call);
    if (cache == nullptr) {
      forward(batch, call);
    } else {
      if (first == 0) cache->begin(config, most);
      forward_cached(batch, *cache, first, call);
    }
    const Index last = batch.tokens() - 1;
    head_forward(&last, 1, call);
    return logits_.col(0);
  }

 private:
  /// Tokens whose logits exist together: 25 MB of floats for 49,152 words, and wide enough for a product.
  static constexpr Index head_chunk = 128;

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  BlockCache<Scalar>& cache(Index l) { return caches_[checkpointing ? 0 : at(l)]; }

  /// Makes room for a pass, and embeds its tokens.
  void begin(const Batch& batch, std::size_t inputs, std::size_t caches) {
    inputs_.resize(inputs);
    caches_.resize(caches);
    for (Matrix<Scalar>& x : inputs_) x.resize(config.hidden, batch.tokens());
    for (BlockCache<Scalar>& s : caches_)
      s.resize(config, batch.tokens(), saves_bfloat16 && std::is_same_v<Scalar, float>);
    scratch_.resize(config, batch.tokens());
    for (Index t = 0; t < batch.tokens(); ++t) embedding->row(batch.ids[at(t)], inputs_[0].col(t).data());
  }
  /// Checks the batch, and adds what its adapters need to know of it.
  void complete(const Batch& batch, LinearCall<Scalar>& call) {
    check(batch);
    call.options.segments = batch.documents;
    if (pools_prompts) prompts_ = batch.prompts();
    call.options.segments.prompts = pools_prompts ? prompts_.data() : nullptr;
    if (given_heads == 0) return;
    expects(batch.groups.size() == batch.documents.size(), "Decoder: given gates need a group for every document");
    given_.setZero(given_heads, batch.tokens());
    Index first = 0;
    for (std::size_t d = 0; d < batch.documents.size(); first += batch.documents[d++]) {
      given_.row(static_cast<Index>(batch.groups[d]) % given_heads).segment(first, batch.documents[d]).setOnes();
    }
    call.options.weights = given_;
  }

  void forward(const Batch& batch, const LinearCall<Scalar>& call) {
    rope.extend(*std::max_element(batch.documents.begin(), batch.documents.end()));
    const bool keeps_all = call.training && !checkpointing;
    begin(batch, call.training ? at(config.layers) + 1 : 2, keeps_all ? at(config.layers) : 1);
    for (Index l = 0; l < config.layers; ++l) {
      const std::size_t from = call.training ? at(l) : at(l % 2), to = call.training ? from + 1 : 1 - from;
      blocks[at(l)].forward(config, rope, batch.documents, inputs_[from], keeps_all ? caches_[at(l)] : caches_[0],
                            scratch_, inputs_[to], call);
    }
    output_ = call.training ? at(config.layers) : at(config.layers % 2);
  }

  /// forward() of the tokens behind those in the cache.
  void forward_cached(const Batch& batch, KeyValueCache<Scalar>& cache, Index first, const LinearCall<Scalar>& call) {
    const Index tokens = batch.tokens();
    rope.extend(first + tokens);
    begin(batch, 2, 1);
    BlockCache<Scalar>& s = caches_[0];
    for (Index l = 0; l < config.layers; ++l) {
      const Block<Scalar>& block = blocks[at(l)];
      const Matrix<Scalar>& x = inputs_[at(l % 2)];
      block.project(config, rope, batch.documents, first, x, s, scratch_, call);
      const Tokens<Scalar> stored(cache.layers[at(l)]);
      const Index kv = 2 * config.kv_features();
      kernels::copy<Scalar>(Tokens<Scalar>(s.qkv).rows(config.q_features(), kv), stored.slice(first, tokens));
      attention<Scalar>(config, block.window, s.qkv, stored.slice(0, first + tokens), {}, s.log_sums.data(),
                        s.attention);
      block.feed_forward(config, x, s, scratch_, inputs_[at(1 - l % 2)], call);
    }
    output_ = at(config.layers % 2);
  }

  /// Logits of some tokens, into the first columns of logits_.
  void head_forward(const Index* columns, Index count, const LinearCall<Scalar>& call) {
    for (Matrix<Scalar>* m : {&selected_, &normed_}) m->resize(config.hidden, head_chunk);
    inverse_.resize(at(head_chunk));
    logits_.resize(config.vocabulary, head_chunk);
    for (Index i = 0; i < count; ++i) selected_.col(i) = inputs_[output_].col(columns[i]);
    const Tokens<Scalar> n = Tokens<Scalar>(normed_).slice(0, count);
    rms_norm<Scalar>(Tokens<Scalar>(selected_).slice(0, count), norm.value, config.epsilon, inverse_.data(), n);
    head.forward(n, Tokens<Scalar>(logits_).slice(0, count), Write::overwrite, head_cache_, call);
  }

  /// The loss of the scored tokens, chunk by chunk; in training their gradient goes to dx_.
  loss_t<Scalar> head_loss(const Batch& batch, real_t<Scalar> scale, const LinearCall<Scalar>& call,
                           std::vector<int>* best = nullptr) {
    const std::vector<Index> scored = batch.scored();
    loss_t<Scalar> sum(0);
    for (Index first = 0; first < static_cast<Index>(scored.size()); first += head_chunk) {
      const Index count = (std::min)(head_chunk, static_cast<Index>(scored.size()) - first);
      const Index* columns = scored.data() + first;
      std::vector<int> labels;
      for (Index i = 0; i < count; ++i) labels.push_back(batch.labels[at(columns[i] + 1)]);
      head_forward(columns, count, call);
      const Tokens<Scalar> z = Tokens<Scalar>(logits_).slice(0, count);
      const auto less = [](const Scalar& a, const Scalar& b) { return std::real(a) < std::real(b); };
      for (Index i = 0; best != nullptr && i < count; ++i) {
        const Scalar *begin = z.token(i), *end = begin + config.vocabulary;
        best->push_back(static_cast<int>(std::max_element(begin, end, less) - begin));
      }
      sum += cross_entropy<Scalar>(z, labels.data(), scale);
      if (!call.training) continue;
      dn_.resize(config.hidden, head_chunk);
      const Tokens<Scalar> n = Tokens<Scalar>(normed_).slice(0, count), dn = Tokens<Scalar>(dn_).slice(0, count);
      head.backward(n, z, dn, Write::overwrite, head_cache_, call);
      const Tokens<Scalar> x = Tokens<Scalar>(selected_).slice(0, count);
      if (norm.gradient != nullptr) rms_norm_gain_backward<Scalar>(x, inverse_.data(), dn, norm.gradient);
      kernels::fill<Scalar>(n, Scalar(0));
      rms_norm_backward<Scalar>(x, norm.value, inverse_.data(), dn, n);
      for (Index i = 0; i < count; ++i) dx_.col(columns[i]) = normed_.col(i);
    }
    return sum;
  }

  void check(const Batch& batch) const {
    Index sum = 0;
    for (const Index length : batch.documents) {
      expects(length >= 1, "Decoder: a document has ", length, " tokens");
      expects(length <= config.positions, "Decoder: a document has ", length, " tokens, the model's context has ",
              config.positions);
      sum += length;
    }
    expects(sum == batch.tokens() && sum >= 1 && batch.labels.size() == batch.ids.size(), "Decoder: the batch has ",
            batch.tokens(), " ids, ", batch.labels.size(), " labels and documents of ", sum, " tokens");
    for (const auto& [list, what] : {std::pair(&batch.ids, "token "), std::pair(&batch.labels, "label ")}) {
      for (const int id : *list) {
        expects((id >= 0 && id < config.vocabulary) || (list == &batch.labels && id == not_scored), "Decoder: ", what,
                id, ", the model's vocabulary has ", config.vocabulary);
      }
    }
  }

  std::vector<Matrix<Scalar>> inputs_;  // of every block, and the last one's output
  std::vector<BlockCache<Scalar>> caches_;
  BlockScratch<Scalar> scratch_;
  Matrix<Scalar> dx_, selected_, normed_, dn_, logits_;
  Matrix<Scalar> given_;  // one-hot weights of the heads
  std::vector<Index> prompts_;
  std::vector<Scalar> inverse_;
  AdapterCache<Scalar> head_cache_;
  std::size_t output_ = 0;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
