// SPDX-License-Identifier: MIT
// What an adapter directory changes in a language model beside the adapters of its linears: saved modules, biases,
// DoRA, LoRA on lm_head or on the embedding.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "hydralora/io/peft.hpp"
#include "hydralora/layers/merge.hpp"
#include "hydralora/lm/load.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// W ← W + ΔW of a module without a gate or, for a DoRA, (m / c) ∘ (W + s B A), c the norms of its rows. In double.
/// @param weight  (out × in), CHANGED. @throws FileError  another shape, or a gate.
template <class Matrix>
void merge_module(const PeftDirectory& from, const AdapterModule& m, Matrix& weight) {
  if (weight.rows() != m.out_features || weight.cols() != m.in_features) {
    from.refuse(m.name, " has another shape than the model's");
  }
  if (m.dora) {
    DoRALinear<double> layer(DenseLinear<double>{Eigen::MatrixXd(weight.template cast<double>())},
                             from.config<LoRA<double>>(m.name));
    from.load_into(layer, m.name);
    merge(layer.adapter, weight);
    const Eigen::VectorXd scale = layer.magnitude.cwiseQuotient(layer.norms());
    weight = (scale.asDiagonal() * weight.template cast<double>()).template cast<typename Matrix::Scalar>();
    if (!weight.allFinite()) from.refuse(m.name, ": a row of W + s B A is zero, or the result is not finite");
  } else if (m.kind == AdapterKind::lora) {
    merge(from.load<LoRA<double>>(m.name), weight);
  } else if (m.kind == AdapterKind::split_lora && !m.routed) {
    merge(from.load<SplitLoRA<double>>(m.name), weight);
  } else {
    from.refuse(m.name, std::string(" is a ") + name_of(m.kind) + " with a gate, which no one weight can hold");
  }
}

/// Puts into a model what is no adapter of lm::Adapters: whole tensors, DoRA, biases, LoRA on lm_head and on the
/// embedding. The changed weights are float32 and multiplied by Eigen, whatever the base. The destructor restores the
/// model; the object must not outlive it. Where lm_head is tied to the embedding and only one of them is changed, they
/// are no longer tied, as in PEFT.
template <class Scalar>
class MergedModules {
 public:
  /// @param directory  opened with PeftOptions::allow_others.
  /// @throws FileError  a tensor that the model has not, that has another shape, or that no layer can express; named.
  MergedModules(lm::Decoder<Scalar>& model, const PeftDirectory& directory) : model_(model), from_(directory) {
    try {
      find_parts();
      for (const OtherTensor& other : from_.others()) apply(other);
      for (const AdapterModule& m : from_.modules()) {
        if (!m.dora && m.name != "lm_head") continue;
        merge_module(from_, m, weight(m.name));
        names_.insert(m.name);
      }
      connect();
    } catch (...) {
      restore();
      throw;
    }
  }
  ~MergedModules() { restore(); }
  MergedModules(const MergedModules&) = delete;
  MergedModules& operator=(const MergedModules&) = delete;

  /// The modules of the directory that are now part of the weights.
  const std::set<std::string>& modules() const { return names_; }

 private:
  using RowMajor = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
  static constexpr const char* embedding_name = "model.embed_tokens";

  [[noreturn]] void refuse(const OtherTensor& other, const std::string& reason) const {
    detail::fail_tensor(from_.weights().path(), other.name, " (" + other.reason + ") " + reason);
  }
  void find_parts() {
    lm::for_each_part<Scalar>(model_, {[&](lm::Linear<Scalar>& linear, const std::string& name, Index, Index, bool) {
                                         linears_[&linear == &model_.head ? "lm_head" : name] = &linear;
                                       },
                                       [&](lm::Gain<Scalar>& gain, const std::string& name, Index size) {
                                         gains_[name] = {&gain, size};
                                       }});
  }
  /// A float copy of a matrix, to be changed; of "model.embed_tokens" or a linear.
  RowMajor& weight(const std::string& name) {
    const auto linear = linears_.find(name);
    const bool embedding = name == embedding_name;
    if (!embedding && linear == linears_.end()) from_.refuse(name, " is not a linear of the model");
    const auto [place, is_new] = weights_.try_emplace(name);
    if (is_new) {
      const lm::Weight<Scalar>& old = embedding ? *model_.embedding : *linear->second->weight;
      place->second.resize(old.out_features(), old.in_features());
      for (Index row = 0; row < old.out_features(); ++row) old.row(row, place->second.row(row).data());
    }
    return place->second;
  }
  /// A copy of a bias; zero where the model has none.
  Vector& bias(const std::string& name) {
    const lm::Linear<Scalar>& linear = *linears_.at(name);
    const auto [place, is_new] = biases_.try_emplace(name, Vector::Zero(linear.out_features()));
    if (is_new && linear.bias != nullptr) {
      place->second = Eigen::Map<const Vector>(linear.bias, linear.out_features());
    }
    return place->second;
  }

