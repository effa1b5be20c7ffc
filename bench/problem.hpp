// SPDX-License-Identifier: MIT
//
// What every candidate computes on, and what a peer is: somebody else's way to the same numbers.
#pragma once

#include <hydralora/hydralora.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace bench {

using hydralora::Index;
using Matrix = Eigen::MatrixXf;

/// One adapter and one batch, the numbers every candidate computes on. heads >= 1 and routed: HydraLoRA; not routed:
/// LoRA of that rank (heads == 1, no gate).
struct Problem {
  Index tokens, in, out, rank, heads;
  bool routed;
  float scaling;      // 2
  Matrix A, gate, B;  // rank × in, heads × in (0 × in unrouted), out × heads·rank  = [B_1 … B_N]
  Matrix x, dy;       // in × tokens, out × tokens
};

/// Cached; seeded values of magnitudes that make y and dx O(1). The reference stays valid until problems of 2 GB in
/// total have been asked for after it: a sweep must not fill the memory.
const Problem& problem(Index tokens, Index in, Index out, Index rank, Index heads, bool routed);

/// The same, valid for as long as the pointer.
std::shared_ptr<const Problem> shared_problem(Index tokens, Index in, Index out, Index rank, Index heads, bool routed);

/// A way to compute the adapter: what other people's code would do. All results are ADDED to y / dx / dA / dgate / dB
/// as in the library.
class Peer {
 public:
  virtual ~Peer() = default;
  virtual void forward(Matrix& y) = 0;  // y += ΔW x; keeps what backward needs
  virtual void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) = 0;
};

struct PeerKind {
  std::string name;
  std::string version;
  std::string missing;  // why it is absent, empty when present
  std::function<std::unique_ptr<Peer>(const Problem&)> make;
};

const std::vector<PeerKind>& peers();

}  // namespace bench
