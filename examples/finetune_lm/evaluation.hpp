// SPDX-License-Identifier: MIT
// How well a model does on examples.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model.hpp"

namespace finetune_lm {

/// Of all examples of a group.
struct GroupResult {
  double loss = 0;               ///< sum over the scored tokens
  double scored = 0, bytes = 0;  ///< tokens, and bytes of their text where there is a tokenizer
  double right = 0, answers = 0;
  std::vector<double> losses;  ///< mean over the tokens of each example
  std::vector<int> rights;     ///< of each example that has a prompt: whether greedy decoding gives its answer
};

/// The examples of files. @param groups  names of the adapter's groups for GateKind::given, or none.
/// @throws std::invalid_argument  there is no example, or one of another group
lm::ExampleFile read_examples(const std::vector<std::string>& files, Text& text, Index max_length,
                              const std::vector<std::string>& groups);

/// @throws std::invalid_argument  the file begins with these groups and has more. No groups: nothing is checked.
void check_groups(const lm::ExampleFile& file, const std::vector<std::string>& groups);

/// What greedy decoding says in the place of an example's first answer.
std::string answer_of(lm::Decoder<float>& model, Text& text, const lm::Example& example, Index max_tokens);
/// The example's text before its first answer, and that answer.
std::pair<std::string, std::string> texts_of(Text& text, const lm::Example& example);

/// By the names of groups; "all" has every example, "" those without a group.
/// @param max_tokens  of an answer, at least those of the right one.
std::map<std::string, GroupResult> evaluate_examples(lm::Decoder<float>& model, Text& text, const lm::ExampleFile& file,
                                                     Index max_tokens);

/// Without blanks at both ends.
std::string stripped(const std::string& text);

}  // namespace finetune_lm