  void apply(const OtherTensor& other) {
    const std::string& target = other.target;
    const auto module_of = [&](std::string_view end) {
      return detail::ends_with(target, end) ? target.substr(0, target.size() - end.size()) : std::string();
    };
    const std::string of_weight = module_of(".weight"), of_bias = module_of(".bias"),
                      of_B_bias = module_of(".lora_B.bias");
    if (linears_.count(of_weight) > 0 || of_weight == embedding_name) {
      read(other, weight(of_weight));
      const bool tied = model_.head.weight == model_.embedding;  // a copy of the base, not a module of its own
      if (tied && other.reason != "modules_to_save" && of_weight == embedding_name) {
        read(other, weight("lm_head"));
      }
    } else if (gains_.count(target) > 0) {
      const auto [gain, size] = gains_.at(target);
      read(other, vectors_.emplace_back(Vector(size)));
      undo_.push_back([gain = gain, old = gain->value] { gain->value = old; });
      gain->value = vectors_.back().data();
    } else if (linears_.count(of_B_bias) > 0) {
      Vector change(linears_.at(of_B_bias)->out_features());
      read(other, change);
      bias(of_B_bias) += static_cast<Scalar>(scaling_of(from_.config<LoRA<Scalar>>(of_B_bias))) * change;
    } else if (linears_.count(of_bias) > 0) {
      read(other, bias(of_bias));
    } else if (target == std::string(embedding_name) + ".token_adapter.trainable_tokens_delta") {
      apply_tokens(other);
    } else if (module_of(".lora_embedding_B") == embedding_name) {
      apply_embedding(other);
    } else if (module_of(".lora_embedding_A") != embedding_name ||
               !has_target(std::string(embedding_name) + ".lora_embedding_B")) {
      refuse(other, "is not supported in a language model, or belongs to another model");
    }
  }
  bool has_target(const std::string& target) const {
    const auto& all = from_.others();
    return std::any_of(all.begin(), all.end(), [&](const OtherTensor& one) { return one.target == target; });
  }
  template <class Matrix>
  void read(const OtherTensor& other, Matrix&& to) {
    from_.weights().read(other.name, to);
  }
  /// PEFT replaces the rows of these tokens, also in lm_head where it is tied.
  void apply_tokens(const OtherTensor& other) {
    const std::vector<Index>& tokens = from_.trainable_tokens();
    RowMajor rows(static_cast<Index>(tokens.size()), model_.config.hidden);
    read(other, rows);
    const bool tied = model_.head.weight == model_.embedding;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= model_.config.vocabulary) refuse(other, "has a token that the model has not");
      weight(embedding_name).row(tokens[i]) = rows.row(static_cast<Index>(i));
      if (tied) weight("lm_head").row(tokens[i]) = rows.row(static_cast<Index>(i));
    }
  }
  /// E += s (B A)ᵀ with A (r × vocabulary), B (hidden × r).
  void apply_embedding(const OtherTensor& other) {
    RowMajor& embedding = weight(embedding_name);
    const std::string name =
        other.name.substr(0, other.name.rfind("_B")) + "_A" + other.name.substr(other.name.rfind("_B") + 2);
    const std::vector<Index>& shape = from_.weights().entry(name).shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[0] > embedding.cols()) refuse(other, "has an A of another shape");
    RowMajor A(shape[0], embedding.rows()), B(embedding.cols(), shape[0]);
    from_.weights().read(name, A);
    read(other, B);
    embedding.noalias() += static_cast<Scalar>(from_.scaling_for(embedding_name, shape[0])) * (B * A).transpose();
  }
  void connect() {
    for (auto& [name, numbers] : weights_) {
      auto& place = name == embedding_name ? model_.embedding : linears_.at(name)->weight;
      undo_.push_back([&place, old = place] { place = old; });
      place = lm::make_weight<Scalar>(DenseView<Scalar>(numbers.data(), numbers.rows(), numbers.cols()));
    }
    for (auto& [name, numbers] : biases_) {
      lm::Linear<Scalar>& linear = *linears_.at(name);
      undo_.push_back([&linear, old = linear.bias] { linear.bias = old; });
      linear.bias = numbers.data();
    }
  }
  void restore() {
    for (auto undo = undo_.rbegin(); undo != undo_.rend(); ++undo) (*undo)();
    undo_.clear();
  }

  lm::Decoder<Scalar>& model_;
  const PeftDirectory& from_;
  std::map<std::string, lm::Linear<Scalar>*> linears_;
  std::map<std::string, std::pair<lm::Gain<Scalar>*, Index>> gains_;
  std::map<std::string, RowMajor> weights_;
  std::map<std::string, Vector> biases_;
  std::deque<Vector> vectors_;
  std::vector<std::function<void()>> undo_;
  std::set<std::string> names_;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
