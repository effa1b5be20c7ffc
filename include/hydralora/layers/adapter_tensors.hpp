// SPDX-License-Identifier: MIT
//
// The tensors that LoRA, SplitLoRA, HydraLoRA and SharedBLoRA have in common: one flat buffer with two stacks of rows,
//
//   down  [A; gate]        what a token is projected on
//   up    [B_1 … B_N]      what comes back out
//
// The layers' own files name the matrices inside and say what happens between the two stacks.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <utility>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/core/random.hpp"
#include "hydralora/core/simd.hpp"
#include "hydralora/kernels/stack.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// A flat run of parameters or gradients.
template <class Scalar>
using ParameterMap = Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>;
/// The same, read only.
template <class Scalar>
using ConstParameterMap = Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>;

/// One matrix (A, a B, the gate) inside the flat buffer.
template <class Scalar>
using MatrixMap =
    Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, Eigen::Unaligned, Eigen::OuterStride<>>;
/// The same, read only.
template <class Scalar>
using ConstMatrixMap =
    Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, Eigen::Unaligned, Eigen::OuterStride<>>;

/// s = alpha / r, or alpha / √r where rank-stabilised (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732).
template <class Config>
double scaling_of(const Config& config) {
  const auto rank = static_cast<double>(config.rank);
  return config.alpha / (config.rank_stabilized ? std::sqrt(rank) : rank);
}

/// What decides the sizes of a layer's tensors, its gradients and its cache.
struct AdapterShape {
  static constexpr Index up_padding = 32;  ///< numbers between the columns of B, where there are any

  const char* layer;           ///< its name, for messages
  Index in;                    ///< in_features
  Index out;                   ///< out_features
  Index rank;                  ///< of each head
  Index heads;                 ///< N; 1 for LoRA
  Index a_rows;                ///< rows of A, or of A_1 … A_N: what reaches B
  Index gate_rows;             ///< rows of the gate, 0 without one
  Index weight_rows;           ///< head weights kept per token for backward
  Index up_heads = heads;      ///< how many B there are: 1 where they share one
  Index gate_columns = 0;      ///< of a gate that reads A x and so has a matrix of its own, gate_columns = a_rows
  Index probability_rows = 0;  ///< of the gate, kept per token where the weights are something else
  Index partition_rows = 0;    ///< 1 where the gate's log partition is kept
  bool pooled = false;         ///< tokens of a segment share what the gate sees
  bool takes_weights = false;  ///< they come from the caller
  std::uint32_t gate = 0;      ///< which gate it is, for comparing: a cache of one means nothing to another

  Index down_rows() const { return a_rows + gate_rows; }  ///< of the stack [A; gate]
  Index up_rows() const { return up_heads * rank; }       ///< of the stack [B_1 … B_N]
  /// Numbers per token between forward and backward.
  Index kept_rows() const { return a_rows + weight_rows + probability_rows + partition_rows; }
  /// Numbers of the gate's own matrix, between the stacks.
  Index gate_size() const { return heads * gate_columns; }
  /// From one column of B to the next: out, or 32 more where out is a multiple of 1024. Columns of whole memory pages
  /// would fall on the same few places of every cache, which slows a forward pass of few tokens down.
  Index up_stride() const { return out % 1024 == 0 ? out + up_padding : out; }
  /// Numbers in the flat buffer, the padding between the columns of B included.
  Index parameter_count() const { return down_rows() * in + gate_size() + up_rows() * up_stride(); }
  bool gated() const { return gate_rows > 0 || gate_columns > 0; }  ///< whether there is a learned gate

  /// The same sizes and the same gate, whatever the layer is called.
  friend bool operator==(const AdapterShape& a, const AdapterShape& b) {
    return a.in == b.in && a.out == b.out && a.rank == b.rank && a.heads == b.heads && a.up_heads == b.up_heads &&
           a.a_rows == b.a_rows && a.gate_rows == b.gate_rows && a.weight_rows == b.weight_rows &&
           a.gate_columns == b.gate_columns && a.probability_rows == b.probability_rows &&
           a.partition_rows == b.partition_rows && a.pooled == b.pooled && a.takes_weights == b.takes_weights &&
           a.gate == b.gate;
  }
  /// As messages have it.
  friend std::ostream& operator<<(std::ostream& stream, const AdapterShape& s) {
    stream << s.layer << ' ' << s.in << "->" << s.out << " rank " << s.rank << " heads " << s.heads << " (";
    if (s.gate_columns > 0) return stream << "gate on A x, kind " << s.gate << ')';
    stream << s.gate_rows << " gate rows";
    if (s.gate != 0) stream << ", kind " << s.gate;
    return stream << (s.takes_weights ? ", given weights)" : ")");
  }
};

