// SPDX-License-Identifier: MIT
#include "evaluation.hpp"

#include <algorithm>
#include <filesystem>

#include "hydralora/lm/generate.hpp"

namespace finetune_lm {
namespace {

/// Tokens [begin, end) of an example's first answer; begin is 1 or less where there is no prompt.
struct Answer {
  std::size_t begin = 1, end = 1;

  explicit Answer(const lm::Example& e) {
    const auto scored = [&](std::size_t t) { return e.labels[t] != lm::not_scored; };
    while (begin < e.ids.size() && !scored(begin)) ++begin;
    end = begin;
    while (end < e.ids.size() && scored(end)) ++end;
  }
};
std::vector<int> part(const std::vector<int>& ids, std::size_t begin, std::size_t end) {
  return {ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end)};
}

}  // namespace

std::string stripped(const std::string& text) {
  const char* blanks = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(blanks);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

lm::ExampleFile read_examples(const std::vector<std::string>& files, Text& text, Index max_length,
                              const std::vector<std::string>& groups) {
  lm::ExampleFile all;
  all.groups = groups;
  for (const std::string& path : files) all.read(path, text.functions(), max_length, false);
  if (all.examples.empty()) throw std::invalid_argument("--data has no example with a trained token");
  check_groups(all, groups);
  return all;
}

void check_groups(const lm::ExampleFile& file, const std::vector<std::string>& groups) {
  if (groups.empty() || file.groups.size() == groups.size()) return;
  std::string names;
  for (const std::string& name : groups) names += (names.empty() ? "" : ", ") + ('"' + name + '"');
  throw std::invalid_argument("the data has the group \"" + file.groups[groups.size()] +
                              "\", and the adapter has heads for " + names);
}

std::pair<std::string, std::string> texts_of(Text& text, const lm::Example& e) {
  const Answer answer(e);
  return {text.decode(part(e.ids, 0, answer.begin), true), text.decode(part(e.ids, answer.begin, answer.end), true)};
}

std::string answer_of(lm::Decoder<float>& model, Text& text, const lm::Example& e, Index max_tokens) {
  const Answer answer(e);
  lm::GenerationOptions g;
  g.max_tokens = std::max<Index>(max_tokens, static_cast<Index>(answer.end - answer.begin) + 1);
  g.end_tokens = text.end_tokens();
  g.group = e.group;
  return text.decode(lm::Generator<float>(model).generate(part(e.ids, 0, answer.begin), g), true);
}

namespace {

/// Whether greedy decoding gives an example's first answer.
/// @param best  the most probable tokens in the place of the answer's, each behind the right ones before it. They
///              decide in most cases. Text is generated for the others, such as a longer or another spelling.
bool answers_right(lm::Decoder<float>& model, Text& text, const lm::Example& e, Index max_tokens,
                   const std::vector<int>& best) {
  const Answer answer(e);
  const std::vector<int> ids = part(e.ids, answer.begin, answer.end), ends = text.end_tokens();
  const auto is_end = [&](int token) { return std::find(ends.begin(), ends.end(), token) != ends.end(); };
  const std::string right = stripped(text.decode(ids, true));
  std::size_t same = 0;
  while (same < ids.size() && best[same] == ids[same] && !is_end(ids[same])) ++same;
  if (same < ids.size()) {
    std::vector<int> said(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(same));
    if (is_end(best[same])) return stripped(text.decode(said, true)) == right;
    said.push_back(best[same]);
    const std::string begins = stripped(text.decode(said, true));
    const bool whole = begins.find("\xEF\xBF\xBD") == std::string::npos;  // else a character may be cut
    if (whole && right.compare(0, begins.size(), begins) != 0) return false;
  }
  return stripped(answer_of(model, text, e, max_tokens)) == right;
}

}  // namespace

std::map<std::string, GroupResult> evaluate_examples(lm::Decoder<float>& model, Text& text, const lm::ExampleFile& file,
                                                     Index max_tokens) {
  std::map<std::string, GroupResult> groups;
  for (const lm::Example& e : file.examples) {
    lm::Batch batch;
    batch.add(e.ids, e.labels, e.group);
    GroupResult one;
    std::vector<int> best;
    one.loss = model.loss(batch, &best);
    one.scored = static_cast<double>(batch.scored().size());
    if (text.decodes()) {
      std::vector<int> all_scored;
      for (std::size_t t = 1; t < e.ids.size(); ++t) {
        if (e.labels[t] != lm::not_scored) all_scored.push_back(e.ids[t]);
      }
      one.bytes = static_cast<double>(text.decode(all_scored, true).size());
    }
    if (text.decodes() && Answer(e).begin > 1) {
      one.answers = 1;
      one.right = answers_right(model, text, e, max_tokens, best) ? 1 : 0;
    }
    for (const std::string& name : {std::string("all"), file.groups[static_cast<std::size_t>(e.group)]}) {
      GroupResult& to = groups[name];
      to.loss += one.loss, to.scored += one.scored, to.bytes += one.bytes;
      to.right += one.right, to.answers += one.answers;
      to.losses.push_back(one.loss / one.scored);
      if (one.answers > 0) to.rights.push_back(static_cast<int>(one.right));
    }
  }
  return groups;
}

}  // namespace finetune_lm
