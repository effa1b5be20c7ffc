// SPDX-License-Identifier: MIT
// The tokens of a Jinja template, and how a parser goes through them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
/// A template that is wrong, or that raises an error. what() begins with the template's name and the line.
class TemplateError : public std::runtime_error {
 public:
  TemplateError(const std::string& name, int line, const std::string& reason)
      : std::runtime_error(name + ", line " + std::to_string(line) + ": " + reason), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

namespace jinja {

struct Token {
  enum class Kind { data, output_begin, output_end, tag_begin, tag_end, name, string, integer, number, symbol, end };
  Kind kind = Kind::end;
  std::string text;  ///< of a string: without quotes and escapes
  int line = 1;
};

/// The current token, and steps over it.
class TokenReader {
 public:
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  int line() const { return now().line; }

 protected:
  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool at_symbol(const char* text) const { return now().kind == Token::Kind::symbol && now().text == text; }
  bool at_name(const char* text) const { return now().kind == Token::Kind::name && now().text == text; }
  bool skip_symbol(const char* text) { return at_symbol(text) && ++at_ > 0; }
  bool skip_name(const char* text) { return at_name(text) && ++at_ > 0; }
  [[noreturn]] void unexpected(const std::string& wanted) const {
    static constexpr const char* ends[] = {"text", "{{", "}}", "{%", "%}"};
    const auto kind = static_cast<std::size_t>(now().kind);
    const std::string got = now().kind == Token::Kind::end ? "the end of the template"
                            : kind < 5                     ? ends[kind]
                                                           : "'" + now().text + "'";
    throw Fault("expected " + wanted + ", got " + got);
  }
  void expect(const char* symbol) {
    if (!skip_symbol(symbol)) unexpected("'" + std::string(symbol) + "'");
  }
  void expect_name(const char* name) {
    if (!skip_name(name)) unexpected("'" + std::string(name) + "'");
  }
  std::string expect_name() {
    if (now().kind != Token::Kind::name) unexpected("a name");
    return tokens_[at_++].text;
  }
  void expect_end(Token::Kind kind) {
    if (now().kind != kind) unexpected(kind == Token::Kind::tag_end ? "%}" : "}}");
    ++at_;
  }
  /// Counts how deep the parser has called itself.
  struct Depth {
    explicit Depth(int& count) : count_(count) {
      if (++count_ > 100) throw Fault("the template is nested deeper than 100");
    }
    ~Depth() { --count_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    int& count_;
  };

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
