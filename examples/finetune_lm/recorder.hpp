// SPDX-License-Identifier: MIT
// What an adapter in a model reads and computes.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "hydralora/io/peft_directory.hpp"
#include "hydralora/lm/linear.hpp"

namespace finetune_lm {

/// Whether a gate mixes its heads token by token.
inline bool is_routed(const hydralora::AdapterModule& m) {
  return m.kind == hydralora::AdapterKind::hydra_lora || (m.kind == hydralora::AdapterKind::split_lora && m.routed);
}

/// Does what an adapter does in inference, and shows its input and its cache to a function.
class Recorder final : public hydralora::lm::LinearAdapter<float> {
 public:
  using Inputs = hydralora::ConstTokens<float>;
  using Cache = hydralora::AdapterCache<float>;
  using Call = hydralora::lm::LinearCall<float>;
  using Function = std::function<void(Inputs x, const Cache& cache)>;

  Recorder(std::unique_ptr<LinearAdapter<float>> adapter, Function function)
      : adapter_(std::move(adapter)), function_(std::move(function)) {}
  void forward(Inputs x, hydralora::Tokens<float> y, Cache& cache, const Call& call) const override {
    adapter_->forward(x, y, cache, call);
    // A pass with a cache has dropout, so its result is not the model's.
    Call with_cache = call;
    with_cache.training = true;
    Eigen::MatrixXf ignored = Eigen::MatrixXf::Zero(y.features(), y.tokens());
    adapter_->forward(x, hydralora::Tokens<float>(ignored), cache, with_cache);
    function_(x, cache);
  }
  void backward(Inputs, Inputs, const Cache&, hydralora::Tokens<float>, const Call&) override {
    throw std::logic_error("Recorder: it is for inference");
  }
  void initialize() override {}
  void load(const hydralora::PeftDirectory&, const std::string&) override {}
  void save(hydralora::PeftWriter&, const std::string&) const override {}
  void for_each_gradient(const std::string&, const hydralora::lm::MatrixVisitor<float>&) const override {}

 private:
  std::unique_ptr<LinearAdapter<float>> adapter_;
  Function function_;
};

/// From now on, the function sees what the adapter of a linear reads and computes.
inline void record_inputs(hydralora::lm::Linear<float>& linear, Recorder::Function function) {
  linear.adapter = std::make_unique<Recorder>(std::move(linear.adapter), std::move(function));
}

}  // namespace finetune_lm