namespace detail {

/// Refuses what makes no sense in any of the configs, before anything is allocated.
template <class Config>
AdapterShape checked_shape(const Config& config) {
  const AdapterShape s = shape_of(config);
  expects(s.in >= 1 && s.out >= 1, s.layer, ": in_features ", s.in, " and out_features ", s.out, " must be at least 1");
  expects(s.rank >= 1, s.layer, ": rank ", s.rank, " must be at least 1");
  expects(s.heads >= 1, s.layer, ": heads ", s.heads, " must be at least 1");
  expects(std::isfinite(config.alpha), s.layer, ": alpha ", config.alpha, " must be finite");
  expects(config.dropout >= 0 && config.dropout < 1, s.layer, ": dropout ", config.dropout, " must be in [0, 1)");
  check_own_settings(config);
  constexpr Index most = std::numeric_limits<Index>::max();
  expects(s.rank < most && s.out <= most - AdapterShape::up_padding && s.in <= most - s.up_stride() &&
              s.gate_columns <= most - s.in - s.up_stride(),
          s.layer, ": rank ", s.rank, ", in_features ", s.in, " and out_features ", s.out, " are too many");
  checked_product(checked_product(s.rank + 1, s.heads, s.layer), s.in + s.up_stride() + s.gate_columns,
                  s.layer);  // no less than parameter_count()
  return s;
}

/// Streams of a layer's seed, so that its tensors and its dropout draw different numbers.
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

/// The flat buffer of a layer or of its gradients. Layout:
///
///   for every input feature:  its a_rows numbers of A, then its gate_rows numbers of the gate
///   then, where the gate reads A x, its heads × a_rows matrix, column-major
///   then B_1, …, B_N:         each out × rank in column-major order, columns up_stride() apart
///
/// What lies between the columns of B (nothing, or 32 numbers: AdapterShape::up_stride()) is zero in a new layer and in its
/// gradients, stays zero under any optimiser that leaves zeros with zero gradients alone, and never changes a result.
///
/// Owned, or lent by the host and then never reallocated; copies of a lent one share the host's memory.
template <class ScalarType, class ConfigType>
class AdapterTensors {
 public:
  using Scalar = ScalarType;  ///< of parameters and activations
  using Config = ConfigType;  ///< what the layer is made of

  const Config& config() const { return config_; }  ///< as it was given

  /// Everything trainable as one flat vector: down_parameters(), then up_parameters().
  ParameterMap<Scalar> parameters() { return {data(), parameter_count()}; }
  ConstParameterMap<Scalar> parameters() const { return {data(), parameter_count()}; }
  Index parameter_count() const { return shape_.parameter_count(); }  ///< length of parameters(), padding included

  /// The part of parameters() with A and the gate, and the part with B, which LoRA+ (arXiv:2402.12354) trains faster.
  ParameterMap<Scalar> down_parameters() { return {data(), down_size()}; }
  ParameterMap<Scalar> up_parameters() { return {data() + down_size(), up_size()}; }  ///< the part with B
  ConstParameterMap<Scalar> down_parameters() const { return {data(), down_size()}; }
  ConstParameterMap<Scalar> up_parameters() const { return {data() + down_size(), up_size()}; }

  /// The two stacks as the kernels take them (kernels/low_rank.hpp).
  Stack<Scalar> down_stack() {
    return {data(), shape_.down_rows(), shape_.in, 1, shape_.down_rows(), gate_and_up_size()};
  }
  /// [B_1 … B_N]ᵀ.
  Stack<Scalar> up_stack() { return {data() + down_size(), shape_.up_rows(), shape_.out, shape_.up_stride(), 1}; }
  ConstStack<Scalar> down_stack() const {
    return {data(), shape_.down_rows(), shape_.in, 1, shape_.down_rows(), gate_and_up_size()};
  }
  ConstStack<Scalar> up_stack() const {
    return {data() + down_size(), shape_.up_rows(), shape_.out, shape_.up_stride(), 1};
  }

