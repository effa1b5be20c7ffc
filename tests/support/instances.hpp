// SPDX-License-Identifier: MIT
//
// What the tests share as compiled code (instances.cpp), beside the kernels: the layers' formulas, the optimiser, the
// dense base, and the tests' loops. The test files get these declarations as a precompiled header.
#pragma once

#include <doctest/doctest.h>

#include <hydralora/analysis.hpp>
#include <hydralora/hydralora.hpp>
#include <hydralora/layers/stored_linear.hpp>
#include <hydralora/train.hpp>

#include "support/layers.hpp"
#include "support/textbook.hpp"
#include "support/textbook_gate.hpp"

#define HYDRALORA_TEST_FORMULAS(keyword, Scalar)                                                                    \
  keyword template struct hydralora::Formula<Scalar, hydralora::LoRAMiddle>;                                        \
  keyword template struct hydralora::Formula<Scalar, hydralora::SplitLoRAMiddle>;                                   \
  keyword template struct hydralora::Formula<Scalar, hydralora::HydraLoRAMiddle>;                                   \
  keyword template struct hydralora::Formula<Scalar, hydralora::SharedBLoRAMiddle>;                                 \
  keyword template void hydralora::reference::shrink(hydralora::ConstStack<Scalar>, hydralora::ConstTokens<Scalar>, \
                                                     hydralora::Tokens<Scalar>);                                    \
  keyword template void hydralora::reference::expand(hydralora::ConstStack<Scalar>, hydralora::ConstTokens<Scalar>, \
                                                     Scalar, hydralora::Tokens<Scalar>);                            \
  keyword template void hydralora::reference::accumulate(                                                           \
      hydralora::ConstTokens<Scalar>, hydralora::ConstTokens<Scalar>, Scalar, hydralora::Stack<Scalar>);            \
  keyword template support::Matrix<Scalar> support::random_matrix(support::Index, support::Index, std::uint64_t);
#define HYDRALORA_TEST_TRAINING(keyword, Scalar)   \
  keyword template class hydralora::AdamW<Scalar>; \
  keyword template class hydralora::DenseLinear<Scalar>;
#define HYDRALORA_TEST_INSTANCES(keyword)                              \
  HYDRALORA_TEST_FORMULAS(keyword, float)                              \
  HYDRALORA_TEST_FORMULAS(keyword, double)                             \
  HYDRALORA_TEST_FORMULAS(keyword, std::complex<double>)               \
  HYDRALORA_TEST_TRAINING(keyword, float)                              \
  HYDRALORA_TEST_TRAINING(keyword, double)                             \
  HYDRALORA_TEST_KERNELS(keyword, std::complex<double>)                \
  keyword template struct support::Textbook<std::complex<double>>;     \
  keyword template struct support::TextbookGate<std::complex<double>>; \
  keyword template struct support::TextbookLoss<std::complex<double>>;
#define HYDRALORA_TEST_KERNELS(keyword, Scalar) \
  namespace hydralora {                         \
  inline namespace HYDRALORA_BUILD {            \
  namespace kernels {                           \
  HYDRALORA_LOW_RANK_INSTANCES(keyword, Scalar) \
  HYDRALORA_HEAD_MIX_INSTANCES(keyword, Scalar) \
  }                                             \
  HYDRALORA_GATE_INSTANCES(keyword, Scalar)     \
  }                                             \
  }

HYDRALORA_TEST_INSTANCES(extern)
