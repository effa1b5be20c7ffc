// SPDX-License-Identifier: MIT
// The tensors of a layer or of its gradients: one flat buffer with two stacks of rows,
//
//   down  [A; gate]        projects a token
//   up    [B_1 … B_N]      expands the result
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/kernels/stack.hpp"
#include "hydralora/layers/adapter_shape.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A flat buffer of parameters or gradients.
template <class Scalar>
using ParameterMap = Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>;
template <class Scalar>
using ConstParameterMap = Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>;

/// One matrix (A, a B, the gate) inside the flat buffer.
template <class Scalar>
using MatrixMap =
    Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class Scalar>
using ConstMatrixMap =
    Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, Eigen::Unaligned, Eigen::OuterStride<>>;

namespace detail {

/// The streams of a layer's seed: tensors and dropout draw independent numbers.
enum class RandomStream : std::uint64_t { A, gate, dropout };

inline CounterRandom layer_random(std::uint64_t seed, RandomStream stream) {
  return CounterRandom(seed, static_cast<std::uint64_t>(stream));
}

/// Kaiming-uniform with a = √5 over rows of n numbers: U(−1/√n, 1/√n). Column j, row i draws at (j, i, head), so the
/// numbers do not depend on the memory layout. Source: He et al. 2015, arXiv:1502.01852; PEFT's default for A.
template <class Scalar>
void kaiming_uniform(MatrixMap<Scalar> matrix, const CounterRandom& random, Index head = 0) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(matrix.cols()));
  for (Index j = 0; j < matrix.cols(); ++j) {
    for (Index i = 0; i < matrix.rows(); ++i) {
      const double value = random.uniform_between(-bound, bound, static_cast<std::uint64_t>(j),
                                                  static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(head));
      matrix(i, j) = Scalar(static_cast<real_t<Scalar>>(value));
    }
  }
}

#define HYDRALORA_ADAPTER_TENSORS_INSTANCES(keyword, Scalar) \
  keyword template void kaiming_uniform<Scalar>(MatrixMap<Scalar>, const CounterRandom&, Index);
HYDRALORA_DECLARE_INSTANCES(HYDRALORA_ADAPTER_TENSORS_INSTANCES)

}  // namespace detail

/// The flat buffer of a layer or of its gradients. Layout:
///
///   for every input feature:  its a_rows numbers of A, then its gate_rows numbers of the gate
///   then, if the gate reads A x, its heads × a_rows matrix, column-major
///   then B_1, …, B_N:         each out × rank in column-major order, columns up_stride() apart
///
/// The padding between the columns of B (0 or 32 numbers: AdapterShape::up_stride()) is zero in a new layer and in its
/// gradients, so the usual optimisers do not change it. It does not affect results.
/// The buffer belongs to the object, or to the host. Copies of an object with the host's buffer share it.
template <class ScalarType, class MiddleType>
class AdapterTensors {
 public:
  using Scalar = ScalarType;                   ///< of the numbers
  using Middle = MiddleType;                   ///< what the layer computes between the stacks
  using Config = typename MiddleType::Config;  ///< the layer's settings

  const Config& config() const { return config_; }
  const AdapterShape& shape() const { return shape_; }

  /// A, (rank × in_features), of a layer with one A. This and the following are maps of the flat buffer.
  template <class M = Middle>
  std::enable_if_t<M::shares_A, MatrixMap<Scalar>> A() {
    return A_map<MatrixMap<Scalar>>(data(), 0);
  }
  template <class M = Middle>
  std::enable_if_t<M::shares_A, ConstMatrixMap<Scalar>> A() const {
    return A_map<ConstMatrixMap<Scalar>>(data(), 0);
  }
  /// A of a head, (rank × in_features), of a layer with an A per head.
  template <class M = Middle>
  std::enable_if_t<!M::shares_A, MatrixMap<Scalar>> A(Index head) {
    return A_map<MatrixMap<Scalar>>(data(), head);
  }
  template <class M = Middle>
  std::enable_if_t<!M::shares_A, ConstMatrixMap<Scalar>> A(Index head) const {
    return A_map<ConstMatrixMap<Scalar>>(data(), head);
  }
  /// B, (out_features × rank), of a layer with one B.
  template <class M = Middle>
  std::enable_if_t<M::shares_B, MatrixMap<Scalar>> B() {
    return B_map<MatrixMap<Scalar>>(data(), 0);
  }
  template <class M = Middle>
  std::enable_if_t<M::shares_B, ConstMatrixMap<Scalar>> B() const {
    return B_map<ConstMatrixMap<Scalar>>(data(), 0);
  }
  /// B of a head, (out_features × rank), of a layer with a B per head.
  template <class M = Middle>
  std::enable_if_t<!M::shares_B, MatrixMap<Scalar>> B(Index head) {
    return B_map<MatrixMap<Scalar>>(data(), head);
  }
  template <class M = Middle>
  std::enable_if_t<!M::shares_B, ConstMatrixMap<Scalar>> B(Index head) const {
    return B_map<ConstMatrixMap<Scalar>>(data(), head);
  }
  /// G, (heads × in_features), or (heads × rows of A) if it reads A x. Without a learned gate (0 × in_features).
  MatrixMap<Scalar> gate() { return gate_map<MatrixMap<Scalar>>(data()); }
  ConstMatrixMap<Scalar> gate() const { return gate_map<ConstMatrixMap<Scalar>>(data()); }

