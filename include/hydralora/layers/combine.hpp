// SPDX-License-Identifier: MIT
// Converts other layers to LoRAs and combines LoRAs. Not part of hydralora.hpp, because Eigen's SVD compiles slowly.
#pragma once

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/one_instruction_set.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/split_lora.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// The LoRA with ΔW = up · down and scaling 1.
template <class Scalar>
LoRA<Scalar> lora_of(const char* where, const Eigen::MatrixXd& up, const Eigen::MatrixXd& down) {
  LoRAConfig config;
  config.in_features = down.cols();
  config.out_features = up.rows();
  config.rank = up.cols();
  config.alpha = static_cast<double>(up.cols());
  LoRA<Scalar> lora(config);
  lora.A() = down.template cast<Scalar>();
  lora.B() = up.template cast<Scalar>();
  expects(lora.parameters().allFinite(), where, ": the result is not finite in the LoRA's scalar type");
  return lora;
}

/// {[c_1 s_1 B_1 …], [A_1; …]}.
template <class Scalar>
std::pair<Eigen::MatrixXd, Eigen::MatrixXd> joined_factors(const char* where,
                                                           const std::vector<const LoRA<Scalar>*>& loras,
                                                           const std::vector<double>& coefficients) {
  expects(!loras.empty() && loras.size() == coefficients.size(), where, ": ", loras.size(), " LoRAs and ",
          coefficients.size(), " coefficients");
  Index rank = 0;
  for (std::size_t i = 0; i < loras.size(); ++i) {
    expects(loras[i] != nullptr, where, ": LoRA ", i, " is null");
    const AdapterShape& shape = loras[i]->shape();
    expects(shape.in == loras[0]->shape().in && shape.out == loras[0]->shape().out, where, ": LoRA ", i, " is ",
            shape.in, "->", shape.out, ", the first is ", loras[0]->shape().in, "->", loras[0]->shape().out);
    expects(std::isfinite(coefficients[i]), where, ": coefficient ", i, " is ", coefficients[i]);
    rank += shape.rank;
  }
  Eigen::MatrixXd up(loras[0]->shape().out, rank), down(rank, loras[0]->shape().in);
  Index first = 0;
  for (std::size_t i = 0; i < loras.size(); ++i) {
    const Index own = loras[i]->shape().rank;
    up.middleCols(first, own) =
        coefficients[i] * static_cast<double>(loras[i]->scaling()) * loras[i]->B().template cast<double>();
    down.middleRows(first, own) = loras[i]->A().template cast<double>();
    first += own;
  }
  return {std::move(up), std::move(down)};
}

}  // namespace detail

/// The heads of a HydraLoRA as LoRAs. LoRA i computes the same bits as the layer with the one-hot weight ω_i = 1.
template <class Scalar>
std::vector<LoRA<Scalar>> plain_loras(const HydraLoRA<Scalar>& layer) {
  const HydraLoRAConfig& c = layer.config();
  std::vector<LoRA<Scalar>> loras;
  for (Index i = 0; i < c.heads; ++i) {
    loras.emplace_back(LoRAConfig{c.in_features, c.out_features, c.rank, c.alpha, c.rank_stabilized, c.dropout},
                       layer.seed());
    loras.back().A() = layer.A();
    loras.back().B() = layer.B(i);
  }
  return loras;
}

/// Σ_i c_i ΔW_i as one LoRA of rank Σ r_i with scaling 1: exact up to the rounding of c_i s_i B_i.
/// Source: PEFT's add_weighted_adapter with "cat".
/// @throws std::invalid_argument  without LoRAs, on a null pointer, different features, or coefficients that are
///                 missing or not finite.
template <class Scalar>
LoRA<Scalar> combine_exactly(const std::vector<const LoRA<Scalar>*>& loras, const std::vector<double>& coefficients) {
  const auto [up, down] = detail::joined_factors("combine_exactly", loras, coefficients);
  return detail::lora_of<Scalar>("combine_exactly", up, down);
}

template <class Scalar>
struct CompressedLoRA {
  LoRA<Scalar> lora;
  double relative_error = 0;  ///< ‖ΔW − Σ c_i ΔW_i‖ / ‖Σ c_i ΔW_i‖ (Frobenius), without rounding; 0 if the sum is 0
};

