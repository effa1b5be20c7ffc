// SPDX-License-Identifier: MIT
//
// Layers as a user writes them: a bottleneck with SiLU between A and B, and N routed bottlenecks.
#pragma once

#include <cmath>
#include <hydralora/hydralora.hpp>

namespace support {

struct SiLU : hydralora::MiddleDefaults {
  using Config = hydralora::LoRAConfig;
  static hydralora::AdapterShape shape(const Config& c) { return {"Bottleneck", c}; }

  template <class S>
  void mix(const hydralora::MiddleInput<S>& in, hydralora::Tokens<S> u) const {
    u.matrix() = in.h.matrix().unaryExpr([](S h) { return h * sigmoid(h); });
  }
  template <class S>
  void mix_backward(const hydralora::MiddleInput<S>& in, hydralora::ConstTokens<S> v,
                    const hydralora::MiddleGradient<S>& d) const {
    d.h.matrix() = v.matrix().binaryExpr(in.h.matrix(),
                                         [](S du, S h) { return du * sigmoid(h) * (S(1) + h * (S(1) - sigmoid(h))); });
  }
  template <class S>
  static S sigmoid(S h) {
    using std::exp;
    return S(1) / (S(1) + exp(-h));
  }
};

struct SiLUHeads : hydralora::SplitLoRAMiddle {
  static hydralora::AdapterShape shape(const Config& c) { return heads_shape("SiLUHeads", c, c.heads); }

  template <class S>
  void mix(const hydralora::MiddleInput<S>& in, hydralora::Tokens<S> u) const {
    hydralora::ScratchFrame scratch;
    const auto a = scratch.take_tokens<S>(u.features(), u.tokens());
    SiLU().mix(in, a);
    SplitLoRAMiddle::mix(hydralora::MiddleInput<S>{a, in.weights}, u);
  }
  template <class S>
  void mix_backward(const hydralora::MiddleInput<S>& in, hydralora::ConstTokens<S> v,
                    const hydralora::MiddleGradient<S>& d) const {
    hydralora::ScratchFrame scratch;
    const auto a = scratch.take_tokens<S>(v.features(), v.tokens()),
               da = scratch.take_tokens<S>(v.features(), v.tokens());
    SiLU().mix(in, a);
    SplitLoRAMiddle::mix_backward(hydralora::MiddleInput<S>{a, in.weights}, v,
                                  hydralora::MiddleGradient<S>{da, d.weights});
    SiLU().mix_backward(in, hydralora::ConstTokens<S>(da), d);
  }
};

template <class Scalar = float>
using Bottleneck = hydralora::Adapter<Scalar, SiLU>;
template <class Scalar = float>
using RoutedBottlenecks = hydralora::Adapter<Scalar, SiLUHeads>;

}  // namespace support
