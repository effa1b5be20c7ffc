// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "hydralora/lm/generate.hpp"
#include "model.hpp"

namespace finetune_lm {

struct EvaluateOptions {
  ModelOptions model;
  std::vector<std::string> data;
  Index max_length = 1024, max_tokens = 32;
  bool json = false, per_example = false;
};
void evaluate(EvaluateOptions options);

struct GenerateOptions {
  ModelOptions model;
  std::string prompt, messages, group;
  bool chat = false, ignore_eos = false, json = false;
  lm::GenerationOptions generation;
};
void generate(GenerateOptions options);

struct ChatOptions {
  ModelOptions model;
  std::string group;
  lm::GenerationOptions generation;
};
/// Answers lines of the standard input.
void chat(ChatOptions options);

struct TokenizeOptions {
  ModelOptions model;
  std::string texts, ids, chats;
};
void tokenize(TokenizeOptions options);

struct LogitsOptions {
  ModelOptions model;
  std::string batch, out, method;
  bool gradients = false;
};
void logits(LogitsOptions options);

struct InfoOptions {
  ModelOptions model;
  Index rank = 8, heads = 3, tokens = 512;
  bool tensors = false;
};
void info(InfoOptions options);

struct ReportOptions {
  ModelOptions model;
  std::vector<std::string> data;
  Index examples = 100, max_length = 1024, max_tokens = 32;
};
/// Writes report.html into the run, which is the adapter's folder.
void report(ReportOptions options);

struct ExportOptions {
  ModelOptions model;
  std::string to, out, type;
  bool approximate = false;
  std::vector<std::string> data;
};
void export_model(ExportOptions options);

}  // namespace finetune_lm
