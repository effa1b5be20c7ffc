// SPDX-License-Identifier: MIT
// Features of texts for clustering.
#pragma once

#include <Eigen/SparseCore>
#include <cmath>

#include "hydralora/core/expects.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// TF-IDF:  count · (ln((1 + documents) / (1 + documents with the word)) + 1),  every document then scaled to length 1.
/// Source   Salton and Buckley 1988; smoothed like scikit-learn's default, with the same results.
/// @param counts  (words × documents), ≥ 0. A document without words stays 0.
/// @throws std::invalid_argument  on a count that is negative or not finite.
inline Eigen::SparseMatrix<double> tf_idf(Eigen::SparseMatrix<double> counts) {
  using Entry = Eigen::SparseMatrix<double>::InnerIterator;
  Eigen::VectorXd documents = Eigen::VectorXd::Zero(counts.rows());
  for (Index j = 0; j < counts.outerSize(); ++j) {
    for (Entry entry(counts, j); entry; ++entry) {
      expects(entry.value() >= 0 && std::isfinite(entry.value()), "tf_idf: the count of word ", entry.row(),
              " in document ", j, " is ", entry.value(), ", expected finite and >= 0");
      if (entry.value() > 0) documents[entry.row()] += 1;
    }
  }
  const auto all = static_cast<double>(counts.cols());
  for (Index j = 0; j < counts.outerSize(); ++j) {
    for (Entry entry(counts, j); entry; ++entry) {
      entry.valueRef() *= std::log((1 + all) / (1 + documents[entry.row()])) + 1;
    }
    const double length = counts.col(j).blueNorm();  // squares of counts near 1e200 would overflow
    if (length == 0) continue;
    for (Entry entry(counts, j); entry; ++entry) entry.valueRef() /= length;
  }
  return counts;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
