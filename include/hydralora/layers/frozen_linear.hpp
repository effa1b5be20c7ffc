// SPDX-License-Identifier: MIT
// The frozen base of an adapter, and both together. A base is any class with
//
//   Index in_features() const;
//   Index out_features() const;
//   void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write) const;      // y  += W x,   or y  = W x
//   void backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write write) const;   // dx += Wᵀ dy, or dx = Wᵀ dy
//
// The adapters' own code only adds, and does without the last argument.
#pragma once

#include <algorithm>
#include <utility>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/parallel.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/layers/call_options.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What a product does to its output: += or =. Overwriting saves setting it to zero before, a pass over memory.
enum class Write { add, overwrite };

namespace detail {
/// y += a x or y = a x, by Eigen.
template <class Weight, class In, class Out>
void multiply(const Weight& a, const In& x, Out&& y, Write write) {
  if (write == Write::add) y.noalias() += a * x;
  if (write == Write::overwrite) y.noalias() = a * x;
}
template <class Scalar>
void check_product(const char* where, ConstTokens<Scalar> from, Tokens<Scalar> to, Index from_features,
                   Index to_features) {
  const Shape in{from_features, from.tokens()}, out{to_features, from.tokens()};
  expects(from.shape() == in, where, "the input is ", from.shape(), ", expected ", in);
  expects(to.shape() == out, where, "the output is ", to.shape(), ", expected ", out);
  expects(!overlap<Scalar>(from, to), where, "the input ", from.shape(), " and the output ", to.shape(), " overlap");
}
}  // namespace detail

/// A dense frozen weight W (out_features × in_features), multiplied by Eigen.
/// Numerics  the same bits for any number of threads: the tokens are cut into fixed slices, each multiplied on one
///           thread. Unlike an adapter's, a token's bits may depend on its place in the batch. With HYDRALORA_NO_OPENMP
///           in a program compiled for OpenMP, Eigen would thread the slices itself: define EIGEN_DONT_PARALLELIZE too,
///           or call Eigen::setNbThreads(1). With EIGEN_USE_BLAS the bits depend on the BLAS.
/// Cost      2 · tokens · in · out flop. Eigen allocates its packed blocks on each call.
template <class Scalar = float>
class DenseLinear {
 public:
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  /// @param weight  W, (out × in).
  explicit DenseLinear(Matrix weight) : weight_(std::move(weight)) {}

  const Matrix& weight() const { return weight_; }
  Matrix& weight() { return weight_; }
  Index in_features() const { return weight_.cols(); }
  Index out_features() const { return weight_.rows(); }

  /// y += W x. forward() and backward() throw std::invalid_argument on wrong shapes or overlap, before they write.
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write = Write::add) const {
    detail::check_product<Scalar>("DenseLinear::forward: ", x, y, weight_.cols(), weight_.rows());
    parallel_slices(x.tokens(), slice_tokens, [&](Index begin, Index count) {
      detail::multiply(weight_, x.slice(begin, count).matrix(), y.slice(begin, count).matrix(), write);
    });
  }
  /// dx += Wᵀ dy.
  void backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write write = Write::add) const {
    detail::check_product<Scalar>("DenseLinear::backward: ", dy, dx, weight_.rows(), weight_.cols());
    parallel_slices(dy.tokens(), slice_tokens, [&](Index begin, Index count) {
      detail::multiply(weight_.transpose(), dy.slice(begin, count).matrix(), dx.slice(begin, count).matrix(), write);
    });
  }
  /// The former names of forward() and backward().
  [[deprecated("use forward()")]] void add_forward(ConstTokens<Scalar> x, Tokens<Scalar> y) const { forward(x, y); }
  [[deprecated("use backward()")]] void add_backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx) const {
    backward(dy, dx);
  }

 private:
  /// Tokens per slice: wide enough that Eigen packs W once for many tokens, small enough to feed several threads.
  static constexpr Index slice_tokens = 128;

  Matrix weight_;
};

/// A dense frozen weight in the host's memory, [out][in] (row-major), as checkpoints have it. It must outlive this.
/// Otherwise as DenseLinear.
template <class Scalar = float>
class DenseView {
 public:
  DenseView(const Scalar* weight, Index out_features, Index in_features)
      : transposed_(weight, in_features, out_features) {}

