// SPDX-License-Identifier: MIT
// Parts of tokenizer.json, which know their place for messages, and what they describe: steps and regular expressions.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/io/file.hpp"
#include "hydralora/io/safetensors_header.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::detail {

/// A value in a JSON file. The file's path and the JSON must outlive it.
class Section {
 public:
  Section(const std::filesystem::path& file, std::string place, const nlohmann::json& json)
      : file_(&file), place_(std::move(place)), json_(&json) {}

  const std::filesystem::path& file() const { return *file_; }
  const std::string& place() const { return place_; }
  const nlohmann::json& json() const { return *json_; }
  [[noreturn]] void refuse(const std::string& reason) const { throw FileError(*file_, place_ + " " + reason); }
  /// Refuses the value, which the message quotes, unless the condition holds.
  void require(bool condition, const char* expected) const {
    if (!condition) refuse(std::string("is not ") + expected + ": " + found());
  }

  bool is_nothing() const { return json_->is_null(); }
  bool has(const char* key) const { return json_->is_object() && json_->contains(key); }
  /// The value of a key; null where there is none.
  Section operator[](const std::string& key) const {
    static const nlohmann::json null;
    require(json_->is_object(), "an object");
    const auto value = json_->find(key);
    return {*file_, place_.empty() ? key : place_ + "." + key, value == json_->end() ? null : *value};
  }
  std::vector<Section> list() const {
    require(json_->is_array(), "a list");
    std::vector<Section> sections;
    for (std::size_t i = 0; i < json_->size(); ++i) {
      sections.emplace_back(*file_, place_ + "[" + std::to_string(i) + "]", (*json_)[i]);
    }
    return sections;
  }
  /// @param most  bytes. What a file puts in the place of one character should be short.
  const std::string& text(std::size_t most = std::size_t{1} << 20U) const {
    require(json_->is_string(), "a string");
    const auto& text = json_->get_ref<const std::string&>();
    if (text.size() > most) refuse("has more than " + std::to_string(most) + " bytes");
    return text;
  }
  bool flag(std::optional<bool> otherwise = {}) const {
    if (otherwise && is_nothing()) return *otherwise;
    require(json_->is_boolean(), "true or false");
    return json_->get<bool>();
  }
  /// A whole number that has a successor in int: a token's id, for example.
  int integer() const {
    const bool fits = json_->is_number_unsigned() && json_->get<std::uint64_t>() < 0x7fffffffU;
    require(fits, "a whole number from 0 to 2147483646");
    return static_cast<int>(json_->get<std::uint64_t>());
  }
  /// The place of the value in the list of choices.
  std::size_t choice(const std::vector<std::string>& choices) const {
    std::string names;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      if (json_->is_string() && text() == choices[i]) return i;
      names += (i == 0 ? "" : ", ") + choices[i];
    }
    refuse("is " + found() + ", supported are " + names);
  }

 private:
  std::string found() const {
    if (json_->is_string()) return in_quotes(text());
    return is_nothing() ? "missing" : json_->is_structured() ? json_->type_name() : json_->dump();
  }

  const std::filesystem::path* file_;
  std::string place_;
  const nlohmann::json* json_;
};

/// What a part of tokenizer.json does to a text, to its pieces, or to tokens.
template <class State>
using Step = std::function<void(State&)>;
template <class State>
using StepKinds = std::vector<std::pair<std::string, Step<State> (*)(const Section&)>>;

/// The step that a part of tokenizer.json describes: none for null, one of the kinds, or a sequence of them.
/// @param list  the key under which a sequence has its steps.
/// @throws FileError  if it is not supported.
template <class State>
Step<State> make_step(const Section& place, const char* list, const StepKinds<State>& kinds) {
  if (place.is_nothing()) return [](State&) {};
  std::vector<std::string> names;
  for (const auto& kind : kinds) names.push_back(kind.first);
  names.emplace_back("Sequence");
  const std::size_t choice = place["type"].choice(names);
  if (choice < kinds.size()) return kinds[choice].second(place);
  if (place[list].json().size() > 32) place[list].refuse("has more than 32 steps");
  std::vector<Step<State>> steps;
  for (const Section& step : place[list].list()) steps.push_back(make_step(step, list, kinds));
  return [steps](State& state) {
    for (const Step<State>& step : steps) step(state);
  };
}

/// Reads a JSON file that is not trusted: limits its size and its depth.
inline nlohmann::json read_json_text(const std::filesystem::path& path) {
  constexpr std::uint64_t most_bytes = std::uint64_t{64} << 20U;
  const auto limits_depth = [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    if (depth > 32) throw FileError(path, "is nested deeper than 32");
    return true;
  };
  try {
    return nlohmann::json::parse(read_text(path, most_bytes), limits_depth);
  } catch (const nlohmann::json::exception& error) {
    throw FileError(path, std::string("is not JSON: ") + error.what());
  }
}

/// A part of a text: bytes [begin, end).
struct Match {
  std::size_t begin, end;
  bool is_match;  ///< else it lies between two matches
};

enum class Syntax { literal, pcre2, oniguruma };

