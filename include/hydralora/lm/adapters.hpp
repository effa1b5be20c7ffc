// SPDX-License-Identifier: MIT
// Adapters on the linears of a decoder: which linears carry one, and one flat buffer for all parameters and gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/io/peft.hpp"
#include "hydralora/layers/hydra_lora.hpp"
#include "hydralora/layers/lora.hpp"
#include "hydralora/layers/split_lora.hpp"
#include "hydralora/lm/decoder.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

enum class Method { lora, split, split_gated, hydra };  ///< split_gated: SplitLoRA with a router per token
/// What a gate of HydraLoRA reads, none of which may see later tokens:
enum class GateKind {
  token,   ///< the token itself, as in the paper
  causal,  ///< the mean over the document's tokens up to this one
  prompt,  ///< the mean over the document's tokens before its first scored one
  given    ///< the example's group: head group % heads
};

constexpr const char* gate_names[] = {"token", "causal", "prompt", "given"};

struct AdapterOptions {
  Method method = Method::lora;
  Index rank = 8;
  double alpha = 16;
  Index heads = 3;  ///< of all but lora
  GateKind gate = GateKind::token;
  double dropout = 0;
  /// Names as PEFT takes them: "q_proj" fits every module whose name is that or ends with ".q_proj". One text with
  /// other characters is a regular expression for the whole name. Empty: all linears but lm_head ("all-linear").
  std::vector<std::string> target_modules;
  std::vector<Index> layers;  ///< only in these blocks, from 0 (layers_to_transform); empty: in all
  std::uint64_t seed = 0;

  /// PEFT's rule for a linear of this name, which is not lm_head.
  bool selects(const std::string& name) const {
    const auto& t = target_modules;
    const auto in = [&](Index layer) {
      return name.find("layers." + std::to_string(layer) + '.') != std::string::npos;
    };
    if (!layers.empty() && std::none_of(layers.begin(), layers.end(), in)) return false;
    if (t.empty() || (t.size() == 1 && t[0] == "all-linear")) return true;
    if (t.size() == 1 && t[0].find_first_of("\\^$|()[]{}*+?") != std::string::npos) {
      try {
        return std::regex_match(name, std::regex(t[0]));
      } catch (const std::regex_error& error) {
        fail("Adapters: target_modules ", t[0], " is not a regular expression: ", error.what());
      }
    }
    return std::any_of(t.begin(), t.end(),
                       [&](const std::string& one) { return hydralora::detail::means_module(one, name); });
  }
};

namespace detail {

/// A layer of any kind as LinearAdapter. Its parameters and gradients lie in the arena.
template <class Layer>
class AdapterOf final : public LinearAdapter<typename Layer::Scalar> {
 public:
  using Scalar = typename Layer::Scalar;
  using Config = typename Layer::Config;

  AdapterOf(const Config& config, ParameterMap<Scalar> parameters, ParameterMap<Scalar> gradients, std::uint64_t seed)
      : layer_(config, parameters, seed), gradients_(config, gradients) {}
  void forward(ConstTokens<Scalar> x, Tokens<Scalar> y, AdapterCache<Scalar>& cache,
               const LinearCall<Scalar>& call) const override {
    if (call.training) {
      layer_.forward(x, y, cache, call.options);
    } else {
      layer_.forward(x, y, call.options);
    }
  }
  void backward(ConstTokens<Scalar> x, ConstTokens<Scalar> dy, const AdapterCache<Scalar>& cache, Tokens<Scalar> dx,
                const LinearCall<Scalar>& call) override {
    if (dx.tokens() > 0) {
      layer_.backward(x, dy, cache, gradients_, dx, call.options);
    } else {
      layer_.backward(x, dy, cache, gradients_, call.options);
    }
  }
  void initialize() override { layer_.initialize(); }
  // Files hold real numbers; complex ones are for derivatives.
  void load([[maybe_unused]] const PeftDirectory& from, [[maybe_unused]] const std::string& module) override {
    if constexpr (std::is_floating_point_v<Scalar>) from.load_into(layer_, module);
  }
  void save([[maybe_unused]] PeftWriter& to, [[maybe_unused]] const std::string& module) const override {
    if constexpr (std::is_floating_point_v<Scalar>) {
      if constexpr (std::is_same_v<typename Layer::Middle, SplitLoRAMiddle>) {
        // The plain sum of heads is one LoRA, which every reader knows.
        if (layer_.config().routing == Routing::uniform) return to.add(module, as_lora(layer_));
      }
      to.add(module, layer_);
    }
  }
  void for_each_gradient(const std::string& module, const MatrixVisitor<Scalar>& f) const override {
    hydralora::detail::for_each_tensor(gradients_, [&](const char* part, Index head, const auto& matrix) {
      f(hydralora::detail::tensor_name(module, part, head), matrix);
    });
  }

