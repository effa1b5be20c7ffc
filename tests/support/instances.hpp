// SPDX-License-Identifier: MIT
//
// What the tests share as compiled code (instances.cpp), beside the kernels: the layers' formulas, the optimiser, the
// dense base, and the tests' loops. The test files get these declarations as a precompiled header.
#pragma once

#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <hydralora/analysis.hpp>
#include <hydralora/hydralora.hpp>
#include <hydralora/layers/stored_linear.hpp>
#include <hydralora/train.hpp>

#include "support/layers.hpp"
#include "support/textbook.hpp"
#include "support/textbook_gate.hpp"

#define HYDRALORA_TEST_INSTANCES_OF(keyword, Scalar)                                \
  keyword template struct hydralora::Formula<Scalar, hydralora::LoRAMiddle>;        \
  keyword template struct hydralora::Formula<Scalar, hydralora::SplitLoRAMiddle>;   \
  keyword template struct hydralora::Formula<Scalar, hydralora::HydraLoRAMiddle>;   \
  keyword template struct hydralora::Formula<Scalar, hydralora::SharedBLoRAMiddle>; \
  keyword template class hydralora::AdamW<Scalar>;                                  \
  keyword template class hydralora::DenseLinear<Scalar>;                            \
  keyword template support::Matrix<Scalar> support::random_matrix(support::Index, support::Index, std::uint64_t);
#define HYDRALORA_TEST_INSTANCES(keyword)                          \
  HYDRALORA_TEST_INSTANCES_OF(keyword, float)                      \
  HYDRALORA_TEST_INSTANCES_OF(keyword, double)                     \
  keyword template struct support::Textbook<std::complex<double>>; \
  keyword template struct support::TextbookGate<std::complex<double>>;

HYDRALORA_TEST_INSTANCES(extern)

// Eigen's decompositions cost more to compile than all the tests: once, in svd.cpp.
#define HYDRALORA_TEST_DECOMPOSITIONS(keyword)                        \
  keyword template class Eigen::HouseholderQR<Eigen::MatrixXd>;       \
  keyword template class Eigen::ColPivHouseholderQR<Eigen::MatrixXd>; \
  keyword template class Eigen::JacobiSVD<Eigen::MatrixXd>;           \
  keyword template class Eigen::BDCSVD<Eigen::MatrixXd>;
HYDRALORA_TEST_DECOMPOSITIONS(extern)