/// A compiled pattern. Its matches are found in a bounded number of steps.
class Regex {
 public:
  /// A pattern is {"String": the text itself} or {"Regex": a regular expression}.
  /// @throws FileError  if it is neither or cannot be compiled, or has what Oniguruma and PCRE2 do not read alike.
  explicit Regex(const Section& place)
      : Regex(place, place[place.has("String") ? "String" : "Regex"].text(20000),
              place.has("String") ? Syntax::literal : Syntax::oniguruma) {}
  /// A pattern of this program for a part of the file.
  Regex(const Section& place, const std::string& pattern, Syntax syntax)
      : file_(place.file()), place_(place.place()), literal_(syntax == Syntax::literal) {
    if (syntax == Syntax::oniguruma) refuse_what_differs(place, pattern);
    const std::uint32_t options = literal_ ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_AUTO_CALLOUT;
    int error = 0;
    PCRE2_SIZE where = 0;
    const auto* bytes = reinterpret_cast<PCRE2_SPTR>(pattern.data());
    code_.reset(pcre2_compile(bytes, pattern.size(), PCRE2_UTF | options, &error, &where, nullptr), pcre2_code_free);
    if (!code_) place.refuse("cannot compile " + in_quotes(pattern) + ": " + message(error));
  }

  /// The matches in a text of valid UTF-8 and what lies between them; together they are the text.
  /// An empty match next to the match before it does not count.
  /// @throws FileError  if they need more than 100 n + min(4 n², 134 million) + 1000 steps for n bytes.
  std::vector<Match> find_all(std::string text) const {
    // PCRE2 takes U+180E for a blank. U+2060 is a format character as well, and has as many bytes.
    for (std::size_t at = 0; !literal_ && (at = text.find("\xE1\xA0\x8E", at)) != std::string::npos;) {
      text.replace(at, 3, "\xE2\x81\xA0");
    }
    const std::shared_ptr<pcre2_match_data> match(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
    const std::shared_ptr<pcre2_match_context> context(pcre2_match_context_create(nullptr), pcre2_match_context_free);
    pcre2_set_heap_limit(context.get(), 256U << 10U);  // KiB
    const std::uint64_t bytes = (std::min)(text.size(), std::size_t{1} << 30U);
    Budget budget{100 * bytes + (std::min)(4 * bytes * bytes, std::uint64_t{1} << 27U) + 1000, 0};
    pcre2_set_callout(context.get(), count_down, &budget);
    std::vector<Match> found;
    std::size_t done = 0;  // end of the last match
    for (std::size_t from = 0; from <= text.size();) {
      const int groups = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                     PCRE2_NO_UTF_CHECK, match.get(), context.get());
      if (groups == PCRE2_ERROR_NOMATCH) break;
      if (groups < 0) throw FileError(file_, place_ + " cannot be matched: " + message(groups));
      const std::size_t begin = pcre2_get_ovector_pointer(match.get())[0];
      const std::size_t end = pcre2_get_ovector_pointer(match.get())[1];
      if (begin < end || found.empty() || begin > done) {
        if (done < begin) found.push_back({done, begin, false});
        found.push_back({begin, end, true});
        done = end;
      }
      from = end;
      if (begin == end) {  // the next character
        do ++from;
        while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0U) == 0x80);
      }
    }
    if (done < text.size() || text.empty()) found.push_back({done, text.size(), false});
    return found;
  }

 private:
  /// Refuses parts of a pattern that are not known to have the same meaning in Oniguruma's Ruby syntax and in PCRE2.
  static void refuse_what_differs(const Section& place, const std::string& pattern) {
    static const Regex same(Section("", "", {}),
                            R"((?(DEFINE)(?<escape>\\(?:[dDsSrntf]|[^\pL\pN]|[pP]\{\^?\p{Lu}\p{Ll}?\}|x\{\w+\}))))"
                            R"((?&escape)|\[\^?(?:[^][\\&]|&(?!&)|(?&escape))+\])"  // or a class
                            R"(|\((?![?*])|\(\?(?:[:=!>]|<[=!]|i:))"                // or the start of a group
                            R"(|\{(?!,)|\}(?![+?])|[^][\\({}])",                    // or another character
                            Syntax::pcre2);
    for (const Match& part : same.find_all(pattern)) {
      if (part.is_match) continue;
      place.refuse("is " + in_quotes(pattern) + ", which is not supported from " +
                   in_quotes(pattern.substr(part.begin)) +
                   " on; supported are \\d, \\s, \\p{Lu}, \\x{41}, classes, quantifiers, groups, (?i: and lookaround");
    }
  }
  struct Budget {
    std::uint64_t steps;  // that are left
    std::size_t at;       // place in the text at the last step
  };
  /// A step is an item of a regular expression, or a byte that it passes. PCRE2's own limit starts again at every byte.
  static int count_down(pcre2_callout_block* block, void* data) {
    Budget& budget = *static_cast<Budget*>(data);
    const std::size_t passed = block->current_position - (std::min)(block->current_position, budget.at);
    budget.at = block->current_position;
    if (budget.steps <= passed) return PCRE2_ERROR_MATCHLIMIT;
    budget.steps -= passed + 1;
    return 0;
  }
  static std::string message(int error) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
  }

  std::filesystem::path file_;
  std::string place_;
  bool literal_;
  std::shared_ptr<pcre2_code> code_;
};

}  // namespace lm::detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