 private:
  Layer layer_;
  typename Layer::Gradients gradients_;
};

}  // namespace detail

/// The adapters of a decoder. All parameters lie end to end in one buffer, and so do all gradients: one group for an
/// optimiser, one sum over ranks. The decoder must outlive this, and not be used after it.
template <class Scalar>
class Adapters {
 public:
  /// New adapters that add nothing yet: A and gates random, B zero.
  /// @throws std::invalid_argument  no linear is a target, or a layer refuses its settings.
  Adapters(Decoder<Scalar>& model, const AdapterOptions& options) : model_(model), gate_(options.gate) {
    model.for_each_linear([&](Linear<Scalar>& linear) {
      if (options.selects(linear.name)) plan(linear, options);
    });
    expects(!plans_.empty(), "Adapters: no linear of the model is named as in target_modules, in the given layers");
    build();
    for (const Plan& plan : plans_) plan.linear->adapter->initialize();
  }
  /// Adapters with the settings and parameters of a directory, but for the modules in `without`.
  /// @throws FileError  a module that the model has not, that has another shape, or that is a DoRA.
  Adapters(Decoder<Scalar>& model, const PeftDirectory& directory, std::uint64_t seed = 0,
           const std::set<std::string>& without = {})
      : groups(directory.groups()), model_(model), gate_(gate_named(directory.gate())) {
    for (const AdapterModule& module : directory.modules()) {
      if (without.count(module.name) > 0) continue;
      Linear<Scalar>* found = nullptr;
      model.for_each_linear([&](Linear<Scalar>& linear) {
        if (linear.name == module.name) found = &linear;
      });
      if (found == nullptr) directory.refuse(module.name, " is not a linear of the model");
      const Shape shape{module.out_features, module.in_features}, own{found->out_features(), found->in_features()};
      if (!(shape == own)) directory.refuse(module.name, " has another shape than the model's");
      plan(*found, module, seed);
    }
    build();
    try {
      for (const Plan& plan : plans_) plan.linear->adapter->load(directory, plan.linear->name);
    } catch (...) {
      remove();
      throw;
    }
  }
  ~Adapters() { remove(); }
  Adapters(const Adapters&) = delete;
  Adapters& operator=(const Adapters&) = delete;

  std::vector<std::string> groups;  ///< names of Batch::groups, saved for GateKind::given
  ParameterMap<Scalar> parameters() { return {parameters_.data(), static_cast<Index>(parameters_.size())}; }
  ParameterMap<Scalar> gradients() { return {gradients_.data(), static_cast<Index>(gradients_.size())}; }

  /// Writes an adapter directory. @throws FileError, std::invalid_argument  as PeftWriter.
  void save(const std::filesystem::path& folder, const std::string& base_model) const {
    PeftWriter writer;
    writer.base_model = base_model;
    writer.gate = gate_ == GateKind::token ? "" : gate_names[static_cast<int>(gate_)];
    if (gate_ == GateKind::given) writer.groups = groups;
    for (const Plan& plan : plans_) plan.linear->adapter->save(writer, plan.linear->name);
    writer.save(folder);
  }
  /// f(name, matrix) for every gradient, with the name that its parameter has in the file.
  void for_each_gradient(const MatrixVisitor<Scalar>& f) const {
    for (const Plan& plan : plans_) plan.linear->adapter->for_each_gradient(plan.linear->name, f);
  }

 private:
  static GateKind gate_named(const std::string& name) {
    const auto found = std::find(std::begin(gate_names), std::end(gate_names), name);
    return found == std::end(gate_names) ? GateKind::token : static_cast<GateKind>(found - std::begin(gate_names));
  }
  using Buffer = ParameterMap<Scalar>;
  struct Plan {
    Linear<Scalar>* linear;
    Index size;
    std::function<std::unique_ptr<LinearAdapter<Scalar>>(Buffer, Buffer)> make;
  };

