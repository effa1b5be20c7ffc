// SPDX-License-Identifier: MIT
// Views of activations. A column is a token, its features lie next to each other in memory:
//
//   Eigen::MatrixXf x(features, tokens)            Eigen's default, column-major
//   float x[tokens][features]                      the same bytes in torch, ggml, ONNX Runtime, dlib, plain C
//
// A view never copies. A row-major matrix, another scalar type or an expression that is not in memory does not compile.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hydralora/core/config.hpp"
#include "hydralora/core/expects.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// T, where it takes no part in the deduction of template arguments, so that views convert from Eigen's matrices.
template <class T>
struct TypeOf {
  using type = T;
};
template <class T>
using type_t = typename TypeOf<T>::type;

namespace detail {

template <class T>
using bare_t = std::remove_cv_t<std::remove_reference_t<T>>;

template <class T, class = void>
struct is_eigen : std::false_type {};
template <class T>
struct is_eigen<T, std::void_t<typename bare_t<T>::PlainObject>>
    : std::is_base_of<Eigen::DenseBase<bare_t<T>>, bare_t<T>> {};

template <class Scalar, class Expression>
constexpr void expects_contiguous_columns() {
  using E = bare_t<Expression>;
  constexpr bool same_scalar = std::is_same_v<typename E::Scalar, Scalar>;
  constexpr bool in_memory = (Eigen::internal::traits<E>::Flags & Eigen::DirectAccessBit) != 0;
  static_assert(same_scalar,
                "hydralora: the argument's scalar type is not the layer's. A view never converts: assign a .cast<>() "
                "to a matrix first.");
  static_assert(in_memory,
                "hydralora: the argument is an Eigen expression that is not in memory yet (a product, a sum, a cast). "
                "A view never evaluates: assign it to a matrix first.");
  if constexpr (in_memory) {
    static_assert(
        !E::IsRowMajor,
        "hydralora: the argument is row-major (or a row vector). Tokens are columns with contiguous features; "
        "a row-major [tokens x features] buffer already has these bytes: pass "
        "Tokens(data, features, tokens), or transpose() the row-major expression.");
    static_assert(E::IsRowMajor || E::InnerStrideAtCompileTime == 1,
                  "hydralora: the argument's columns are not contiguous (inner stride is not 1 at compile time).");
  }
}

/// Says what is wrong with a view. A separate function keeps the constructors short.
[[noreturn]] inline void refuse_view(Shape shape, Index stride) {
  expects(shape.rows >= 0 && shape.cols >= 0, "tokens view: negative size ", shape);
  expects(stride >= shape.rows || shape.cols <= 1, "tokens view: stride ", stride, " is below ", shape.rows,
          " features");
  fail("tokens view: null data for ", shape);
}

}  // namespace detail

/// Read-only view of `tokens` columns of `features` contiguous numbers, `stride` numbers from one column to the next.
/// Converts implicitly from any column-major Eigen expression in memory (matrix, vector as one token, block of columns,
/// middleRows, Map, Ref), which must outlive the view.
/// @throws std::invalid_argument on negative sizes, stride < features, or a null pointer to a non-empty view.
template <class Scalar>
class ConstTokens {
 public:
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  using Map = Eigen::Map<const Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;

  ConstTokens() = default;
  /// A host's buffer: token t begins at data + t · stride. Without a stride the columns lie side by side.
  ConstTokens(const Scalar* data, Index features, Index tokens, Index stride)
      : data_(data), features_(features), tokens_(tokens), stride_(stride) {
    check();
  }
  ConstTokens(const Scalar* data, Index features, Index tokens) : ConstTokens(data, features, tokens, features) {}

  template <class Expression, std::enable_if_t<detail::is_eigen<Expression>::value, int> = 0>
  ConstTokens(const Expression& x) : features_(x.rows()), tokens_(x.cols()) {  // NOLINT(google-explicit-constructor)
    detail::expects_contiguous_columns<Scalar, Expression>();
    data_ = x.data();
    stride_ = x.outerStride();
    check();  // a Map may be null, or have a negative or too small stride
  }

  const Scalar* data() const { return data_; }
  Index features() const { return features_; }
  Index tokens() const { return tokens_; }
  Index stride() const { return stride_; }
  Shape shape() const { return {features_, tokens_}; }
  const Scalar* token(Index t) const { return data_ + t * stride_; }
  const Scalar& operator()(Index feature, Index t) const { return data_[t * stride_ + feature]; }

