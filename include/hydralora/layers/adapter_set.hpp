// SPDX-License-Identifier: MIT
//
// Several adapters on one base: named, switched on, off and over, or side by side in one batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/call_options.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// Tokens of a batch that one adapter serves.
struct AdapterRun {
  Index adapter;  ///< its place in the set, or base_only
  Index tokens;   ///< ≥ 0
};
/// In an AdapterRun: tokens to which no adapter adds anything.
inline constexpr Index base_only = -1;

/// Adapters of one kind and of the same features, each with ranks, heads and parameters of its own:
///
///   AdapterSet<LoRA<float>> adapters;
///   const Index law = adapters.add("law", std::make_unique<LoRA<float>>(config));
///   adapters.use(law);
///   adapters.forward(x, y);                             every token with "law"
///   adapters.forward(x, y, {{law, 7}, {base_only, 3}}); seven with it, three without any
///
/// Switching exchanges a number or a pointer and allocates nothing. A const call is thread-safe; switching is not.
template <class Layer>
class AdapterSet {
 public:
  using Scalar = typename Layer::Scalar;  ///< of all adapters

  /// What a forward pass over runs keeps for its backward pass. Reusable, grows, never shrinks.
  class Cache {
   public:
    Index tokens() const { return tokens_; }  ///< of the forward pass it holds

   private:
    friend class AdapterSet;
    std::vector<AdapterRun> runs_;
    std::vector<typename Layer::Cache> caches_;  // one for every run
    Index tokens_ = 0;
  };

  /// @return  its place, which it keeps.
  /// @throws std::invalid_argument  a null pointer, a name that is taken, or features other than those of the others.
  Index add(std::string name, std::unique_ptr<Layer> adapter) {
    expects(adapter != nullptr, "AdapterSet::add: no adapter for '", name, "'");
    for (const Entry& entry : entries_) expects(entry.name != name, "AdapterSet::add: '", name, "' is there already");
    check_features("AdapterSet::add", *adapter);
    entries_.push_back({std::move(name), std::move(adapter)});
    return size() - 1;
  }
  /// Puts another adapter in its place and gives the old one back.
  /// @throws std::invalid_argument  as add().
  std::unique_ptr<Layer> exchange(Index place, std::unique_ptr<Layer> adapter) {
    check_place("AdapterSet::exchange", place);
    expects(adapter != nullptr, "AdapterSet::exchange: no adapter for '", name(place), "'");
    check_features("AdapterSet::exchange", *adapter);
    std::swap(entries_[static_cast<std::size_t>(place)].adapter, adapter);
    return adapter;
  }

  Index size() const { return static_cast<Index>(entries_.size()); }  ///< adapters in the set
  /// Of the adapter at a place.
  const std::string& name(Index place) const { return entry("AdapterSet::name", place).name; }
  /// Of the adapter with a name. @throws std::invalid_argument where there is none.
  Index place(const std::string& name) const {
    for (Index i = 0; i < size(); ++i) {
      if (entries_[static_cast<std::size_t>(i)].name == name) return i;
    }
    fail("AdapterSet::place: there is no '", name, "'");
  }
  /// The adapter itself. @throws std::invalid_argument where there is none at this place.
  Layer& operator[](Index place) { return *entry("AdapterSet", place).adapter; }
  const Layer& operator[](Index place) const { return *entry("AdapterSet", place).adapter; }

  /// The adapter of forward(x, y) from now on; base_only switches all off, as at the start.
  void use(Index place) {
    if (place != base_only) check_place("AdapterSet::use", place);
    used_ = place;
  }
  Index used() const { return used_; }  ///< the adapter in use, or base_only

