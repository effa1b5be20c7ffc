// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <ostream>

#include "hydralora/core/expects.hpp"
#include "hydralora/layers/gate.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// s = alpha / r, or alpha / √r where rank-stabilised (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732).
template <class Config>
double scaling_of(const Config& config) {
  const auto rank = static_cast<double>(config.rank);
  return config.alpha / (config.rank_stabilized ? std::sqrt(rank) : rank);
}

/// The sizes of a layer's tensors, gradients and cache.
struct AdapterShape {
  static constexpr Index up_padding = 32;  ///< numbers between the columns of B, where there are any

  const char* layer = "empty";  ///< the layer's name, for messages
  Index in = 0, out = 0;        ///< in_features, out_features
  Index rank = 0;               ///< of each head
  Index heads = 1;              ///< N; 1 for LoRA
  Index a_rows = 0;             ///< rows of [A_1; …; A_N], or of the one A
  Index up_heads = 1;           ///< number of B: heads, or 1 where the heads share it
  Gate gate = {};               ///< where the weights of the heads come from
  Index gate_rows = 0;          ///< rows of a gate on x, in the down stack
  Index gate_columns = 0;       ///< columns of a gate on A x, which has a matrix of its own
  bool takes_weights = false;   ///< whether the weights come from the caller
  bool mixes = true;            ///< whether the layer's middle computes u from h; if not, u = h

  AdapterShape() = default;
  /// One A, one B and no gate.
  template <class Config>
  AdapterShape(const char* name, const Config& c)
      : layer(name), in(c.in_features), out(c.out_features), rank(c.rank), a_rows(c.rank) {
    store_sizes();
  }
  /// N heads with a gate, which may share A or B.
  template <class Config>
  AdapterShape(const char* name, const Config& c, bool shares_A, bool shares_B, const Gate& the_gate)
      : layer(name), in(c.in_features), out(c.out_features), rank(c.rank), heads(c.heads), gate(the_gate) {
    a_rows = shares_A ? rank : checked_product(std::max<Index>(heads, 0), std::max<Index>(rank, 0), name);
    up_heads = shares_B ? 1 : heads;
    gate_rows = gate.reads_x() ? heads : 0;
    gate_columns = gate.reads_projection() ? a_rows : 0;
    takes_weights = gate.takes_weights();
    store_sizes();
  }

  Index down_rows() const { return down_rows_; }    ///< of the stack [A; gate]
  Index up_rows() const { return up_rows_; }        ///< of the stack [B_1 … B_N]
  Index saved_rows() const { return saved_rows_; }  ///< numbers per token between forward and backward
  Index gate_size() const { return gate_size_; }    ///< numbers of the gate's own matrix, between the stacks
  /// From one column of B to the next: out, or 32 more where out is a multiple of 1024. Columns whole memory pages
  /// apart compete for the same places in a cache, which slows down a forward pass of few tokens.
  Index up_stride() const { return up_stride_; }
  Index down_size() const { return down_size_; }                   ///< numbers of A and the gate in the flat buffer
  Index up_size() const { return up_size_; }                       ///< numbers of B there, with the padding
  Index parameter_count() const { return down_size_ + up_size_; }  ///< numbers in the flat buffer
  [[deprecated("use saved_rows()")]] Index kept_rows() const { return saved_rows_; }
  bool gated() const { return gate.learned(); }  ///< whether there is a learned gate

  /// Whether the parameters have the same layout.
  bool same_tensors(const AdapterShape& other) const {
    return in == other.in && out == other.out && rank == other.rank && heads == other.heads && a_rows == other.a_rows &&
           up_heads == other.up_heads && gate_rows == other.gate_rows && gate_columns == other.gate_columns;
  }
  /// Equal sizes and equal gates, whatever the layers are called.
  friend bool operator==(const AdapterShape& a, const AdapterShape& b) {
    return a.same_tensors(b) && a.mixes == b.mixes && a.gate == b.gate;
  }
  /// For messages: HydraLoRA 8->6 rank 2 heads 3 (Routing::learned).
  friend std::ostream& operator<<(std::ostream& stream, const AdapterShape& s) {
    return stream << s.layer << ' ' << s.in << "->" << s.out << " rank " << s.rank << " heads " << s.heads << " ("
                  << s.gate << ')';
  }

 private:
  /// Settings that are not checked yet may wrap around here; checked_shape() then refuses them.
  void store_sizes() {
    using Size = std::size_t;
    const auto product = [](Index a, Index b) {
      return static_cast<Index>(static_cast<Size>(a) * static_cast<Size>(b));
    };
    const auto sum = [](Index a, Index b) { return static_cast<Index>(static_cast<Size>(a) + static_cast<Size>(b)); };
    down_rows_ = sum(a_rows, gate_rows);
    up_rows_ = product(up_heads, rank);
    saved_rows_ = sum(a_rows, gate.saved_rows());
    gate_size_ = product(heads, gate_columns);
    up_stride_ = out % 1024 == 0 ? sum(out, up_padding) : out;
    down_size_ = sum(product(down_rows_, in), gate_size_);
    up_size_ = product(up_rows_, up_stride_);
  }

  Index down_rows_ = 0, up_rows_ = 0, saved_rows_ = 0, gate_size_ = 0, up_stride_ = 0, down_size_ = 0, up_size_ = 0;
};

namespace detail {

/// The shape of a layer whose settings make sense. @throws std::invalid_argument before anything is allocated.
template <class Middle>
AdapterShape checked_shape(const typename Middle::Config& config) {
  const AdapterShape s = Middle::shape(config);
  expects(s.in >= 1 && s.out >= 1, s.layer, ": in_features ", s.in, " and out_features ", s.out, " must be at least 1");
  expects(s.rank >= 1, s.layer, ": rank ", s.rank, " must be at least 1");
  expects(s.heads >= 1, s.layer, ": heads ", s.heads, " must be at least 1");
  expects(std::isfinite(config.alpha), s.layer, ": alpha ", config.alpha, " must be finite");
  expects(config.dropout >= 0 && config.dropout < 1, s.layer, ": dropout ", config.dropout, " must be in [0, 1)");
  Middle::check(s, config);
  constexpr Index largest = (std::numeric_limits<Index>::max)();
  expects(s.rank < largest && s.out <= largest - AdapterShape::up_padding && s.in <= largest - s.up_stride() &&
              s.gate_columns <= largest - s.in - s.up_stride(),
          s.layer, ": rank ", s.rank, ", in_features ", s.in, " and out_features ", s.out, " are too many");
  checked_product(checked_product(s.rank + 1, s.heads, s.layer), s.in + s.up_stride() + s.gate_columns,
                  s.layer);  // no less than parameter_count()
  return s;
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