/// The LoRA of a given rank that is closest to Σ_i c_i ΔW_i. Its scaling is 1; A and B have equal singular values.
/// Source   Eckart and Young 1936; PEFT's add_weighted_adapter with "svd". From the factors, without forming ΔW.
/// @param rank  1 … min(Σ r_i, in_features, out_features).
/// @throws std::invalid_argument  as combine_exactly(), on another rank, or if a number is not finite.
/// Cost     two QR and one SVD in double, of Σ r_i columns.
template <class Scalar>
CompressedLoRA<Scalar> combine_to_rank(const std::vector<const LoRA<Scalar>*>& loras,
                                       const std::vector<double>& coefficients, Index rank) {
  constexpr auto where = "combine_to_rank";
  const auto [up, down] = detail::joined_factors(where, loras, coefficients);
  const Index most = (std::min)({up.cols(), up.rows(), down.cols()});
  expects(rank >= 1 && rank <= most, where, ": rank ", rank, ", expected 1 to ", most);
  expects(up.allFinite() && down.allFinite(), where, ": a LoRA is not finite");
  // up = Q_u R_u and downᵀ = Q_d R_d, so the singular values of up · down are those of the small R_u R_dᵀ.
  const auto thin = [](const Eigen::MatrixXd& m) {
    const Eigen::HouseholderQR<Eigen::MatrixXd> qr(m);
    const Index columns = (std::min)(m.rows(), m.cols());
    Eigen::MatrixXd r = qr.matrixQR().topRows(columns);
    r.template triangularView<Eigen::StrictlyLower>().setZero();
    return std::pair<Eigen::MatrixXd, Eigen::MatrixXd>(qr.householderQ() * Eigen::MatrixXd::Identity(m.rows(), columns),
                                                       std::move(r));
  };
  const auto [q_up, r_up] = thin(up);
  const auto [q_down, r_down] = thin(down.transpose());
  const Eigen::MatrixXd core = r_up * r_down.transpose();
  expects(core.allFinite(), where, ": the product of the factors is not finite");
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(core, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd values = svd.singularValues(), root = values.head(rank).cwiseSqrt();
  const double kept = values.head(rank).stableNorm(), lost = values.tail(values.size() - rank).stableNorm();
  const double all = std::hypot(kept, lost);
  return {detail::lora_of<Scalar>(where, q_up * svd.matrixU().leftCols(rank) * root.asDiagonal(),
                                  root.asDiagonal() * svd.matrixV().leftCols(rank).transpose() * q_down.transpose()),
          all > 0 ? lost / all : 0};
}

/// (Σ_i c_i B_i) (Σ_i c_i A_i), with the first's scaling: LoRAHub's composition. It multiplies every B by every A.
/// Source: Huang et al. 2023, arXiv:2307.13269, eq. (1).
/// @throws std::invalid_argument  as combine_exactly(), or if ranks or scalings differ.
template <class Scalar>
LoRA<Scalar> combine_as_lorahub(const std::vector<const LoRA<Scalar>*>& loras,
                                const std::vector<double>& coefficients) {
  constexpr auto where = "combine_as_lorahub";
  detail::joined_factors(where, loras, coefficients);  // only for its checks
  LoRA<Scalar> result(loras[0]->config(), loras[0]->seed());
  Eigen::MatrixXd A = Eigen::MatrixXd::Zero(result.A().rows(), result.A().cols());
  Eigen::MatrixXd B = Eigen::MatrixXd::Zero(result.B().rows(), result.B().cols());
  for (std::size_t i = 0; i < loras.size(); ++i) {
    expects(loras[i]->shape() == result.shape() && loras[i]->scaling() == result.scaling(), where, ": LoRA ", i, " is ",
            loras[i]->shape(), " with scaling ", loras[i]->scaling(), ", the first ", result.shape(), " with ",
            result.scaling());
    A += coefficients[i] * loras[i]->A().template cast<double>();
    B += coefficients[i] * loras[i]->B().template cast<double>();
  }
  result.A() = A.template cast<Scalar>();
  result.B() = B.template cast<Scalar>();
  return result;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
