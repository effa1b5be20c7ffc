// SPDX-License-Identifier: MIT
// What a linear of a model gets as input.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "hydralora/lm/linear.hpp"

namespace finetune_lm {

/// Does what an adapter does in inference, and shows the linear's input to a function before.
class Recorder final : public hydralora::lm::LinearAdapter<float> {
 public:
  using Inputs = hydralora::ConstTokens<float>;
  using Call = hydralora::lm::LinearCall<float>;
  using Function = std::function<void(Inputs x)>;

  Recorder(std::unique_ptr<LinearAdapter<float>> adapter, Function function)
      : adapter_(std::move(adapter)), function_(std::move(function)) {}
  void forward(Inputs x, hydralora::Tokens<float> y, hydralora::AdapterCache<float>& cache,
               const Call& call) const override {
    function_(x);
    adapter_->forward(x, y, cache, call);
  }
  void backward(Inputs, Inputs, const hydralora::AdapterCache<float>&, hydralora::Tokens<float>, const Call&) override {
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

/// From now on, the function sees the inputs of a linear that has an adapter.
inline void record_inputs(hydralora::lm::Linear<float>& linear, Recorder::Function function) {
  linear.adapter = std::make_unique<Recorder>(std::move(linear.adapter), std::move(function));
}

}  // namespace finetune_lm