  void remove() {
    model_.pools_prompts = model_.pools_causally = false;
    model_.given_heads = 0;
    for (const Plan& plan : plans_) plan.linear->adapter.reset();
  }
  template <class Layer>
  void add(Linear<Scalar>& linear, const typename Layer::Config& config, std::uint64_t seed) {
    const Index size = hydralora::detail::checked_shape<typename Layer::Middle>(config).parameter_count();
    plans_.push_back({&linear, size, [config, seed](Buffer parameters, Buffer gradients) {
                        return std::make_unique<detail::AdapterOf<Layer>>(config, parameters, gradients, seed);
                      }});
  }
  template <class Layer, class Settings>
  typename Layer::Config sizes(const Linear<Scalar>& linear, const Settings& settings) const {
    typename Layer::Config config;
    config.in_features = linear.in_features();
    config.out_features = linear.out_features();
    config.rank = settings.rank;
    config.alpha = settings.alpha;
    config.dropout = settings.dropout;
    if constexpr (!std::is_same_v<Layer, LoRA<Scalar>>) config.heads = settings.heads;
    return config;
  }
  void plan(Linear<Scalar>& linear, const AdapterOptions& options) {
    const std::uint64_t seed = options.seed + plans_.size();
    if (options.method == Method::lora) add<LoRA<Scalar>>(linear, sizes<LoRA<Scalar>>(linear, options), seed);
    if (options.method == Method::split || options.method == Method::split_gated) {
      auto config = sizes<SplitLoRA<Scalar>>(linear, options);
      if (options.method == Method::split_gated) config.routing = Routing::learned;
      add<SplitLoRA<Scalar>>(linear, config, seed);
    }
    if (options.method == Method::hydra)
      plan_hydra(linear, sizes<HydraLoRA<Scalar>>(linear, options), options.gate, seed);
  }
  void plan_hydra(Linear<Scalar>& linear, HydraLoRAConfig config, GateKind gate, std::uint64_t seed) {
    hydralora::detail::apply_gate(gate_names[static_cast<int>(gate)], config.routing, config.gate);
    if (gate == GateKind::given) model_.given_heads = config.heads;
    model_.pools_prompts = gate == GateKind::prompt;
    model_.pools_causally = gate == GateKind::causal;
    add<HydraLoRA<Scalar>>(linear, config, seed);
  }
  void plan(Linear<Scalar>& linear, const AdapterModule& module, std::uint64_t seed) {
    const auto with = [&](auto config) {
      config.rank_stabilized = module.rank_stabilized;
      return config;
    };
    seed += plans_.size();
    if (module.kind == AdapterKind::lora) add<LoRA<Scalar>>(linear, with(sizes<LoRA<Scalar>>(linear, module)), seed);
    if (module.kind == AdapterKind::split_lora) {
      auto config = with(sizes<SplitLoRA<Scalar>>(linear, module));
      config.routing = module.routed ? Routing::learned : Routing::uniform;
      add<SplitLoRA<Scalar>>(linear, config, seed);
    }
    if (module.kind == AdapterKind::hydra_lora) {
      plan_hydra(linear, with(sizes<HydraLoRA<Scalar>>(linear, module)), gate_, seed);
    }
  }
  /// Every layer begins at a multiple of 16 numbers, so that its rows stay aligned.
  static std::size_t padded(Index size) { return (static_cast<std::size_t>(size) + 15) / 16 * 16; }
  void build() {
    std::size_t total = 0;
    for (const Plan& plan : plans_) total += padded(plan.size);
    parameters_.assign(total, Scalar(0));
    gradients_.assign(total, Scalar(0));
    std::size_t first = 0;
    for (const Plan& plan : plans_) {
      plan.linear->adapter =
          plan.make(Buffer(parameters_.data() + first, plan.size), Buffer(gradients_.data() + first, plan.size));
      first += padded(plan.size);
    }
  }

  Decoder<Scalar>& model_;
  GateKind gate_ = GateKind::token;
  std::vector<Plan> plans_;
  AlignedVector<Scalar> parameters_, gradients_;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