  /// y += ΔW(x) of the adapter in use; nothing where there is none. Arguments and errors as Layer::forward().
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, const CallOptions<Scalar>& options = {}) const {
    if (used_ != base_only) (*this)[used_].forward(x, y, options);
  }

  /// y += ΔW(x), every run of tokens with its own adapter, to the bits of a call for every run alone.
  ///
  /// @param x     (in_features × tokens), read.
  /// @param y     (out_features × tokens), ADDED to: the host writes W x first. Must not overlap x.
  /// @param runs  their tokens in order, as many in all as x has.
  /// @throws std::invalid_argument  runs that name no adapter of the set or hold another number of tokens, layers that take
  ///                 weights from the caller, or as Layer::forward(); y and the cache are then untouched.
  /// Cost    that of the layers; no token is copied.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, const std::vector<AdapterRun>& runs) const {
    check("AdapterSet::forward", x, y, runs);
    for_each_run(runs, [&](std::size_t, Index adapter, Index first, Index count) {
      (*this)[adapter].forward(x.slice(first, count), y.slice(first, count));
    });
  }
  /// The same for a backward pass. Dropout counts tokens through the whole batch, from options.first_token on; a gate
  /// that pools takes every run for one segment. Of the options step and first_token are taken and the others refused:
  /// adapters may have different heads, so that no matrix of weights, or of a balance loss's gradient, could serve all.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, const std::vector<AdapterRun>& runs, Cache& cache,
               const CallOptions<Scalar>& options = {}) const {
    check("AdapterSet::forward", x, y, runs);
    expects(options.segments.count == 0 && options.weights.features() == 0 &&
                options.weights_gradient.features() == 0 && options.logits_gradient.features() == 0,
            "AdapterSet::forward: segments, weights and gradients have no place in a batch of several adapters");
    if (cache.caches_.size() < runs.size()) cache.caches_.resize(runs.size());
    cache.tokens_ = 0;
    cache.runs_.assign(runs.begin(), runs.end());
    for_each_run(runs, [&](std::size_t run, Index adapter, Index first, Index count) {
      (*this)[adapter].forward(x.slice(first, count), y.slice(first, count), cache.caches_[run],
                               for_run(options, first));
    });
    cache.tokens_ = x.tokens();
  }

  /// Without a balance loss: one is added by Layer::backward(), adapter by adapter.
  ///
  /// @param x          (in_features × tokens), as in forward(), read.
  /// @param dy         (out_features × tokens), read.
  /// @param cache      filled by forward() on the same x.
  /// @param gradients  one for every adapter of the set, in order; those of the runs' adapters are ADDED to, the others may
  ///                   be null.
  /// @param dx         ADDED to, nothing for tokens without an adapter.
  /// @throws std::invalid_argument  a cache of other tokens, gradients that are missing, or as Layer::backward(); nothing is
  ///                 then written for the run that failed and those behind it.
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const Cache& cache,
                const std::vector<typename Layer::Gradients*>& gradients, Tokens<Scalar> dx) const {
    constexpr auto where = "AdapterSet::backward";
    expects(cache.tokens_ == x.tokens() && dy.tokens() == x.tokens() && dx.tokens() == x.tokens(), where,
            ": the cache holds ", cache.tokens_, " tokens, x is ", x.shape(), ", dy ", dy.shape(), ", dx ", dx.shape());
    expects(static_cast<Index>(gradients.size()) == size(), where, ": ", gradients.size(), " gradients for ", size(),
            " adapters");
    for (const AdapterRun& run : cache.runs_) {
      if (run.adapter == base_only || run.tokens == 0) continue;
      check_place(where, run.adapter);
      expects(gradients[static_cast<std::size_t>(run.adapter)] != nullptr, where, ": no gradients for '",
              name(run.adapter), "'");
    }
    for_each_run(cache.runs_, [&](std::size_t run, Index adapter, Index first, Index count) {
      (*this)[adapter].backward(x.slice(first, count), dy.slice(first, count), cache.caches_[run],
                                *gradients[static_cast<std::size_t>(adapter)], dx.slice(first, count));
    });
  }

 private:
  struct Entry {
    std::string name;
    std::unique_ptr<Layer> adapter;
  };

  static CallOptions<Scalar> for_run(const CallOptions<Scalar>& options, Index first) {
    CallOptions<Scalar> own;
    own.step = options.step;
    own.first_token = options.first_token + static_cast<std::uint64_t>(first);
    return own;
  }

  /// f(run, adapter, first, count) for the runs with an adapter and tokens.
  template <class Function>
  static void for_each_run(const std::vector<AdapterRun>& runs, Function&& f) {
    Index first = 0;
    for (std::size_t i = 0; i < runs.size(); first += runs[i++].tokens) {
      if (runs[i].adapter != base_only && runs[i].tokens > 0) f(i, runs[i].adapter, first, runs[i].tokens);
    }
  }

  const Entry& entry(const char* where, Index place) const {
    check_place(where, place);
    return entries_[static_cast<std::size_t>(place)];
  }
  void check_place(const char* where, Index place) const {
    expects(place >= 0 && place < size(), where, ": place ", place, " of ", size(), " adapters");
  }
  void check_features(const char* where, const Layer& adapter) const {
    if (entries_.empty()) return;
    const auto& first = entries_[0].adapter->shape();
    expects(adapter.shape().in == first.in && adapter.shape().out == first.out, where, ": an adapter ",
            adapter.shape().in, "->", adapter.shape().out, " beside those of ", first.in, "->", first.out);
  }
  void check(const char* where, ConstTokens<Scalar> x, Tokens<Scalar> y, const std::vector<AdapterRun>& runs) const {
    expects(y.tokens() == x.tokens(), where, ": x is ", x.shape(), " and y is ", y.shape());
    expects(!overlap<Scalar>(x, y), where, ": x ", x.shape(), " and y ", y.shape(), " overlap");
    Index left = x.tokens();
    for (const AdapterRun& run : runs) {
      expects(run.tokens >= 0 && run.tokens <= left, where, ": the runs hold ", x.tokens() - left, " and then ",
              run.tokens, " of ", x.tokens(), " tokens");
      left -= run.tokens;
      if (run.adapter == base_only) continue;
      check_place(where, run.adapter);
      const auto& shape = (*this)[run.adapter].shape();
      expects(x.features() == shape.in && y.features() == shape.out, where, ": x is ", x.shape(), " and y is ",
              y.shape(), ", '", name(run.adapter), "' is ", shape.in, "->", shape.out);
      expects(!shape.takes_weights, where, ": '", name(run.adapter), "' takes its weights from the caller");
    }
    expects(left == 0, where, ": the runs hold ", x.tokens() - left, " of ", x.tokens(), " tokens");
  }

  std::vector<Entry> entries_;
  Index used_ = base_only;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
