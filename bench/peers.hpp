// SPDX-License-Identifier: MIT
//
// What the adapters are compared with: other people's ways to the same numbers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "problem.hpp"
#include "products.hpp"

namespace bench {

/// A way to compute the adapter. All results are ADDED to y / dx / dA / dgate / dB, as in the library.
class Peer {
 public:
  virtual ~Peer() = default;
  virtual void forward(Matrix& y) = 0;  // y += ΔW x; saves what backward needs
  virtual void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) = 0;
};

struct PeerKind {
  std::string name;
  std::string version;
  std::string missing;  // why it is absent, empty when present
  std::function<std::unique_ptr<Peer>(const Problem&)> make;
};

const std::vector<PeerKind>& peers();

/// What the module with the two peers in PyTorch exports, under the names below. It is loaded when first asked for:
/// libtorch brings a BLAS that must not answer for the others, and 200 MB that no other benchmark should carry.
enum class TorchStyle { released, smart };
using TorchVersion = const char*();
using TorchMake = Peer*(const Problem&, TorchStyle);
inline constexpr const char* torch_version_name = "bench_torch_version";
inline constexpr const char* torch_make_name = "bench_torch_make";

}  // namespace bench
