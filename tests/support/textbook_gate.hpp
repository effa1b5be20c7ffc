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
      std::vector<Scalar> pi(static_cast<std::size_t>(heads), Scalar(0));
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
        pi[static_cast<std::size_t>(i)] = std::exp(logit / config.temperature);
      }
      Scalar sum(0);
      for (const Scalar& e : pi) sum += e;
      log_partition(0, t) = std::log(sum);
      std::vector<Index> order;
      for (Index i = 0; i < heads; ++i) {
        probabilities(i, t) = pi[static_cast<std::size_t>(i)] / sum;
        order.push_back(i);
      }
      const auto probability = [&, t = t](Index i) { return std::real(probabilities(i, t)); };
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return probability(a) > probability(b); });
      if (config.selection == GateSelection::one_hot) {
        for (Index i = 0; i < heads; ++i) {
          weights(i, t) = (i == order[0] ? 1.0 : 0.0) + (probabilities(i, t) - probability(i));
        }
        continue;
      }
      Index keep = heads;
      if (config.selection == GateSelection::top_k) keep = config.top_k;
      if (config.selection == GateSelection::top_p) {
        double mass = 0;
        for (keep = 0; keep < heads && mass < config.top_p; ++keep)
          mass += probability(order[static_cast<std::size_t>(keep)]);
      }
      Scalar kept(0);
      for (Index n = 0; n < keep; ++n) kept += probabilities(order[static_cast<std::size_t>(n)], t);
      for (Index n = 0; n < keep; ++n) {
        const Index i = order[static_cast<std::size_t>(n)];
        weights(i, t) = probabilities(i, t) / kept;
      }
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
    std::vector<Scalar> importance(static_cast<std::size_t>(heads), Scalar(0)), mass = importance;
    std::vector<double> votes(static_cast<std::size_t>(heads), 0);
    Scalar z(0);
    for (Index t = 0; t < tokens; ++t) {
      Index top = 0;
      for (Index i = 0; i < heads; ++i) {
        if (std::real(probabilities(i, t)) > std::real(probabilities(top, t))) top = i;
        importance[static_cast<std::size_t>(i)] += mask(0, t) * weights(i, t);
        mass[static_cast<std::size_t>(i)] += mask(0, t) * probabilities(i, t);
      }
      votes[static_cast<std::size_t>(top)] += mask(0, t);
      counted += mask(0, t);
      z += mask(0, t) * log_partition(0, t) * log_partition(0, t);
    }
    if (counted == 0) return Scalar(0);
    const auto n = static_cast<double>(heads);
    Scalar mean(0), variance(0), load(0);
    for (const Scalar& i : importance) mean += i / n;
    for (const Scalar& i : importance) variance += heads > 1 ? (i - mean) * (i - mean) / (n - 1) : Scalar(0);
    for (std::size_t i = 0; i < votes.size(); ++i) load += n * (votes[i] / counted) * (mass[i] / counted);
    return w.importance * variance / (mean * mean) + w.load * load + w.z * z / counted;
  }
};

}  // namespace support
