// SPDX-License-Identifier: MIT
// The layers as libtorch modules, on CPU tensors without a copy. The only header that includes <torch/torch.h>.
#pragma once

#include <torch/torch.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/narrow.hpp"
#include "hydralora/core/tokens.hpp"
#include "hydralora/io/adapter_module.hpp"
#include "hydralora/io/peft_names.hpp"
#include "hydralora/layers/adapter_tensors.hpp"
#include "hydralora/layers/call_options.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {

namespace detail {
/// Torch's name of a number type. Its 16-bit types have the same bits as Eigen's.
template <class Scalar>
constexpr torch::ScalarType torch_type =
    std::is_same_v<Scalar, Eigen::bfloat16> ? torch::kBFloat16
    : std::is_same_v<Scalar, Eigen::half>   ? torch::kHalf
                                            : torch::CppTypeToScalarType<sum_t<Scalar>>::value;
/// The distance between tokens in a tensor [..., features]. False if they are not evenly spaced or not contiguous.
inline bool find_stride(const torch::Tensor& tensor, Index& stride) {
  stride = tensor.size(-1);
  if (tensor.numel() == 0) return true;
  if (tensor.size(-1) > 1 && tensor.stride(-1) != 1) return false;
  Index outer = 0;  // the stride that the next outer dimension must have, once known
  for (std::int64_t d = tensor.dim() - 2; d >= 0; --d) {
    if (tensor.size(d) == 1) continue;
    if (outer == 0) stride = tensor.stride(d);
    if (tensor.stride(d) < tensor.size(-1) || (outer != 0 && tensor.stride(d) != outer)) return false;
    outer = tensor.stride(d) * tensor.size(d);
  }
  return true;
}
}  // namespace detail

/// An Eigen map of a layer (A(), B(head), gate()) as a tensor over the same memory.
template <class Map>
torch::Tensor as_tensor(Map map) {
  using Scalar = typename Map::Scalar;
  return torch::from_blob(const_cast<Scalar*>(map.data()), {map.rows(), map.cols()}, {1, map.outerStride()},
                          detail::torch_type<Scalar>);  // torch has no read-only tensors
}

/// A CPU tensor [..., features] as tokens; the leading dimensions are flattened.
/// @throws std::invalid_argument  if this would need a copy: another device or number type, features that are not
///         contiguous, tokens that are not evenly spaced. `what` names the tensor in the message.
template <class Scalar>
Tokens<Scalar> tokens_of(const torch::Tensor& tensor, const char* what) {
  expects(tensor.defined() && tensor.dim() >= 1, what, " is undefined or has no dimension, expected [..., features]");
  expects(tensor.device().is_cpu() && tensor.layout() == torch::kStrided, what, " is not a dense CPU tensor");
  expects(tensor.scalar_type() == detail::torch_type<Scalar>, what, " holds ", c10::toString(tensor.scalar_type()),
          ", the layer ", c10::toString(detail::torch_type<Scalar>));
  Index stride = 0;
  expects(detail::find_stride(tensor, stride), what,
          ": its tokens are not evenly spaced rows of contiguous features; .contiguous() copies it");
  const Index features = tensor.size(-1);
  return {static_cast<Scalar*>(tensor.data_ptr()), features, features > 0 ? tensor.numel() / features : 0, stride};
}

/// An adapter as a torch module, for LoRA, SplitLoRA, HydraLoRA and SharedBLoRA of float, double, bfloat16 or half:
///
///   hydralora::TorchAdapter<hydralora::HydraLoRA<float>> adapter(config, /*seed=*/1);
///   y = adapter->forward(x, base->forward(x));          // adds ΔW(x) to the base's result in place
///
/// The parameters are two flat tensors over the layer's buffer: "down" (A and the gate) and "up" (B with its column
/// padding, which stays zero), for optimisers, clip_grad_norm_, torch::save. as_tensor(layer().A()) gives a matrix, and
/// peft_tensors() all of them under PEFT's names.
template <class Layer>
class TorchAdapterImpl : public torch::nn::Module {
 public:
  using Scalar = typename Layer::Scalar;          ///< of the parameters
  using Activation = typename Layer::Activation;  ///< of x and y
  using Sum = typename Layer::Sum;                ///< of `weights`
  using Config = typename Layer::Config;

