// SPDX-License-Identifier: MIT
// Several adapters on one base: switched by name, or used side by side in one batch.
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

/// Consecutive tokens of a batch with the same adapter.
struct AdapterRun {
  Index adapter;  ///< place in the set, or base_only
  Index tokens;
};
/// No adapter.
inline constexpr Index base_only = -1;

/// Adapters of one class with the same features. Ranks, heads and parameters may differ:
///
///   AdapterSet<LoRA<float>> adapters;
///   const Index law = adapters.add("law", std::make_unique<LoRA<float>>(config));
///   adapters.use(law);
///   adapters.forward(x, y);                             all tokens with "law"
///   adapters.forward(x, y, {{law, 7}, {base_only, 3}}); seven with "law", three without an adapter
///
/// Switching allocates nothing. Const calls are thread-safe. An unknown place or name throws std::invalid_argument.
template <class Layer>
class AdapterSet {
 public:
  using Activation = typename Layer::Activation;
  using Sum = typename Layer::Sum;

  /// What forward() over runs saves for backward(). Reusable, grows, never shrinks.
  class Cache {
   public:
    Index tokens() const { return tokens_; }

   private:
    friend class AdapterSet;
    std::vector<AdapterRun> runs_;
    std::vector<typename Layer::Cache> caches_;  // one for every run
    Index tokens_ = 0;
  };

  /// @return  the adapter's place, which does not change.
  /// @throws std::invalid_argument  a null pointer, a name that is in the set already, or other features.
  Index add(std::string name, std::unique_ptr<Layer> adapter) {
    for (const Entry& entry : entries_) expects(entry.name != name, "AdapterSet::add: '", name, "' was added before");
    check_adapter("AdapterSet::add", name, adapter.get());
    entries_.push_back({std::move(name), std::move(adapter)});
    return size() - 1;
  }
  /// Replaces the adapter at a place. Errors as in add(). @return  the old one.
  std::unique_ptr<Layer> exchange(Index place, std::unique_ptr<Layer> adapter) {
    check_place("AdapterSet::exchange", place);
    check_adapter("AdapterSet::exchange", name(place), adapter.get());
    std::swap(entries_[static_cast<std::size_t>(place)].adapter, adapter);
    return adapter;
  }
  Index size() const { return static_cast<Index>(entries_.size()); }
  const std::string& name(Index place) const { return entry("AdapterSet::name", place).name; }
  Index place(const std::string& name) const {
    for (Index i = 0; i < size(); ++i) {
      if (entries_[static_cast<std::size_t>(i)].name == name) return i;
    }
    fail("AdapterSet::place: there is no '", name, "'");
  }
  Layer& operator[](Index place) { return *entry("AdapterSet", place).adapter; }
  const Layer& operator[](Index place) const { return *entry("AdapterSet", place).adapter; }

  /// Selects the adapter of forward(x, y). base_only, the default, selects none.
  void use(Index place) {
    if (place != base_only) check_place("AdapterSet::use", place);
    used_ = place;
  }
  Index used() const { return used_; }

  /// y += ΔW(x) of the adapter in use, if there is one. Arguments and errors as in Layer::forward().
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, const CallOptions<Sum>& options = {}) const {
    if (used_ != base_only) (*this)[used_].forward(x, y, options);
  }
  /// y += ΔW(x), every run of tokens with its adapter. The bits are those of one call per run.
  /// @param x     (in_features × tokens), read.
  /// @param y     (out_features × tokens), ADDED to: the host writes W x first. Must not overlap x.
  /// @param runs  in token order; their tokens sum to those of x.
  /// @throws std::invalid_argument  a run with an unknown adapter, another sum of tokens, layers that take weights from
  ///                 the caller, or as Layer::forward(); y and the cache are then untouched.
  /// Cost    that of the layers; no token is copied.
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, const std::vector<AdapterRun>& runs) const {
    check("AdapterSet::forward", x, y, runs);
    for_each_run(runs, [&](std::size_t, Index adapter, Index first, Index count) {
      (*this)[adapter].forward(x.slice(first, count), y.slice(first, count));
    });
  }
  /// The same, and saves the cache for backward(). Dropout counts tokens over the whole batch from options.first_token
  /// on. For a gate that pools, every run is one segment. Options other than step and first_token are refused, because
  /// adapters may have different numbers of heads.
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, const std::vector<AdapterRun>& runs, Cache& cache,
               const CallOptions<Sum>& options = {}) const {
    check("AdapterSet::forward", x, y, runs);
    expects(options.segments.count == 0 && options.weights.features() == 0 &&
                options.weights_gradient.features() == 0 && options.logits_gradient.features() == 0,
            "AdapterSet::forward: segments, weights and gradients are not supported in a batch of several adapters");
    if (cache.caches_.size() < runs.size()) cache.caches_.resize(runs.size());
    cache.tokens_ = 0;
    cache.runs_.assign(runs.begin(), runs.end());
    for_each_run(runs, [&](std::size_t run, Index adapter, Index first, Index count) {
      CallOptions<Sum> own;
      own.step = options.step;
      own.first_token = options.first_token + static_cast<std::uint64_t>(first);
      (*this)[adapter].forward(x.slice(first, count), y.slice(first, count), cache.caches_[run], own);
    });
    cache.tokens_ = x.tokens();
  }

  /// The gradients of forward() over runs. It takes no gradient of a balance loss; Layer::backward() does.
  /// @param x          (in_features × tokens), as in forward(), read.
  /// @param dy         (out_features × tokens), read.
  /// @param cache      filled by forward() on the same x.
  /// @param gradients  one per adapter of the set, in order. ADDED to for the runs' adapters; the others may be null.
  /// @param dx         ADDED to; unchanged for tokens without an adapter.
  /// @throws std::invalid_argument  a cache of other tokens, missing gradients, or as Layer::backward(); nothing is
  ///                 then written for the run that failed and the runs after it.
  void backward(ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache,
                const std::vector<typename Layer::Gradients*>& gradients, Tokens<Activation> dx) const {
    constexpr auto where = "AdapterSet::backward";
    expects(cache.tokens_ == x.tokens() && dy.tokens() == x.tokens() && dx.tokens() == x.tokens(), where,
            ": the cache holds ", cache.tokens_, " tokens, x is ", x.shape(), ", dy ", dy.shape(), ", dx ", dx.shape());
    expects(static_cast<Index>(gradients.size()) == size(), where, ": ", gradients.size(), " gradients for ", size(),
            " adapters");
    for_each_run(cache.runs_, [&](std::size_t, Index adapter, Index, Index) {
      check_place(where, adapter);
      expects(gradients[static_cast<std::size_t>(adapter)] != nullptr, where, ": no gradients for '", name(adapter),
              "'");
    });
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
  void check_adapter(const char* where, const std::string& name, const Layer* adapter) const {
    expects(adapter != nullptr, where, ": no adapter for '", name, "'");
    const auto &shape = adapter->shape(), &first = entries_.empty() ? shape : entries_[0].adapter->shape();
    expects(shape.in == first.in && shape.out == first.out, where, ": an adapter ", shape.in, "->", shape.out,
            " beside those of ", first.in, "->", first.out);
  }
  void check(const char* where, ConstTokens<Activation> x, Tokens<Activation> y,
             const std::vector<AdapterRun>& runs) const {
    expects(y.tokens() == x.tokens(), where, ": x is ", x.shape(), " and y is ", y.shape());
    expects(!overlap<Activation>(x, y), where, ": x ", x.shape(), " and y ", y.shape(), " overlap");
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
