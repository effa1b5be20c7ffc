// SPDX-License-Identifier: MIT
//
// Gates and balance losses as the papers write them, for any scalar type, in loops. Where heads are chosen, the choice
// is made by the real parts: the derivative of a choice is 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <hydralora/train.hpp>
#include <vector>

#include "support/shapes.hpp"

namespace support {

template <class Scalar>
struct TextbookGate {
  hydralora::GateConfig config;
  std::vector<Index> segments;
  Matrix<Scalar> G;

  Matrix<Scalar> weights, probabilities, log_partition;  // results

  /// The tokens whose mean (or root mean square) token t sees.
  std::pair<Index, Index> seen(Index t) const {
    Index first = 0;
    for (const Index length : segments) {
      if (t < first + length) {
        if (config.granularity == hydralora::GateGranularity::token) return {t, t + 1};
        return {first, config.granularity == hydralora::GateGranularity::causal ? t + 1 : first + length};
      }
      first += length;
    }
    return {0, 0};
  }

  /// @param h  A x, (a_rows × tokens)
  void route(const Matrix<Scalar>& x, const Matrix<Scalar>& h) {
    using hydralora::GateInput;
    using hydralora::GateSelection;
    const Index heads = G.rows(), tokens = x.cols();
    weights = probabilities = Matrix<Scalar>::Zero(heads, tokens);
    log_partition = Matrix<Scalar>::Zero(1, tokens);
    for (Index t = 0; t < tokens; ++t) {
      const auto [from, to] = seen(t);
      const double count = static_cast<double>(to - from);
      Matrix<Scalar> pi(heads, 1);
      for (Index i = 0; i < heads; ++i) {
        Scalar logit(0);
        if (config.input == GateInput::rms_projection) {
          for (Index k = 0; k < h.rows(); ++k) {
            Scalar square(0);
            for (Index s = from; s < to; ++s) square += h(k, s) * h(k, s);
            logit += G(i, k) * std::sqrt(square / count + 1e-6);
          }
        } else {
          const Matrix<Scalar>& read = config.input == GateInput::x ? x : h;
          for (Index s = from; s < to; ++s) {
            for (Index k = 0; k < read.rows(); ++k) logit += G(i, k) * read(k, s) / count;
          }
        }
        pi(i, 0) = std::exp(logit / config.temperature);
      }
      log_partition(0, t) = std::log(pi.sum());
      probabilities.col(t) = pi / pi.sum();
      std::vector<Index> order, kept;
      for (Index i = 0; i < heads; ++i) order.push_back(i);
      const auto probability = [&, t = t](Index i) { return std::real(probabilities(i, t)); };
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return probability(a) > probability(b); });
      if (config.selection == GateSelection::one_hot) {
        for (Index i = 0; i < heads; ++i) {
          weights(i, t) = (i == order[0] ? 1.0 : 0.0) + (probabilities(i, t) - probability(i));
        }
        continue;
      }
      double mass = 0;
      for (const Index i : order) {
        if (config.selection == GateSelection::top_k && static_cast<Index>(kept.size()) == config.top_k) break;
        if (config.selection == GateSelection::top_p && mass >= config.top_p) break;
        mass += probability(i);
        kept.push_back(i);
      }
      Scalar sum(0);
      for (const Index i : kept) sum += probabilities(i, t);
      for (const Index i : kept) weights(i, t) = probabilities(i, t) / sum;
    }
  }

  /// The smallest distance of a choice that was made from the one that was not: near 0 a difference step may flip it.
  double distance_from_a_tie() const {
    double smallest = 1;
    for (Index t = 0; t < probabilities.cols(); ++t) {
      std::vector<double> sorted;
      for (Index i = 0; i < probabilities.rows(); ++i) sorted.push_back(std::real(probabilities(i, t)));
      std::sort(sorted.rbegin(), sorted.rend());
      double mass = 0;
      for (std::size_t n = 0; n < sorted.size(); ++n) {
        mass += sorted[n];
        if (n + 1 < sorted.size()) smallest = std::min(smallest, sorted[n] - sorted[n + 1]);
        if (n + 1 < sorted.size()) smallest = std::min(smallest, std::abs(mass - config.top_p));
      }
    }
    return smallest;
  }

  /// Σ weight · loss over the tokens that count.
  Scalar balance(const hydralora::BalanceWeights& w, const Matrix<double>& mask) const {
    const Index heads = weights.rows(), tokens = weights.cols();
    double counted = 0;
    Matrix<Scalar> importance = Matrix<Scalar>::Zero(heads, 1), mass = importance;
    Matrix<double> votes = Matrix<double>::Zero(heads, 1);
    Scalar z(0);
    for (Index t = 0; t < tokens; ++t) {
      Index top = 0;
      for (Index i = 0; i < heads; ++i) {
        if (std::real(probabilities(i, t)) > std::real(probabilities(top, t))) top = i;
        importance(i, 0) += mask(0, t) * weights(i, t);
        mass(i, 0) += mask(0, t) * probabilities(i, t);
      }
      votes(top, 0) += mask(0, t);
      counted += mask(0, t);
      z += mask(0, t) * log_partition(0, t) * log_partition(0, t);
    }
    if (counted == 0) return Scalar(0);
    const auto n = static_cast<double>(heads);
    const Scalar mean = importance.sum() / n;
    Scalar variance(0), load(0);
    for (Index i = 0; i < heads; ++i) {
      if (heads > 1) variance += (importance(i, 0) - mean) * (importance(i, 0) - mean) / (n - 1);
      load += n * (votes(i, 0) / counted) * (mass(i, 0) / counted);
    }
    return w.importance * variance / (mean * mean) + w.load * load + w.z * z / counted;
  }
};