  /// Initialised like a layer with this seed. Errors as in the layer's constructor.
  explicit TorchAdapterImpl(const Config& config, std::uint64_t seed = 0)
      : flat_(torch::zeros({detail::checked_shape<typename Layer::Middle>(config).parameter_count()},
                           detail::torch_type<Scalar>)),
        layer_(config, map_of<Scalar>(flat_), seed),
        undropped_(without_dropout(config), map_of<Scalar>(flat_), seed) {
    layer_.initialize();
    const auto [down_half, up_half] = halves(flat_, layer_.down_parameters().size());
    down = register_parameter("down", down_half.detach());
    up = register_parameter("up", up_half.detach());
  }

  /// y += ΔW(x) in place. @return  y, as a part of the autograd graph; once differentiable.
  /// @param x        [..., in_features], read in place.
  /// @param y        [..., out_features], with as many tokens, ADDED to in place: the base's result. Not allowed: a
  ///                 leaf that requires a gradient; a tensor whose own backward needs its values; one of several views
  ///                 made by one call (chunk, split, unbind; narrow is allowed).
  /// @param weights  [..., heads] for Routing::given, read; gets a gradient if it requires one.
  /// In training mode dropout draws from (the layer's seed, `step`), and `step` is incremented. For a gate that pools,
  /// every sequence (the last dimension but one) is a segment.
  /// @throws std::invalid_argument  on a wrong shape, or a tensor that would have to be copied; y is untouched.
  /// Cost    that of the layer; forward copies neither x nor y. Backward allocates dx and the gradients, and copies
  ///         a dy that is expanded or strided.
  torch::Tensor forward(torch::Tensor x, torch::Tensor y, torch::Tensor weights = {}) {
    const Tokens<Activation> x_tokens = tokens_of<Activation>(x, "x"), y_tokens = tokens_of<Activation>(y, "y");
    expects(!(torch::GradMode::is_enabled() && y.is_leaf() && y.requires_grad()),
            "TorchAdapter: y is a leaf that requires a gradient, and would be written in place");
    adopt_parameters();
    if (!torch::GradMode::is_enabled() && !dropping()) {
      CallOptions<Sum> options;
      std::vector<Index> segments;
      set_options(options, segments, x, weights);
      layer_.forward(x_tokens, y_tokens, options);
      y.unsafeGetTensorImpl()->bump_version();  // as torch's in-place operations do
      return y;
    }
    return Function::apply(y, x, down, up, weights.defined() ? weights : torch::empty({0}, detail::torch_type<Sum>),
                           this);
  }
  /// The layer over the same memory. This call and forward() update it after Module::load() or to().
  Layer& layer() {
    adopt_parameters();
    return layer_;
  }
  /// An independent module with the same settings, numbers, mode and step, in memory of its own, without gradients.
  /// @throws std::invalid_argument  for a device other than the CPU.
  std::shared_ptr<torch::nn::Module> clone(const c10::optional<torch::Device>& device = c10::nullopt) const override {
    expects(!device || device->is_cpu(), "TorchAdapter::clone: the layers compute on the CPU only");
    const torch::NoGradGuard no_gradients;
    const auto copy = std::make_shared<TorchAdapterImpl>(layer_.config(), layer_.seed());
    for (const auto& [to, from] : {std::pair(&copy->down, &down), std::pair(&copy->up, &up)}) {
      to->set_data(from->clone());
      to->requires_grad_(from->requires_grad());
    }
    copy->train(is_training());
    copy->step = step;
    return copy;
  }
  /// The matrices as views of the parameters' memory, in PEFT's shapes and with the names of an adapter directory
  /// (docs/files.md): base_model.model.<module>.lora_A.weight [rank, in] and so on. The settings are not among them:
  /// PEFT reads the directory that PeftWriter makes of layer().
  c10::Dict<std::string, torch::Tensor> peft_tensors(const std::string& module) {
    c10::Dict<std::string, torch::Tensor> tensors;
    detail::for_each_tensor(layer(), [&](const char* part, Index head, auto matrix) {
      tensors.insert(detail::tensor_name(module, part, head),
                     flat_.as_strided({matrix.rows(), matrix.cols()}, {1, matrix.outerStride()},
                                      matrix.data() - static_cast<const Scalar*>(flat_.data_ptr())));
    });
    return tensors;
  }
  /// Copies such tensors of `module`, of any number type, into the parameters. Those of other modules are ignored.
  /// @throws std::invalid_argument  if one is missing, has another shape, or is left over; nothing is then changed.
  void load_peft_tensors(const c10::Dict<std::string, torch::Tensor>& tensors, const std::string& module) {
    const auto own = peft_tensors(module);
    for (const auto& entry : own) {
      const auto found = tensors.find(entry.key());
      expects(found != tensors.end(), "TorchAdapter: there is no tensor ", entry.key());
      const torch::IntArrayRef sizes = found->value().sizes(), expected = entry.value().sizes();
      expects(sizes == expected, "TorchAdapter: ", entry.key(), " is ", sizes, ", expected ", expected);
    }
    for (const auto& entry : tensors) {
      const detail::TensorName name(entry.key());
      expects(name.part == detail::TensorName::Part::other || name.module != module || own.contains(entry.key()),
              "TorchAdapter: a ", layer_.shape().layer, " has no ", entry.key());
    }
    const torch::NoGradGuard no_gradients;
    for (const auto& entry : own) entry.value().copy_(tensors.at(entry.key()));
  }
  torch::Tensor down;      ///< A and the gate, flat
  torch::Tensor up;        ///< B, flat
  std::uint64_t step = 0;  ///< of dropout's random numbers

