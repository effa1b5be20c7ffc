// SPDX-License-Identifier: MIT
// One block of a decoder, forward and backward: attention and a SwiGLU network, each behind an RMSNorm, with residuals.
//
//   n = RMSNorm(x)    q, k, v = W_q n, W_k n, W_v n    q, k turned (RoPE)    a = attention(q, k, v)    x1 = x + W_o a
//   m = RMSNorm(x1)   gate, up = W_g m, W_u m          h = silu(gate) ∘ up                             x2 = x1 + W_d h
#pragma once

#include <array>
#include <type_traits>
#include <vector>

#include "hydralora/core/segments.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/kernels/elementwise.hpp"
#include "hydralora/lm/attention.hpp"
#include "hydralora/lm/config.hpp"
#include "hydralora/lm/linear.hpp"
#include "hydralora/lm/rms_norm.hpp"
#include "hydralora/lm/rope.hpp"
#include "hydralora/lm/swiglu.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

/// RMSNorm's gain and, for full fine-tuning, its gradient.
template <class Scalar>
struct Gain {
  const Scalar* value = nullptr;
  Scalar* gradient = nullptr;
};

/// What a block saves between forward and backward, beside its input. Numbers per token: hidden for x1, q + 2 kv
/// features for qkv, q for attention, 2 · intermediate for gate_up, heads + 2 single ones, and the adapters' caches;
/// with norms of q and k another q + kv features, and a number per head. Computed again: both norms' outputs, and h.
/// For SmolLM2-135M 23.3 KB a token, 17.4 with gate_up in bfloat16.
template <class Scalar>
struct BlockCache {
  Matrix<Scalar> x1, qkv, raw_qk, attention, gate_up;
  Matrix<Eigen::bfloat16> rounded_gate_up;  ///< instead of gate_up
  std::vector<Scalar> inverse, inverse1, inverse_qk, log_sums;
  std::array<AdapterCache<Scalar>, 7> adapters;

  /// @param rounds  whether gate_up, of floats, is saved in bfloat16.
  void resize(const ModelConfig& c, Index tokens, bool rounds) {
    x1.resize(c.hidden, tokens);
    qkv.resize(c.q_features() + 2 * c.kv_features(), tokens);
    if (c.qk_norm) raw_qk.resize(c.q_features() + c.kv_features(), tokens);
    attention.resize(c.q_features(), tokens);
    gate_up.resize(2 * c.intermediate, rounds ? 0 : tokens);
    rounded_gate_up.resize(2 * c.intermediate, rounds ? tokens : 0);
    const auto n = static_cast<std::size_t>(tokens);
    inverse.resize(n);
    inverse1.resize(n);
    if (c.qk_norm) inverse_qk.resize(n * static_cast<std::size_t>(c.heads + c.kv_heads));
    log_sums.resize(n * static_cast<std::size_t>(c.heads));
  }
  /// Saves a matrix of gate_up's size, and gives it back. Unless it is rounded the memory is exchanged.
  void save_gate_up(Matrix<Scalar>& from) {
    if constexpr (std::is_same_v<Scalar, float>) {
      if (gate_up.size() == 0) return kernels::copy<float, Eigen::bfloat16>(from, rounded_gate_up);
    }
    gate_up.swap(from);
  }
  void take_gate_up(Matrix<Scalar>& to) {
    if constexpr (std::is_same_v<Scalar, float>) {
      if (gate_up.size() == 0) return kernels::copy<Eigen::bfloat16, float>(rounded_gate_up, to);
    }
    gate_up.swap(to);
  }
};

/// Memory that all blocks use in turn.
template <class Scalar>
struct BlockScratch {
  Matrix<Scalar> n, dn, gate_up, h, dh, dqkv;

  void resize(const ModelConfig& c, Index tokens) {
    n.resize(c.hidden, tokens);
    gate_up.resize(2 * c.intermediate, tokens);
    h.resize(c.intermediate, tokens);
  }
  void resize_backward(const ModelConfig& c, Index tokens) {
    resize(c, tokens);
    dn.resize((std::max)(c.hidden, c.q_features()), tokens);
    dh.resize(c.intermediate, tokens);
    dqkv.resize(c.q_features() + 2 * c.kv_features(), tokens);
  }
};