  /// The gate's own matrix as a stack of heads rows; no rows where the gate reads x and is part of the down stack.
  Stack<Scalar> gate_stack() { return gate_stack_at<Stack<Scalar>>(data()); }
  ConstStack<Scalar> gate_stack() const { return gate_stack_at<ConstStack<Scalar>>(data()); }

  const AdapterShape& shape() const { return shape_; }  ///< the sizes of it all

 protected:
  explicit AdapterTensors(const Config& config) : config_(config), shape_(checked_shape(config)) {
    owned_.resize(static_cast<std::size_t>(parameter_count()));
  }
  AdapterTensors(const Config& config, ParameterMap<Scalar> lent)
      : config_(config), shape_(checked_shape(config)), lent_(lent.data()) {
    expects(lent.data() != nullptr && lent.size() == parameter_count(), shape_.layer, ": the lent buffer has ",
            lent.size(), lent.data() == nullptr ? " numbers (null), " : " numbers, ", shape_, " needs ",
            parameter_count());
  }

  /// Rows of the down stack as a (rows × in) matrix, rows of the up stack as an (out × rows) matrix.
  MatrixMap<Scalar> down_matrix(Index first, Index rows) { return map<MatrixMap<Scalar>>(data(), first, rows); }
  ConstMatrixMap<Scalar> down_matrix(Index first, Index rows) const {
    return map<ConstMatrixMap<Scalar>>(data(), first, rows);
  }
  MatrixMap<Scalar> head_rows(Index head) { return expects_head(head), down_matrix(head * shape_.rank, shape_.rank); }
  ConstMatrixMap<Scalar> head_rows(Index head) const {
    return expects_head(head), down_matrix(head * shape_.rank, shape_.rank);
  }
  MatrixMap<Scalar> head_matrix(Index head) { return head_map<MatrixMap<Scalar>>(data(), head); }
  ConstMatrixMap<Scalar> head_matrix(Index head) const { return head_map<ConstMatrixMap<Scalar>>(data(), head); }

  /// The gate, wherever it is.
  MatrixMap<Scalar> gate_matrix() { return gate_map<MatrixMap<Scalar>>(data()); }
  ConstMatrixMap<Scalar> gate_matrix() const { return gate_map<ConstMatrixMap<Scalar>>(data()); }

  void expects_head(Index head) const {
    expects(head >= 0 && head < shape_.heads, shape_.layer, ": head ", head, " of ", shape_.heads, " heads");
  }

 private:
  template <class Map, class Pointer>
  Map map(Pointer from, Index first, Index rows) const {
    return {from + first, rows, shape_.in, Eigen::OuterStride<>(shape_.down_rows())};
  }
  template <class Map, class Pointer>
  Map head_map(Pointer from, Index head) const {
    expects_head(head);
    return {from + down_size() + head * shape_.rank * shape_.up_stride(), shape_.out, shape_.rank,
            Eigen::OuterStride<>(shape_.up_stride())};
  }

  template <class Map, class Pointer>
  Map gate_map(Pointer from) const {
    if (shape_.gate_columns == 0) return map<Map>(from, shape_.a_rows, shape_.gate_rows);
    return {from + shape_.down_rows() * shape_.in, shape_.heads, shape_.gate_columns,
            Eigen::OuterStride<>(shape_.heads)};
  }
  template <class StackType, class Pointer>
  StackType gate_stack_at(Pointer from) const {
    return {from + shape_.down_rows() * shape_.in,
            shape_.gate_columns > 0 ? shape_.heads : 0,
            shape_.gate_columns,
            1,
            shape_.heads,
            up_size()};
  }

  Index down_size() const { return shape_.down_rows() * shape_.in + shape_.gate_size(); }
  Index gate_and_up_size() const { return shape_.gate_size() + up_size(); }
  Index up_size() const { return shape_.up_rows() * shape_.up_stride(); }
  Scalar* data() { return lent_ != nullptr ? lent_ : owned_.data(); }
  const Scalar* data() const { return lent_ != nullptr ? lent_ : owned_.data(); }

  Config config_;
  AdapterShape shape_;
  AlignedVector<Scalar> owned_;
  Scalar* lent_ = nullptr;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
