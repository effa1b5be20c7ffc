// SPDX-License-Identifier: MIT
// Frozen bases that oneDNN multiplies, for lm/ and AdaptedLinear. It alone includes oneDNN; link that (-ldnnl).
#pragma once

#include <cstdint>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/core/workspace.hpp"
#include "hydralora/layers/frozen_linear.hpp"
#include "hydralora/layers/stored_linear.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

inline dnnl::engine& onednn_engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// A row-major or transposed matrix as oneDNN sees it. It is only read, unless it is the destination.
struct OneDnnMatrix {
  dnnl::memory::data_type type;
  Index rows, columns, row_stride, column_stride;
  const void* data;

  dnnl::memory::desc description() const { return {{rows, columns}, type, {row_stride, column_stride}}; }
  dnnl::memory memory() const { return {description(), onednn_engine(), const_cast<void*>(data)}; }
};

/// z = a b or z += a b. oneDNN caches what it makes for these shapes.
inline void onednn_multiply(const OneDnnMatrix& a, const OneDnnMatrix& b, const OneDnnMatrix& z, Write write) {
  if (a.rows == 0 || a.columns == 0 || b.columns == 0) return;
  dnnl::primitive_attr attributes;
  if (write == Write::add) {
    dnnl::post_ops sum;
    sum.append_sum(1);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul product(
      dnnl::matmul::primitive_desc({a.description(), b.description(), z.description()}, attributes, onednn_engine()));
  dnnl::stream stream(onednn_engine());
  product.execute(stream, {{DNNL_ARG_SRC, a.memory()}, {DNNL_ARG_WEIGHTS, b.memory()}, {DNNL_ARG_DST, z.memory()}});
  stream.wait();
}

/// The bits of the nearest bfloat16, ties to even. x is finite.
inline std::uint16_t bfloat16_bits(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U);
}
inline float float_of_bfloat16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16U;
  float x = 0;
  std::memcpy(&x, &wide, sizeof x);
  return x;
}

}  // namespace detail

/// A frozen weight W (out × in) in float, in the host's memory, [out][in]. It must outlive this.
/// Numerics  oneDNN's: for the same number of threads the same bits; another number may give others.
/// Errors    as DenseLinear; dnnl::error where oneDNN fails.
class OneDnnLinear {
 public:
  explicit OneDnnLinear(DenseView<float> weight) : weight_(weight) {}

  Index in_features() const { return weight_.in_features(); }
  Index out_features() const { return weight_.out_features(); }
  void row(Index out, float* to) const { weight_.row(out, to); }
  void forward(ConstTokens<float> x, Tokens<float> y, Write write = Write::add) const {
    detail::check_product<float>("OneDnnLinear::forward: ", x, y, in_features(), out_features());
    using detail::OneDnnMatrix;
    const OneDnnMatrix transposed{type, in_features(), out_features(), 1, in_features(), weight_.data()};
    detail::onednn_multiply(rows_of(x), transposed, rows_of(y), write);
  }
  void backward(ConstTokens<float> dy, Tokens<float> dx, Write write = Write::add) const {
    detail::check_product<float>("OneDnnLinear::backward: ", dy, dx, out_features(), in_features());
    const detail::OneDnnMatrix w{type, out_features(), in_features(), in_features(), 1, weight_.data()};
    detail::onednn_multiply(rows_of(dy), w, rows_of(dx), write);
  }

 private:
  static constexpr auto type = dnnl::memory::data_type::f32;
  static detail::OneDnnMatrix rows_of(ConstTokens<float> x) {  // one row per token
    return {type, x.tokens(), x.features(), x.stride(), 1, x.data()};
  }

  DenseView<float> weight_;
};

/// W in bfloat16 as it lies in a checkpoint, [out][in]; x and dy are rounded to bfloat16 too, as one or two terms:
///
///   y += W x₁ + W x₂,   x₁ = bfloat16(x),   x₂ = bfloat16(x − x₁)
///
/// Two terms hold 16 bits of x, so that products are as good as in float where W is exact in bfloat16; a W of other
/// numbers is rounded once. One term costs half and holds 8 bits. Sums are in float.
/// It needs a processor with AVX-512 (supported()); with AMX it is several times faster than float.
/// Scratch   2 bytes per number and term of x or dy. Otherwise as OneDnnLinear.
class OneDnnBFloat16Linear {
 public:
  /// @param terms  1 or 2. @throws std::invalid_argument  also on a number that is not finite.
  OneDnnBFloat16Linear(DenseView<float> weight, int terms)
      : terms_(checked(terms)),
        weight_(ConstTokens<float>(weight.data(), weight.in_features(), weight.out_features()).matrix().transpose()) {}
  /// Whether oneDNN multiplies bfloat16 on this processor.
  static bool supported() {
    static const bool found = [] {
      try {
        const std::uint16_t one = detail::bfloat16_bits(1);
        float result = 0;
        detail::onednn_multiply({narrow, 1, 1, 1, 1, &one}, {narrow, 1, 1, 1, 1, &one}, {wide, 1, 1, 1, 1, &result},
                                Write::overwrite);
        return result == 1;
      } catch (const dnnl::error&) {
        return false;
      }
    }();
    return found;
  }

  Index in_features() const { return weight_.cols(); }
  Index out_features() const { return weight_.rows(); }
  void row(Index out, float* to) const { weight_.read_rows(out, 0, Tokens<float>(to, in_features(), 1)); }
  void forward(ConstTokens<float> x, Tokens<float> y, Write write = Write::add) const {
    detail::check_product<float>("OneDnnBFloat16Linear::forward: ", x, y, in_features(), out_features());
    multiply(x, {narrow, in_features(), out_features(), 1, in_features(), weight_.data()}, y, write);
  }
  void backward(ConstTokens<float> dy, Tokens<float> dx, Write write = Write::add) const {
    detail::check_product<float>("OneDnnBFloat16Linear::backward: ", dy, dx, out_features(), in_features());
    multiply(dy, {narrow, out_features(), in_features(), in_features(), 1, weight_.data()}, dx, write);
  }

 private:
  static constexpr auto narrow = dnnl::memory::data_type::bf16, wide = dnnl::memory::data_type::f32;

  void multiply(ConstTokens<float> x, const detail::OneDnnMatrix& w, Tokens<float> z, Write write) const {
    ScratchFrame scratch;
    const Index numbers = x.features() * x.tokens();
    auto* const high = scratch.take<std::uint16_t>(numbers);
    auto* const low = terms_ == 2 ? scratch.take<std::uint16_t>(numbers) : nullptr;
    parallel_for(x.tokens(), 10 * numbers, [&](Index t) {
      const float* const from = x.token(t);
      for (Index i = 0; i < x.features(); ++i) {
        const std::uint16_t bits = detail::bfloat16_bits(from[i]);
        high[t * x.features() + i] = bits;
        if (low != nullptr) {
          low[t * x.features() + i] = detail::bfloat16_bits(from[i] - detail::float_of_bfloat16(bits));
        }
      }
    });
    const detail::OneDnnMatrix to{wide, z.tokens(), z.features(), z.stride(), 1, z.data()};
    detail::onednn_multiply({narrow, x.tokens(), x.features(), x.features(), 1, high}, w, to, write);
    if (terms_ == 1) return;
    detail::onednn_multiply({narrow, x.tokens(), x.features(), x.features(), 1, low}, w, to, Write::add);
  }

  static int checked(int terms) {
    expects(terms == 1 || terms == 2, "OneDnnBFloat16Linear: ", terms, " terms, expected 1 or 2");
    return terms;
  }

  int terms_;
  NarrowWeight<Eigen::bfloat16> weight_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