template <class Scalar>
struct Block {
  Linear<Scalar> q, k, v, o, gate, up, down;
  Gain<Scalar> norm, norm1, q_norm, k_norm;
  Index window = 0;

  template <class Function>
  void for_each_linear(Function&& f) {
    for (Linear<Scalar>* one : {&q, &k, &v, &o, &gate, &up, &down}) f(*one);
  }

  /// @param x    (hidden × tokens), read.
  /// @param s    OVERWRITTEN.
  /// @param out  (hidden × tokens), OVERWRITTEN. Must not be x.
  void forward(const ModelConfig& c, const Rope<Scalar>& rope, const Segments& documents, ConstTokens<Scalar> x,
               BlockCache<Scalar>& s, BlockScratch<Scalar>& w, Tokens<Scalar> out,
               const LinearCall<Scalar>& call) const {
    project(c, rope, documents, 0, x, s, w, call);
    const Tokens<Scalar> kv = Tokens<Scalar>(s.qkv).rows(c.q_features(), 2 * c.kv_features());
    attention<Scalar>(c, window, s.qkv, kv, documents, s.log_sums.data(), s.attention);
    feed_forward(c, x, s, w, out, call);
  }

  /// q, k, v = RoPE(W n) into s.qkv. @param first  position of the first token of every document.
  void project(const ModelConfig& c, const Rope<Scalar>& rope, const Segments& documents, Index first,
               ConstTokens<Scalar> x, BlockCache<Scalar>& s, BlockScratch<Scalar>& w,
               const LinearCall<Scalar>& call) const {
    const Index qf = c.q_features(), kvf = c.kv_features();
    const Tokens<Scalar> qkv(s.qkv);
    rms_norm<Scalar>(x, norm.value, c.epsilon, s.inverse.data(), w.n);
    q.forward(w.n, qkv.rows(0, qf), Write::overwrite, s.adapters[0], call);
    k.forward(w.n, qkv.rows(qf, kvf), Write::overwrite, s.adapters[1], call);
    v.forward(w.n, qkv.rows(qf + kvf, kvf), Write::overwrite, s.adapters[2], call);
    if (c.qk_norm) {
      kernels::copy<Scalar>(qkv.rows(0, qf + kvf), s.raw_qk);
      for_each_qk(c, [&](Index h, const Gain<Scalar>& g) {
        const Tokens<Scalar> head = qkv.rows(h * c.head_dim, c.head_dim);
        rms_norm<Scalar>(head, g.value, c.epsilon, s.inverse_qk.data() + h * qkv.tokens(), head);
      });
    }
    rope.forward(qkv.rows(0, qf + kvf), documents, first);
  }

  /// All behind attention.
  void feed_forward(const ModelConfig& c, ConstTokens<Scalar> x, BlockCache<Scalar>& s, BlockScratch<Scalar>& w,
                    Tokens<Scalar> out, const LinearCall<Scalar>& call) const {
    const Tokens<Scalar> gate_up(w.gate_up);
    kernels::copy<Scalar>(x, s.x1);
    o.forward(s.attention, s.x1, Write::add, s.adapters[3], call);
    rms_norm<Scalar>(s.x1, norm1.value, c.epsilon, s.inverse1.data(), w.n);
    gate.forward(w.n, gate_up.rows(0, c.intermediate), Write::overwrite, s.adapters[4], call);
    up.forward(w.n, gate_up.rows(c.intermediate, c.intermediate), Write::overwrite, s.adapters[5], call);
    swiglu<Scalar>(gate_up, w.h);
    s.save_gate_up(w.gate_up);
    kernels::copy<Scalar>(s.x1, out);
    down.forward(w.h, out, Write::add, s.adapters[6], call);
  }