  /// All parameters: down_parameters(), then up_parameters().
  ParameterMap<Scalar> parameters() { return {data(), parameter_count()}; }
  ConstParameterMap<Scalar> parameters() const { return {data(), parameter_count()}; }
  Index parameter_count() const { return shape_.parameter_count(); }  ///< with padding

  /// A and the gate.
  ParameterMap<Scalar> down_parameters() { return {data(), shape_.down_size()}; }
  ConstParameterMap<Scalar> down_parameters() const { return {data(), shape_.down_size()}; }
  /// B. LoRA+ (arXiv:2402.12354) gives it a higher learning rate.
  ParameterMap<Scalar> up_parameters() { return {data() + shape_.down_size(), shape_.up_size()}; }
  ConstParameterMap<Scalar> up_parameters() const { return {data() + shape_.down_size(), shape_.up_size()}; }

  /// The stacks for kernels/low_rank.hpp.
  Stack<Scalar> down_stack() { return down_stack_at(data()); }  ///< [A; gate]
  ConstStack<Scalar> down_stack() const { return down_stack_at(data()); }
  Stack<Scalar> up_stack() { return up_stack_at(data()); }  ///< [B_1 … B_N]ᵀ
  ConstStack<Scalar> up_stack() const { return up_stack_at(data()); }
  /// The matrix of a gate that reads A x. No rows if the gate reads x: it is then in the down stack.
  Stack<Scalar> gate_stack() { return gate_stack_at(data()); }
  ConstStack<Scalar> gate_stack() const { return gate_stack_at(data()); }

 protected:
  explicit AdapterTensors(const Config& config) : config_(config), shape_(detail::checked_shape<Middle>(config)) {
    owned_.resize(static_cast<std::size_t>(parameter_count()));
  }
  AdapterTensors(const Config& config, ParameterMap<Scalar> lent)
      : config_(config), shape_(detail::checked_shape<Middle>(config)), lent_(lent.data()) {
    expects(lent.data() != nullptr && lent.size() == parameter_count(), shape_.layer, ": the lent buffer has ",
            lent.size(), lent.data() == nullptr ? " numbers (null), " : " numbers, ", shape_, " needs ",
            parameter_count());
  }

  /// A and the gate kaiming-uniform, B = 0.
  void initialize_tensors(std::uint64_t seed) {
    for (Index row = 0; row < shape_.a_rows; row += shape_.rank) {
      detail::kaiming_uniform<Scalar>(down_map<MatrixMap<Scalar>>(data(), row, shape_.rank),
                                      detail::layer_random(seed, detail::RandomStream::A), row / shape_.rank);
    }
    detail::kaiming_uniform<Scalar>(gate(), detail::layer_random(seed, detail::RandomStream::gate));
    std::fill(up_parameters().data(), up_parameters().data() + up_parameters().size(), Scalar(0));
  }

 private:
  void expects_head(Index head) const {
    expects(head >= 0 && head < shape_.heads, shape_.layer, ": head ", head, " of ", shape_.heads, " heads");
  }
  template <class Map, class Pointer>
  Map down_map(Pointer from, Index first, Index rows) const {
    return {from + first, rows, shape_.in, Eigen::OuterStride<>(shape_.down_rows())};
  }
  template <class Map, class Pointer>
  Map A_map(Pointer from, Index head) const {
    return expects_head(head), down_map<Map>(from, head * shape_.rank, shape_.rank);
  }
  template <class Map, class Pointer>
  Map B_map(Pointer from, Index head) const {
    expects_head(head);
    return {from + shape_.down_size() + head * shape_.rank * shape_.up_stride(), shape_.out, shape_.rank,
            Eigen::OuterStride<>(shape_.up_stride())};
  }
  template <class Map, class Pointer>
  Map gate_map(Pointer from) const {
    if (shape_.gate_columns == 0) return down_map<Map>(from, shape_.a_rows, shape_.gate_rows);
    return {from + shape_.down_rows() * shape_.in, shape_.heads, shape_.gate_columns,
            Eigen::OuterStride<>(shape_.heads)};
  }
  // The slack of the first two is the rest of the buffer.
  template <class Number>
  Stack<Number> down_stack_at(Number* from) const {
    return {from, shape_.down_rows(), shape_.in, 1, shape_.down_rows(), shape_.gate_size() + shape_.up_size()};
  }
  template <class Number>
  Stack<Number> gate_stack_at(Number* from) const {
    if (shape_.gate_columns == 0) return {};
    return {
        from + shape_.down_rows() * shape_.in, shape_.heads, shape_.gate_columns, 1, shape_.heads, shape_.up_size()};
  }
  template <class Number>
  Stack<Number> up_stack_at(Number* from) const {
    return {from + shape_.down_size(), shape_.up_rows(), shape_.out, shape_.up_stride(), 1};
  }

  Scalar* data() { return lent_ != nullptr ? lent_ : owned_.data(); }
  const Scalar* data() const { return lent_ != nullptr ? lent_ : owned_.data(); }

  Config config_;
  AdapterShape shape_;
  AlignedVector<Scalar> owned_;
  Scalar* lent_ = nullptr;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