 private:
  /// The data for backward. The graph may outlive the module, so this shares ownership of the parameters' memory.
  struct Saved : torch::CustomClassHolder {
    Saved(torch::Tensor memory, const Layer& the_layer) : flat(std::move(memory)), layer(the_layer) {}
    torch::Tensor flat;
    Layer layer;  // a copy over the same memory
    typename Layer::Cache cache;
    bool wants_dx = false, wants_dweights = false;
  };

  struct Function : torch::autograd::Function<Function> {
    // y comes first: if it is a view, torch expects the modified tensor as the first argument.
    static torch::Tensor forward(torch::autograd::AutogradContext* context, torch::Tensor y, torch::Tensor x,
                                 torch::Tensor down, torch::Tensor up, torch::Tensor weights,
                                 TorchAdapterImpl* module) {
      auto saved = c10::make_intrusive<Saved>(module->flat_, module->dropping() ? module->layer_ : module->undropped_);
      CallOptions<Sum> options;
      std::vector<Index> segments;
      module->set_options(options, segments, x, weights);
      saved->layer.forward(tokens_of<Activation>(x, "x"), tokens_of<Activation>(y, "y"), saved->cache, options);
      if (module->dropping()) ++module->step;
      saved->wants_dx = x.requires_grad();
      saved->wants_dweights = weights.requires_grad();
      context->saved_data["saved"] = c10::IValue::make_capsule(std::move(saved));
      context->save_for_backward({x, down, up, weights});  // torch then detects writes to them before backward
      context->mark_dirty({y});
      return y;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   torch::autograd::variable_list upstream) {
      expects(!torch::GradMode::is_enabled(), "TorchAdapter: only once differentiable (create_graph is set)");
      const auto saved = c10::static_intrusive_pointer_cast<Saved>(context->saved_data["saved"].toCapsule());
      const auto variables = context->get_saved_variables();
      const torch::Tensor &x = variables[0], &weights = variables[3];
      torch::Tensor dy = upstream[0];
      Index stride = 0;
      if (!detail::find_stride(dy, stride)) dy = dy.contiguous();  // for example expanded by sum()

      torch::Tensor gradients = torch::zeros({saved->flat.numel()}, detail::torch_type<Sum>), dx, dweights;
      typename Layer::Gradients g(saved->layer.config(), map_of<Sum>(gradients));
      CallOptions<Sum> options;
      if (saved->wants_dweights) {
        dweights = torch::zeros(weights.sizes(), detail::torch_type<Sum>);
        options.weights_gradient = tokens_of<Sum>(dweights, "weights_gradient");
      }
      const Tokens<Activation> x_tokens = tokens_of<Activation>(x, "x"), dy_tokens = tokens_of<Activation>(dy, "dy");
      if (saved->wants_dx) {
        dx = torch::zeros(x.sizes(), detail::torch_type<Activation>);
        saved->layer.backward(x_tokens, dy_tokens, saved->cache, g, tokens_of<Activation>(dx, "dx"), options);
      } else {
        saved->layer.backward(x_tokens, dy_tokens, saved->cache, g, options);
      }
      const auto [ddown, dup] = halves(gradients, g.down_parameters().size());  // torch rounds them to 16 bits
      return {upstream[0], dx, ddown, dup, dweights, torch::Tensor()};
    }
  };

