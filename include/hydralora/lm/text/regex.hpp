// SPDX-License-Identifier: MIT
// Regular expressions of tokenizer.json, over PCRE2. The files are written for Oniguruma, whose classes differ.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/lm/text/section.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

/// A part of a text: bytes [begin, end).
struct Match {
  std::size_t begin, end;
  bool is_match;  ///< else it lies between two matches
};

/// Writes a pattern of Oniguruma's Ruby syntax for PCRE2, or refuses what has another meaning there.
class PatternTranslation {
 public:
  PatternTranslation(const Section& place, const std::string& pattern) : place_(place), pattern_(pattern) {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\') {
        escape();
      } else if (in_class_) {
        inside_class();
      } else {
        outside_class();
      }
    }
  }
  std::string result;

 private:
  [[noreturn]] void refuse(const std::string& what) const { place_.refuse(in_quotes(pattern_) + ": " + what); }
  bool next_is(std::string_view text) const { return pattern_.compare(at_, text.size(), text) == 0; }
  void copy(std::size_t count) {
    result.append(pattern_, at_, count);
    at_ += count;
  }
  /// A class of characters, or with `negated` its complement. `more` belongs to it only where it stands alone.
  void add_class(const char* members, bool negated, const char* more = "") {
    if (in_class_ && negated) refuse("\\W in a class is not supported");
    result += in_class_ ? members : std::string(negated ? "[^" : "[") + members + more + "]";
  }
  void escape() {
    // PCRE2's \s has U+180E. Its \w has no marks, no connectors but _, and not all that is alphabetic.
    constexpr const char* space =
        R"(\x09-\x0d \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
    constexpr const char* not_space =
        R"(\x00-\x08\x0e-\x1f!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
        R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{d7ff}\x{e000}-\x{10ffff})";
    constexpr const char* word =
        R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
    const char letter = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    if (letter == 'p' || letter == 'P') return property();
    if (letter == 'u') {
      if (at_ + 6 > pattern_.size()) refuse("\\u without four digits");
      result += "\\x{" + pattern_.substr(at_ + 2, 4) + "}";
      at_ += 6;
      return;
    }
    if (letter == 'x' && pattern_.compare(at_ + 2, 1, "{") == 0) return copy(pattern_.find('}', at_) - at_ + 1);
    if (std::string_view("hHbBvVNQEC").find(letter) != std::string::npos)
      refuse(std::string("\\") + letter + " is not supported");
    if (letter == 's') {
      add_class(space, false);
    } else if (letter == 'S') {
      in_class_ ? add_class(not_space, false) : add_class(space, true);
    } else if (letter == 'w' || letter == 'W') {
      add_class(word, letter == 'W', R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})");
    } else {
      return copy(2);
    }
    at_ += 2;
  }
  /// \p{Han} means the script alone. Names of one or two letters are categories, the same in both.
  void property() {
    const std::size_t end = pattern_.find('}', at_);
    if (pattern_.compare(at_ + 2, 1, "{") != 0 || end == std::string::npos) return copy(2);
    std::string name = pattern_.substr(at_ + 3, end - at_ - 3);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.erase(0, 1);
    constexpr std::array<std::string_view, 5> no_scripts{"Any", "Alphabetic", "Lowercase", "Uppercase", "Emoji"};
    const bool script = name.size() > 2 && std::find(no_scripts.begin(), no_scripts.end(), name) == no_scripts.end();
    result += pattern_.substr(at_, 3) + (negated ? "^" : "") + (script ? "sc:" : "") + name + "}";
    at_ = end + 1;
  }
  void inside_class() {
    if (pattern_[at_] == '[' || next_is("&&")) refuse("a class inside a class is not supported");
    in_class_ = pattern_[at_] != ']';
    copy(1);
  }
  void outside_class() {
    if (pattern_[at_] == '[') {
      in_class_ = true;
      copy(next_is("[^]") ? 3 : next_is("[]") || next_is("[^") ? 2 : 1);
      return;
    }
    for (const char* text : {"(*", "(?#", "{,", "}+"}) {
      if (next_is(text)) refuse(text + std::string(" is not supported"));
    }
    if (next_is("(?")) {
      const std::size_t end = pattern_.find_first_not_of("imxsuad-", at_ + 2);
      const bool sets_options = end != std::string::npos && (pattern_[end] == ':' || pattern_[end] == ')');
      const bool sets_others = sets_options && pattern_.find_first_of("mxsuad", at_ + 2) < end;
      if (sets_others) refuse("of the options, only i is supported");
    }
    copy(1);
  }

  const Section& place_;
  const std::string& pattern_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

