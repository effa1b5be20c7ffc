// SPDX-License-Identifier: MIT
// The operations of a decoder in plain loops, for any scalar type: what the fast ones are compared with, and what runs
// where there is no SIMD. With complex numbers they give exact derivatives (complex step).
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <type_traits>

#include "hydralora/core/simd.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// What losses are summed in: double, or complex numbers for a complex step.
template <class Scalar>
using loss_t = std::conditional_t<std::is_floating_point_v<Scalar>, double, Scalar>;

namespace reference {

template <class Scalar>
void rms_norm(ConstTokens<Scalar> x, const Scalar* gain, double epsilon, Scalar* inverse, Tokens<Scalar> n) {
  using std::sqrt;
  for (Index t = 0; t < x.tokens(); ++t) {
    Scalar sum(0);
    for (Index i = 0; i < x.features(); ++i) sum += x(i, t) * x(i, t);
    const auto features = static_cast<real_t<Scalar>>(x.features());
    inverse[t] = Scalar(1) / sqrt(sum / features + static_cast<real_t<Scalar>>(epsilon));
    for (Index i = 0; i < x.features(); ++i) n(i, t) = x(i, t) * inverse[t] * gain[i];
  }
}

template <class Scalar>
void rms_norm_backward(ConstTokens<Scalar> x, const Scalar* gain, const Scalar* inverse, ConstTokens<Scalar> dn,
                       Tokens<Scalar> dx) {
  for (Index t = 0; t < x.tokens(); ++t) {
    Scalar sum(0);
    for (Index i = 0; i < x.features(); ++i) sum += gain[i] * dn(i, t) * x(i, t);
    const Scalar r = inverse[t], c = r * r * r * sum / static_cast<real_t<Scalar>>(x.features());
    for (Index i = 0; i < x.features(); ++i) dx(i, t) += r * gain[i] * dn(i, t) - c * x(i, t);
  }
}

template <class Scalar>
void swiglu(ConstTokens<Scalar> gate_up, Tokens<Scalar> h) {
  using std::exp;
  for (Index t = 0; t < h.tokens(); ++t) {
    for (Index i = 0; i < h.features(); ++i) {
      const Scalar z = gate_up(i, t), up = gate_up(h.features() + i, t);
      h(i, t) = z * up / (Scalar(1) + exp(-z));
    }
  }
}

template <class Scalar>
void swiglu_backward(Tokens<Scalar> gate_up, ConstTokens<Scalar> dh) {
  using std::exp;
  const Index features = dh.features();
  for (Index t = 0; t < dh.tokens(); ++t) {
    for (Index i = 0; i < features; ++i) {
      const Scalar z = gate_up(i, t), up = gate_up(features + i, t), s = Scalar(1) / (Scalar(1) + exp(-z));
      gate_up(i, t) = dh(i, t) * up * s * (Scalar(1) + z * (Scalar(1) - s));
      gate_up(features + i, t) = dh(i, t) * z * s;
    }
  }
}

/// One number of attention's scores: ⟨k_j, q_i⟩ scale.
template <class Scalar>
Scalar score(ConstTokens<Scalar> q, ConstTokens<Scalar> k, Index i, Index j, real_t<Scalar> scale) {
  Scalar sum(0);
  for (Index d = 0; d < q.features(); ++d) sum += q(d, i) * k(d, j);
  return sum * scale;
}

template <class Scalar>
void attend(ConstTokens<Scalar> q, ConstTokens<Scalar> k, ConstTokens<Scalar> v, Index window, Scalar* log_sums,
            Index log_sums_stride, Tokens<Scalar> out) {
  using std::exp;
  using std::log;
  const auto scale = 1 / std::sqrt(static_cast<real_t<Scalar>>(q.features()));
  for (Index i = 0; i < q.tokens(); ++i) {
    const Index end = i + k.tokens() - q.tokens() + 1, begin = window > 0 ? std::max<Index>(0, end - window) : 0;
    Scalar largest = score(q, k, i, begin, scale), sum(0);
    for (Index j = begin; j < end; ++j) {
      const Scalar s = score(q, k, i, j, scale);
      if (std::real(s) > std::real(largest)) largest = s;
    }
    for (Index j = begin; j < end; ++j) sum += exp(score(q, k, i, j, scale) - largest);
    log_sums[i * log_sums_stride] = largest + log(sum);
    out.slice(i, 1).matrix().setZero();
    for (Index j = begin; j < end; ++j) {
      const Scalar p = exp(score(q, k, i, j, scale) - log_sums[i * log_sums_stride]);
      for (Index d = 0; d < v.features(); ++d) out(d, i) += p * v(d, j);
    }
  }
}

template <class Scalar>
void attend_backward(ConstTokens<Scalar> q, ConstTokens<Scalar> k, ConstTokens<Scalar> v, Index window,
                     const Scalar* log_sums, Index log_sums_stride, ConstTokens<Scalar> out, ConstTokens<Scalar> dout,
                     Tokens<Scalar> dq, Tokens<Scalar> dk, Tokens<Scalar> dv) {
  using std::exp;
  const auto scale = 1 / std::sqrt(static_cast<real_t<Scalar>>(q.features()));
  for (Index i = 0; i < q.tokens(); ++i) {
    const Index end = i + k.tokens() - q.tokens() + 1, begin = window > 0 ? std::max<Index>(0, end - window) : 0;
    Scalar mean(0);  // Σ_j p_j dp_j
    for (Index d = 0; d < q.features(); ++d) {
      mean += out(d, i) * dout(d, i);
      dq(d, i) = Scalar(0);
    }
    for (Index j = begin; j < end; ++j) {
      const Scalar p = exp(score(q, k, i, j, scale) - log_sums[i * log_sums_stride]);
      Scalar dp(0);
      for (Index d = 0; d < q.features(); ++d) dp += dout(d, i) * v(d, j);
      const Scalar ds = p * (dp - mean) * scale;
      for (Index d = 0; d < q.features(); ++d) {
        dv(d, j) += p * dout(d, i);
        dk(d, j) += ds * q(d, i);
        dq(d, i) += ds * k(d, j);
      }
    }
  }
}

template <class Scalar>
loss_t<Scalar> cross_entropy(Tokens<Scalar> logits, const int* labels, real_t<Scalar> scale) {
  using std::exp;
  using std::log;
  loss_t<Scalar> loss(0);
  for (Index t = 0; t < logits.tokens(); ++t) {
    Scalar largest = logits(0, t), sum(0);
    for (Index i = 1; i < logits.features(); ++i) {
      if (std::real(logits(i, t)) > std::real(largest)) largest = logits(i, t);
    }
    for (Index i = 0; i < logits.features(); ++i) sum += exp(logits(i, t) - largest);
    loss += static_cast<loss_t<Scalar>>(largest + log(sum) - logits(labels[t], t));
    for (Index i = 0; i < logits.features(); ++i) logits(i, t) = scale * exp(logits(i, t) - largest) / sum;
    logits(labels[t], t) -= scale;
  }
  return loss;
}

}  // namespace reference
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