  /// For the clone() of a module that contains this one.
  void clone_(torch::nn::Module& other, const c10::optional<torch::Device>& device) override {
    const auto copy = std::dynamic_pointer_cast<TorchAdapterImpl>(other.clone(device));
    expects(copy != nullptr, "TorchAdapter::clone: the other module is not of this type");
    *this = *copy;
  }
  static Config without_dropout(Config config) { return config.dropout = 0, config; }
  template <class Number>
  static ParameterMap<Number> map_of(torch::Tensor& flat) {
    return {static_cast<Number*>(flat.data_ptr()), flat.numel()};
  }
  /// The parts "down" and "up" of a flat tensor.
  static std::pair<torch::Tensor, torch::Tensor> halves(const torch::Tensor& flat, std::int64_t down_size) {
    return {flat.narrow(0, 0, down_size), flat.narrow(0, down_size, flat.numel() - down_size)};
  }
  bool dropping() const { return is_training() && layer_.config().dropout > 0; }

  void set_options(CallOptions<Sum>& options, std::vector<Index>& segments, const torch::Tensor& x,
                   const torch::Tensor& weights) const {
    options.step = step;
    if (weights.defined() && weights.numel() > 0) options.weights = tokens_of<Sum>(weights, "weights");
    if (!layer_.shape().gate.pools() || x.dim() < 3 || x.numel() == 0) return;
    segments.assign(static_cast<std::size_t>(x.numel() / (x.size(-1) * x.size(-2))), x.size(-2));
    options.segments = segments;
  }
  /// Module::load(), to() and set_data() move a parameter to other memory. This copies it back to the layer's memory.
  void adopt_parameters() {
    const auto [down_half, up_half] = halves(flat_, layer_.down_parameters().size());
    adopt(down, down_half, "down");
    adopt(up, up_half, "up");
  }
  static void adopt(torch::Tensor& parameter, const torch::Tensor& own, const char* name) {
    if (parameter.data_ptr() == own.data_ptr() && parameter.numel() == own.numel()) return;
    expects(
        parameter.device().is_cpu() && parameter.scalar_type() == own.scalar_type() && parameter.sizes() == own.sizes(),
        "TorchAdapter: parameter ", name, " has become ", parameter.numel(), " numbers of ", parameter.toString(),
        ", the layer needs ", own.numel(), " of ", own.toString());
    const torch::NoGradGuard no_gradients;
    own.copy_(parameter);
    parameter.set_data(own);
  }
  torch::Tensor flat_;  // before the layers, which refer to its memory
  Layer layer_;
  Layer undropped_;
};

template <class Layer>
using TorchAdapter = torch::nn::ModuleHolder<TorchAdapterImpl<Layer>>;

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