/// The whole loss ⟨dY, ΔW(X)⟩ + balance of a layer in any scalar, in loops.
template <class Scalar>
struct TextbookLoss {
  TextbookGate<Scalar> gate;
  std::vector<Matrix<Scalar>> A, B;
  double scaling;

  template <class Layer>
  TextbookLoss(const Layer& layer, std::vector<Index> segments) : scaling(layer.scaling()) {
    gate.config = layer.config().gate;
    gate.segments = std::move(segments);
    gate.G = layer.gate().template cast<Scalar>();
    for (Index i = 0; i < layer.config().heads; ++i) {
      if constexpr (!Layer::Middle::shares_A) A.push_back(layer.A(i).template cast<Scalar>());
      if constexpr (!Layer::Middle::shares_B) B.push_back(layer.B(i).template cast<Scalar>());
    }
    if constexpr (Layer::Middle::shares_A) A = {layer.A().template cast<Scalar>()};
    if constexpr (Layer::Middle::shares_B) B = {layer.B().template cast<Scalar>()};
  }

  Matrix<Scalar> y(const Matrix<Scalar>& x) {
    const Index rank = A[0].rows();
    Matrix<Scalar> h = Matrix<Scalar>::Zero(rank * static_cast<Index>(A.size()), x.cols());
    for (std::size_t i = 0; i < A.size(); ++i) h.middleRows(static_cast<Index>(i) * rank, rank) = A[i] * x;
    gate.route(x, h);
    Matrix<Scalar> y = Matrix<Scalar>::Zero(B[0].rows(), x.cols());
    for (Index t = 0; t < x.cols(); ++t) {
      for (std::size_t i = 0; i < std::max(A.size(), B.size()); ++i) {
        const Index own = A.size() == 1 ? 0 : static_cast<Index>(i) * rank;
        const Matrix<Scalar>& up = B.size() == 1 ? B[0] : B[i];
        y.col(t) += scaling * gate.weights(static_cast<Index>(i), t) * (up * h.col(t).segment(own, rank));
      }
    }
    return y;
  }
  Scalar operator()(const Matrix<Scalar>& x, const Matrix<double>& dy, const hydralora::BalanceWeights& w,
                    const Matrix<double>& mask) {
    const Matrix<Scalar> result = y(x);
    Scalar sum = gate.balance(w, mask);
    for (Index t = 0; t < x.cols(); ++t) {
      for (Index o = 0; o < dy.rows(); ++o) sum += dy(o, t) * result(o, t);
    }
    return sum;
  }
};

}  // namespace support