  /// The gradients of forward(), in its reverse order.
  /// @param x   the input of forward(), read.
  /// @param s   filled by forward(); gate_up is taken out.
  /// @param dx  (hidden × tokens): the gradient of the output in, of the input out.
  /// @param first_block  whether nothing before this block is trained: dx is then not complete.
  void backward(const ModelConfig& c, const Rope<Scalar>& rope, const Segments& documents, ConstTokens<Scalar> x,
                BlockCache<Scalar>& s, BlockScratch<Scalar>& w, Tokens<Scalar> dx, bool first_block,
                const LinearCall<Scalar>& call) {
    const Index qf = c.q_features(), kvf = c.kv_features(), f = c.intermediate;
    const Tokens<Scalar> dqkv(w.dqkv), dn = Tokens<Scalar>(w.dn).rows(0, c.hidden);

    s.take_gate_up(w.gate_up);
    const Tokens<Scalar> gate_up(w.gate_up);
    swiglu<Scalar>(gate_up, w.h);  // again
    down.backward(w.h, dx, w.dh, Write::overwrite, s.adapters[6], call);
    swiglu_backward<Scalar>(gate_up, w.dh);
    rms_norm<Scalar>(s.x1, norm1.value, c.epsilon, s.inverse1.data(), w.n);  // again
    gate.backward(w.n, gate_up.rows(0, f), dn, Write::overwrite, s.adapters[4], call);
    up.backward(w.n, gate_up.rows(f, f), dn, Write::add, s.adapters[5], call);
    norm_backward(s.x1, norm1, s.inverse1.data(), dn, dx);

    const Tokens<Scalar> da = Tokens<Scalar>(w.dn).rows(0, qf);
    o.backward(s.attention, dx, da, Write::overwrite, s.adapters[3], call);
    attention_backward<Scalar>(c, window, s.qkv, documents, s.log_sums.data(), s.attention, da, dqkv);
    rope.backward(dqkv.rows(0, qf + kvf), documents);
    if (c.qk_norm) qk_norm_backward(c, s, dqkv);
    rms_norm<Scalar>(x, norm.value, c.epsilon, s.inverse.data(), w.n);  // again
    const bool skip = first_block && norm.gradient == nullptr;
    const Tokens<Scalar> to = skip ? Tokens<Scalar>() : dn;
    q.backward(w.n, dqkv.rows(0, qf), to, Write::overwrite, s.adapters[0], call);
    k.backward(w.n, dqkv.rows(qf, kvf), to, Write::add, s.adapters[1], call);
    v.backward(w.n, dqkv.rows(qf + kvf, kvf), to, Write::add, s.adapters[2], call);
    if (!skip) norm_backward(x, norm, s.inverse.data(), dn, dx);
  }

 private:
  /// f(h, gain) for the heads of q, then those of k, as they lie in qkv.
  template <class Function>
  void for_each_qk(const ModelConfig& c, Function&& f) const {
    for (Index h = 0; h < c.heads + c.kv_heads; ++h) f(h, h < c.heads ? q_norm : k_norm);
  }
  static void norm_backward(ConstTokens<Scalar> x, const Gain<Scalar>& gain, const Scalar* inverse,
                            ConstTokens<Scalar> dn, Tokens<Scalar> dx) {
    if (gain.gradient != nullptr) rms_norm_gain_backward<Scalar>(x, inverse, dn, gain.gradient);
    rms_norm_backward<Scalar>(x, gain.value, inverse, dn, dx);
  }
  void qk_norm_backward(const ModelConfig& c, const BlockCache<Scalar>& s, Tokens<Scalar> dqkv) const {
    Matrix<Scalar> d(c.head_dim, dqkv.tokens());
    for_each_qk(c, [&](Index h, const Gain<Scalar>& g) {
      const Tokens<Scalar> head = dqkv.rows(h * c.head_dim, c.head_dim);
      kernels::copy<Scalar>(head, d);
      kernels::fill<Scalar>(head, Scalar(0));
      norm_backward(ConstTokens<Scalar>(s.raw_qk).rows(h * c.head_dim, c.head_dim), g,
                    s.inverse_qk.data() + h * dqkv.tokens(), d, head);
    });
  }
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
