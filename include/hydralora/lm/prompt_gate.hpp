// SPDX-License-Identifier: MIT
// HydraLoRA with one gate per document, which reads the prompt: answer tokens use the prompt's weights, so that no
// token sees what comes after it.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

#include "hydralora/core/workspace.hpp"
#include "hydralora/io/peft.hpp"
#include "hydralora/kernels/softmax.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/lm/linear.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// y += s · Σ_i ω_i B_i A x,  ω = softmax(G x̄), x̄ the mean of the layer's input over the prompt.
///
/// backward  dω = Σ over the document of dω_t     dℓ = ω ∘ (dω − ⟨ω, dω⟩)
///           dG += dℓ x̄ᵀ                          dx_t += Gᵀ dℓ / n, for the prompt's n tokens
///
/// The layer itself is a HydraLoRA whose weights are given. Parameters: the layer's, then G (heads × in), column-major.
template <class Scalar>
class PromptHydraLoRA final : public LinearAdapter<Scalar> {
  using Layer = HydraLoRA<Scalar>;

 public:
  using Config = HydraLoRAConfig;
  static Index parameter_count(const Config& config) {
    return hydralora::detail::checked_shape<HydraLoRAMiddle>(given(config)).parameter_count() +
           config.heads * config.in_features;
  }
  PromptHydraLoRA(const Config& config, ParameterMap<Scalar> parameters, ParameterMap<Scalar> gradients,
                  std::uint64_t seed)
      : layer_(given(config), part(parameters, config, 0), seed),
        gradients_(given(config), part(gradients, config, 0)),
        gate_(gate_of(parameters, config)),
        gate_gradient_(gate_of(gradients, config)) {}

  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, AdapterCache<Scalar>& cache,
               const LinearCall<Scalar>& call) const override {
    const Index heads = gate_.rows();
    ScratchFrame scratch;
    const Tokens<Scalar> weights = scratch.take_tokens<Scalar>(heads, x.tokens());
    for_each_document(x.tokens(), call, [&](Index first, Index count, Index prompt) {
      const Tokens<Scalar> w = weights.slice(first, 1);
      w.matrix().noalias() = gate_ * mean(x.slice(first, prompt));
      kernels::softmax<Scalar>(w);
      for (Index t = 1; t < count; ++t) kernels::copy<Scalar>(w, weights.slice(first + t, 1));
    });
    CallOptions<Scalar> options = call.options;
    options.weights = weights;
    if (call.training) {
      layer_.forward(x, y, cache, options);
    } else {
      layer_.forward(x, y, options);
    }
  }

  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const AdapterCache<Scalar>& cache, Tokens<Scalar> dx,
                const LinearCall<Scalar>& call) override {
    ScratchFrame scratch;
    const Tokens<Scalar> dw = scratch.take_tokens<Scalar>(gate_.rows(), x.tokens());
    kernels::fill<Scalar>(dw, Scalar(0));
    CallOptions<Scalar> options = call.options;
    options.weights_gradient = dw;
    if (dx.tokens() > 0) layer_.backward(x, dy, cache, gradients_, dx, options);
    if (dx.tokens() == 0) layer_.backward(x, dy, cache, gradients_, options);
    for_each_document(x.tokens(), call, [&](Index first, Index count, Index prompt) {
      const Tokens<Scalar> dl = dw.slice(first, 1);
      for (Index t = 1; t < count; ++t) kernels::add<Scalar>(dw.slice(first + t, 1), dl);
      kernels::softmax_backward<Scalar>(cache.weights().slice(first, 1), dl);
      gate_gradient_.noalias() += dl.matrix() * mean(x.slice(first, prompt)).transpose();
      if (dx.tokens() == 0) return;
      const Eigen::Matrix<Scalar, Eigen::Dynamic, 1> d =
          gate_.transpose() * dl.matrix() / static_cast<real_t<Scalar>>(prompt);
      for (Index t = 0; t < prompt; ++t) {
        kernels::add<Scalar>(ConstTokens<Scalar>(d), dx.slice(first + t, 1));
      }
    });
  }

  void initialize() override {
    layer_.initialize();
    hydralora::detail::kaiming_uniform<Scalar>(
        gate_map(), hydralora::detail::layer_random(layer_.seed(), hydralora::detail::RandomStream::gate));
  }
  void load([[maybe_unused]] const PeftDirectory& from, [[maybe_unused]] const std::string& module) override {
    if constexpr (std::is_floating_point_v<Scalar>) {
      const Layer read = from.load<Layer>(module);
      layer_.A() = read.A();
      for (Index i = 0; i < gate_.rows(); ++i) layer_.B(i) = read.B(i);
      gate_ = read.gate();
    }
  }
  void save([[maybe_unused]] PeftWriter& to, [[maybe_unused]] const std::string& module) const override {
    if constexpr (std::is_floating_point_v<Scalar>) {
      Config config = layer_.config();
      config.routing = Routing::learned;
      config.gate.granularity = GateGranularity::segment;
      Layer written(config);
      written.A() = layer_.A();
      for (Index i = 0; i < gate_.rows(); ++i) written.B(i) = layer_.B(i);
      written.gate() = gate_;
      to.add(module, written);
    }
  }
  void for_each_gradient(const std::string& module, const MatrixVisitor<Scalar>& f) const override {
    const auto& g = gradients_;
    hydralora::detail::for_each_tensor(g, [&](const char* name, Index head, const auto& matrix) {
      f(hydralora::detail::tensor_name(module, name, head), matrix);
    });
    f(hydralora::detail::tensor_name(module, "lora_route"),
      ConstMatrixMap<Scalar>(gate_gradient_.data(), gate_.rows(), gate_.cols(), Eigen::OuterStride<>(gate_.rows())));
  }

 private:
  using Map = Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>>;
  static Config given(Config config) {
    config.routing = Routing::given;
    return config;
  }
  static ParameterMap<Scalar> part(ParameterMap<Scalar> all, const Config& config, Index first) {
    return {all.data() + first, all.size() - config.heads * config.in_features};
  }
  static Map gate_of(ParameterMap<Scalar> all, const Config& config) {
    const Index size = config.heads * config.in_features;
    return {all.data() + all.size() - size, config.heads, config.in_features};
  }
  MatrixMap<Scalar> gate_map() {
    return {gate_.data(), gate_.rows(), gate_.cols(), Eigen::OuterStride<>(gate_.rows())};
  }
  static Eigen::Matrix<Scalar, Eigen::Dynamic, 1> mean(ConstTokens<Scalar> x) {
    return x.matrix().rowwise().sum() / static_cast<real_t<Scalar>>(x.tokens());
  }
  /// f(first token, tokens, tokens of the prompt).
  template <class Function>
  static void for_each_document(Index tokens, const LinearCall<Scalar>& call, Function&& f) {
    Index d = 0;
    call.options.segments.for_each(tokens, [&](Index first, Index count) {
      f(first, count, call.prompts.count == 0 ? count : call.prompts.lengths[d]);
      ++d;
    });
  }

  Layer layer_;
  typename Layer::Gradients gradients_;
  Map gate_, gate_gradient_;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
