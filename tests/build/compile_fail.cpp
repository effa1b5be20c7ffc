// SPDX-License-Identifier: MIT
//
// One argument a case that a view must refuse; CASE_GOOD is the same call with a right one.
#include <hydralora/hydralora.hpp>

int main() {
  const hydralora::LoRA<float> layer(hydralora::LoRAConfig{4, 4, 2});
  Eigen::MatrixXf x = Eigen::MatrixXf::Ones(4, 4), y = x;
  const Eigen::MatrixXf constant = x;
#if defined(CASE_GOOD)
  layer.forward(x, y.leftCols(4));
#elif defined(CASE_ROW_MAJOR)
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = x;
  layer.forward(rows, y);
#elif defined(CASE_ROW_VECTOR)
  layer.forward(Eigen::RowVectorXf(x.row(0)), y);
#elif defined(CASE_EXPRESSION)
  layer.forward(x + x, y);
#elif defined(CASE_OTHER_SCALAR)
  layer.forward(Eigen::MatrixXd(4, 4), y);
#elif defined(CASE_INNER_STRIDE)
  layer.forward(Eigen::Map<const Eigen::MatrixXf, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic> >(
                    x.data(), 2, 2, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(4, 2)),
                y);
#elif defined(CASE_READ_ONLY)
  layer.forward(x, constant);
#elif defined(CASE_TEMPORARY)
  layer.forward(x, Eigen::MatrixXf(y));
#endif
  return static_cast<int>(y(0, 0) + constant(0, 0)) * 0;
}
