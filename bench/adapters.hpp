// SPDX-License-Identifier: MIT
//
// The library's layers on a Problem, and the same in double: how wrong a float result is. A mistake in the formulas
// themselves would be in both, and would show as the error of every peer.
#pragma once

#include <Eigen/Core>
#include <memory>

#include "problem.hpp"

namespace bench {

/// What one pass adds to zeros. down is [dA; dgate], up is dB; only y where there was no backward pass.
struct Results {
  Eigen::MatrixXd y, dx, down, up;
};

/// The largest difference over the largest magnitude, which is what cancels in a sum of products of numbers of that
/// size.
double largest_error(const Eigen::MatrixXd& got, const Eigen::MatrixXd& expected);
double largest_error(const Results& got, const Results& expected);

/// SplitLoRA has a learned gate and the problem's A in every head.
enum class LayerKind { lora, hydra_lora, split_lora };

/// Types of the parameters and of x and y: the same, or with mixed float and bfloat16.
enum class Numbers { float32, bfloat16, half, mixed };
inline constexpr const char* numbers_names[] = {"float", "bfloat16", "half", "mixed"};

/// A layer with everything around it that a host holds.
class Adapter {
 public:
  virtual ~Adapter() = default;
  virtual void forward() = 0;
  virtual void backward() = 0;
  /// Gradients set to zero, forward, backward, AdamW. In float only.
  virtual void training_step() = 0;
  virtual Index parameters() const = 0;
  /// Numbers per token between forward and backward.
  virtual Index saved_rows() const = 0;
  /// One pass, of a new layer.
  virtual Results results(bool backward) = 0;
};
std::unique_ptr<Adapter> make_adapter(LayerKind kind, const Problem& problem, Numbers numbers = Numbers::float32);

/// The problem with every number rounded to the type it has there.
Problem rounded(Problem problem, Numbers numbers);

Results results_in_double(LayerKind kind, const Problem& problem, bool backward);

}  // namespace bench