/// A compiled pattern. Its matches are found in a bounded number of steps.
class Regex {
 public:
  /// A pattern is {"String": the text itself} or {"Regex": a regular expression}.
  /// @throws FileError  if it is neither or cannot be compiled.
  explicit Regex(const Section& place) : file_(place.file()), place_(place.place()) {
    const bool literal = place.has("String");
    if (!literal && !place.has("Regex")) place.refuse("is neither a String nor a Regex");
    const std::string& pattern = place[literal ? "String" : "Regex"].text();
    const std::string translated = literal ? pattern : PatternTranslation(place, pattern).result;
    const std::uint32_t options =
        PCRE2_UTF | PCRE2_AUTO_CALLOUT | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
    int error = 0;
    PCRE2_SIZE where = 0;
    const std::unique_ptr<pcre2_compile_context, Free> context(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context.get(), 100);
    pcre2_set_max_pattern_length(context.get(), 20000);
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options, &error,
                              &where, context.get()),
                Free());
    if (!code_) place.refuse("cannot compile " + in_quotes(pattern) + ": " + message(error));
  }

  /// The matches in a text of valid UTF-8 and what lies between them; together they are the text.
  /// An empty match next to the match before it does not count.
  /// @throws FileError  if they need more than 100 n + min(4 n², 134 million) + 1000 steps for n bytes.
  std::vector<Match> find_all(const std::string& text) const {
    const std::unique_ptr<pcre2_match_data, Free> match(pcre2_match_data_create(1, nullptr));
    const std::unique_ptr<pcre2_match_context, Free> context(pcre2_match_context_create(nullptr));
    pcre2_set_heap_limit(context.get(), 256U << 10U);  // KiB
    const std::uint64_t bytes = std::min(text.size(), std::size_t{1} << 30U);
    Budget budget{100 * bytes + std::min(4 * bytes * bytes, std::uint64_t{1} << 27U) + 1000, 0};
    pcre2_set_callout(context.get(), count_down, &budget);
    std::vector<Match> found;
    std::size_t done = 0;  // end of the last match
    bool has_match = false;
    for (std::size_t from = 0; from <= text.size();) {
      const int groups = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                     PCRE2_NO_UTF_CHECK, match.get(), context.get());
      if (groups == PCRE2_ERROR_NOMATCH) break;
      if (groups < 0) throw FileError(file_, place_ + " cannot be matched: " + message(groups));
      const std::size_t begin = pcre2_get_ovector_pointer(match.get())[0];
      const std::size_t end = pcre2_get_ovector_pointer(match.get())[1];
      if (begin < done || end < begin) throw FileError(file_, place_ + " has a match that runs backwards");
      if (begin < end || !has_match || begin > done) {
        if (done < begin) found.push_back({done, begin, false});
        found.push_back({begin, end, true});
        done = end;
        has_match = true;
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
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  struct Budget {
    std::uint64_t steps;  // that are left
    std::size_t at;       // place in the text at the last step
  };
  /// Called before each item of the pattern. A step is an item, or a byte that an item has passed. PCRE2's own limit
  /// starts again at every byte of the text.
  static int count_down(pcre2_callout_block* block, void* data) {
    Budget& budget = *static_cast<Budget*>(data);
    const std::size_t passed = block->current_position - std::min(block->current_position, budget.at);
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
  std::shared_ptr<pcre2_code> code_;
};

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
