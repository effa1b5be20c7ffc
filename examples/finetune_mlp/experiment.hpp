// SPDX-License-Identifier: MIT
//
// From what was asked for to what is trained on: the texts of a run and the parts of its mixture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mixture.hpp"

namespace finetune {

/// tasks: one text under several instructions that contradict each other. domains: several texts under one instruction.
enum class MixtureKind { tasks, domains };

struct TextOptions {
  std::string base;                  ///< NAME=PATH; empty: text of this machine
  std::vector<std::string> domains;  ///< NAME=PATH each
  std::size_t max_bytes = std::size_t{1} << 20U;
};

/// [0] is what the base is pretrained on.
std::vector<Domain> load_texts(MixtureKind kind, const TextOptions& options);

/// The texts and how they are split. Mixtures hold pointers into it.
struct Corpus {
  Corpus(std::vector<Domain> texts, Index context, std::uint64_t seed);

  std::vector<Domain> domains;
  std::vector<Split> splits;

  /// What the base learns: its text as it is.
  std::vector<Part> base_part() const;
  /// The base's text under the first `count` tasks.
  std::vector<Part> task_parts(std::size_t count) const;
  /// The other texts as they are.
  std::vector<Part> domain_parts() const;
  std::vector<Part> parts(MixtureKind kind) const;
};

constexpr std::size_t default_tasks = 4;

/// Byte n-grams of random chunks of what is to be predicted, for choosing the number of heads.
Eigen::MatrixXd chunk_features(const std::vector<Part>& parts, std::uint64_t seed);

constexpr Index most_heads_from_data = 8;

/// "5.1 KiB"
std::string size_text(std::size_t bytes);

}  // namespace finetune
