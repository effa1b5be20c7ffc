// SPDX-License-Identifier: MIT
//
// Arguments that a view must refuse, each with the beginning of the compiler's message (checks.py).
#include <hydralora/hydralora.hpp>

int main() {
  const hydralora::LoRA<float> layer(hydralora::LoRAConfig{4, 4, 2});
  Eigen::MatrixXf x = Eigen::MatrixXf::Ones(4, 4), y = x;
  const Eigen::MatrixXf constant = x;
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = x;
  using Strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;

  // error: hydralora: the argument is row-major
  layer.forward(rows, y);
  // error: hydralora: the argument is row-major
  layer.forward(Eigen::RowVectorXf(x.row(0)), y);
  // error: hydralora: the argument is an Eigen expression that is not in memory
  layer.forward(x + x, y);
  // error: hydralora: the argument's scalar type is not the layer's
  layer.forward(Eigen::MatrixXd(4, 4), y);
  // error: hydralora: the argument's columns are not contiguous
  layer.forward(Eigen::Map<const Eigen::MatrixXf, 0, Strides>(x.data(), 2, 2, Strides(4, 2)), y);
  // error: hydralora: the output argument is read-only
  layer.forward(x, constant);
  // error: hydralora: the result would be written into a temporary
  layer.forward(x, Eigen::MatrixXf(y));
}