  /// Tokens begin … begin + count - 1.
  ConstTokens slice(Index begin, Index count) const {
    expects(count >= 0, "tokens view: negative size ", Shape{features_, count});
    return part(data_ + begin * stride_, features_, count);
  }
  /// Features begin … begin + count - 1 of every token.
  ConstTokens rows(Index begin, Index count) const {
    expects(count >= 0 && (count <= stride_ || tokens_ <= 1), "tokens view: ", count, " rows of stride ", stride_);
    return part(data_ + begin, count, tokens_);
  }
  Map matrix() const { return Map(data_, features_, tokens_, Eigen::OuterStride<>(stride_)); }

 private:
  ConstTokens part(const Scalar* data, Index features, Index tokens) const {
    ConstTokens result = *this;
    result.data_ = data;
    result.features_ = features;
    result.tokens_ = tokens;
    return result;
  }
  void check() const {
    if (features_ < 0 || tokens_ < 0 || (stride_ < features_ && tokens_ > 1) ||
        (data_ == nullptr && features_ > 0 && tokens_ > 0)) {
      detail::refuse_view(shape(), stride_);
    }
  }

  const Scalar* data_ = nullptr;
  Index features_ = 0, tokens_ = 0, stride_ = 0;
};

/// A writable view. Accepts lvalue matrices and writable temporaries such as `y.leftCols(3)`. A temporary matrix, whose
/// result would be lost, does not compile.
template <class Scalar>
class Tokens : public ConstTokens<Scalar> {
  using Base = ConstTokens<Scalar>;

 public:
  using Matrix = typename Base::Matrix;
  using Map = Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;

  Tokens() = default;
  Tokens(Scalar* data, Index features, Index tokens, Index stride) : Base(data, features, tokens, stride) {}
  Tokens(Scalar* data, Index features, Index tokens) : Base(data, features, tokens) {}
  template <class Expression, std::enable_if_t<detail::is_eigen<Expression>::value, int> = 0>
  Tokens(Expression&& y) : Base(y) {  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
    using E = detail::bare_t<Expression>;
    static_assert(std::is_lvalue_reference_v<Expression> || !std::is_base_of_v<Eigen::PlainObjectBase<E>, E>,
                  "hydralora: the result would be written into a temporary matrix and lost.");
    static_assert(std::is_convertible_v<decltype(y.data()), Scalar*>, "hydralora: the output argument is read-only.");
  }

  Scalar* data() const { return const_cast<Scalar*>(Base::data()); }  // every constructor takes writable memory
  Scalar* token(Index t) const { return data() + t * this->stride(); }
  Scalar& operator()(Index feature, Index t) const { return token(t)[feature]; }

  Tokens slice(Index begin, Index count) const { return Tokens(Base::slice(begin, count)); }
  Tokens rows(Index begin, Index count) const { return Tokens(Base::rows(begin, count)); }
  Map matrix() const { return Map(data(), this->features(), this->tokens(), Eigen::OuterStride<>(this->stride())); }

 private:
  explicit Tokens(const Base& view) : Base(view) {}
};

/// Whether two views share a number. Exact for interleaved columns: the upper and the lower half of one matrix do not
/// overlap. Cost: constant unless the address ranges intersect, else O(tokens).
template <class Scalar, class Other = Scalar>
bool overlap(ConstTokens<Scalar> a, type_t<ConstTokens<Other>> b) {
  const auto address = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p); };
  const auto end = [](const auto& v) { return v.token(v.tokens() - 1) + v.features(); };
  if (a.features() == 0 || b.features() == 0 || a.tokens() == 0 || b.tokens() == 0) return false;
  if (address(end(a)) <= address(b.data()) || address(end(b)) <= address(a.data())) return false;
  Index i = 0, j = 0;
  while (i < a.tokens() && j < b.tokens()) {  // columns ascend in both views: proceed as in a merge
    const auto a_begin = address(a.token(i)), a_end = address(a.token(i) + a.features());
    const auto b_begin = address(b.token(j)), b_end = address(b.token(j) + b.features());
    if (a_end <= b_begin) {
      ++i;
    } else if (b_end <= a_begin) {
      ++j;
    } else {
      return true;
    }
  }
  return false;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