  const Scalar* data() const { return transposed_.data(); }
  /// Row `out` of W. @param to  in_features numbers, OVERWRITTEN.
  void row(Index out, Scalar* to) const { std::copy_n(transposed_.token(out), in_features(), to); }
  Index in_features() const { return transposed_.features(); }
  Index out_features() const { return transposed_.tokens(); }
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, Write write = Write::add) const {
    detail::check_product<Scalar>("DenseView::forward: ", x, y, in_features(), out_features());
    multiply_panels(x, y, write,
                    [&](Index row, Index rows) { return transposed_.slice(row, rows).matrix().transpose(); });
  }
  void backward(ConstTokens<Scalar> dy, Tokens<Scalar> dx, Write write = Write::add) const {
    detail::check_product<Scalar>("DenseView::backward: ", dy, dx, out_features(), in_features());
    multiply_panels(dy, dx, write, [&](Index row, Index rows) { return transposed_.rows(row, rows).matrix(); });
  }

 private:
  /// Tokens per slice and rows of the product per panel. Every slice packs W again, and every panel the slice. Eigen
  /// packs a whole panel before it multiplies: of 512 rows that stays in the second-level cache, of an lm_head's 49,152
  /// it would be 57 MB, and 1.4 times slower.
  static constexpr Index slice_tokens = 256, panel_rows = 512;

  template <class Panel>
  static void multiply_panels(ConstTokens<Scalar> from, Tokens<Scalar> to, Write write, Panel&& panel) {
    parallel_slices(from.tokens(), slice_tokens, [&](Index begin, Index count) {
      for (Index row = 0; row < to.features(); row += panel_rows) {
        const Index rows = (std::min)(panel_rows, to.features() - row);
        detail::multiply(panel(row, rows), from.slice(begin, count).matrix(),
                         to.slice(begin, count).rows(row, rows).matrix(), write);
      }
    });
  }

  ConstTokens<Scalar> transposed_;  // in × out, column-major
};

namespace detail {
// Until version 0.3 a base may still have the former names add_forward() and add_backward().
template <class Base, class In, class Out>
auto base_forward(const Base& base, const In& x, const Out& y, int) -> decltype(base.forward(x, y)) {
  base.forward(x, y);
}
template <class Base, class In, class Out>
void base_forward(const Base& base, const In& x, const Out& y, long) {
  base.add_forward(x, y);
}
template <class Base, class In, class Out>
auto base_backward(const Base& base, const In& dy, const Out& dx, int) -> decltype(base.backward(dy, dx)) {
  base.backward(dy, dx);
}
template <class Base, class In, class Out>
void base_backward(const Base& base, const In& dy, const Out& dx, long) {
  base.add_backward(dy, dx);
}
}  // namespace detail

/// A frozen base with an adapter:  y += W x + ΔW(x). The adapter comes first, as it checks the arguments.
template <class Base, class Adapter>
struct AdaptedLinear {
  using Activation = typename Adapter::Activation;
  using Options = CallOptions<typename Adapter::Sum>;
  using Cache = typename Adapter::Cache;
  using Gradients = typename Adapter::Gradients;

  Base base;
  Adapter adapter;

  /// @throws std::invalid_argument  if the shapes of the base's weight and the adapter differ.
  AdaptedLinear(Base base_layer, Adapter adapter_layer)
      : base(std::move(base_layer)), adapter(std::move(adapter_layer)) {
    const Shape weight{base.out_features(), base.in_features()}, delta{adapter.shape().out, adapter.shape().in};
    expects(weight == delta, "AdaptedLinear: the base's weight is ", weight, ", the adapter's is ", delta);
  }

  /// Arguments and errors as in the adapter's forward().
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, const Options& options = {}) const {
    adapter.forward(x, y, options);
    detail::base_forward(base, x, y, 0);
  }
  void forward(ConstTokens<Activation> x, Tokens<Activation> y, Cache& cache, const Options& options = {}) const {
    adapter.forward(x, y, cache, options);
    detail::base_forward(base, x, y, 0);
  }
  /// The adapter's backward(), and dx += Wᵀ dy. Without dx, the base is not used.
  void backward(ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache, Gradients& g,
                Tokens<Activation> dx, const Options& options = {}) const {
    adapter.backward(x, dy, cache, g, dx, options);
    detail::base_backward(base, dy, dx, 0);
  }
  void backward(ConstTokens<Activation> x, ConstTokens<Activation> dy, const Cache& cache, Gradients& g,
                const Options& options = {}) const {
    adapter.backward(x, dy, cache, g, options);
  }
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
