// SPDX-License-Identifier: MIT
//
// Every kind of layer, so that a test or a law is written once and runs on all of them.
#pragma once

#include <string>

#include "support/shapes.hpp"

namespace support {

enum class Kind { lora, split_uniform, split_learned, split_given, hydra, shared_b, shared_b_given };
inline constexpr Kind all_kinds[] = {Kind::lora,  Kind::split_uniform, Kind::split_learned, Kind::split_given,
                                     Kind::hydra, Kind::shared_b,      Kind::shared_b_given};

inline const char* name(Kind kind) {
  switch (kind) {
    case Kind::lora:
      return "LoRA";
    case Kind::split_uniform:
      return "SplitLoRA uniform";
    case Kind::split_learned:
      return "SplitLoRA learned";
    case Kind::split_given:
      return "SplitLoRA given";
    case Kind::hydra:
      return "HydraLoRA";
    case Kind::shared_b:
      return "SharedBLoRA";
    case Kind::shared_b_given:
      return "SharedBLoRA given";
  }
  return "";
}

/// A layer with all parameters random (B too, or nothing but B would have a gradient), handed to f by reference.
template <class Scalar, class Function>
void with_layer(Kind kind, const LayerShape& s, double dropout, std::uint64_t seed, Function&& f) {
  using namespace hydralora;
  const auto run = [&](auto layer) {
    layer.parameters() = Scalar(0.5) * random_matrix<Scalar>(layer.parameter_count(), 1, seed);
    f(layer);
  };
  const auto split = [&](Routing routing) {
    run(SplitLoRA<Scalar>(SplitLoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout, s.heads, routing}, seed));
  };
  const auto shared_b = [&](Routing routing) {
    run(SharedBLoRA<Scalar>(SharedBLoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout, s.heads, routing}, seed));
  };
  switch (kind) {
    case Kind::lora:
      return run(LoRA<Scalar>(LoRAConfig{s.in, s.out, s.rank, 3.0, false, dropout}, seed));
    case Kind::split_uniform:
      return split(Routing::uniform);
    case Kind::split_learned:
      return split(Routing::learned);
    case Kind::split_given:
      return split(Routing::given);
    case Kind::hydra:
      return run(HydraLoRA<Scalar>(HydraLoRAConfig{s.in, s.out, s.rank, 3.0, true, dropout, s.heads}, seed));
    case Kind::shared_b:
      return shared_b(Routing::learned);
    case Kind::shared_b_given:
      return shared_b(Routing::given);
  }
}

inline bool takes_weights(Kind kind) { return kind == Kind::split_given || kind == Kind::shared_b_given; }

/// Random weights where the kind wants them from the caller, else an empty matrix.
template <class Scalar>
Matrix<Scalar> given_weights(Kind kind, const LayerShape& s, std::uint64_t seed) {
  if (!takes_weights(kind)) return {};
  return random_matrix<Scalar>(s.heads, s.tokens, seed);
}

}  // namespace support
