// SPDX-License-Identifier: MIT
// The nodes and the tokens of a Jinja template, cut with trim_blocks and lstrip_blocks on, as transformers does.
#pragma once

#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

struct Token {
  enum class Kind { data, name, string, integer, number, symbol, end };
  Kind kind = Kind::end;
  std::string text;  ///< of a string: without quotes and escapes; {{ }} {% %} are symbols
  int line = 1;
};

struct Node;
using NodePointer = std::unique_ptr<Node>;
using Nodes = std::vector<NodePointer>;

/// An expression or a statement. `value` is of constant and data. `name` is of what has one, and the operator of unary
/// and binary, "and" and "or" too. `names` are a comparison's operators and a macro's parameters. `parts` hold:
///   list, tuple  the items                        dict         key, value, key, value …
///   attribute    object                           subscript    object, key
///   slice        object, first, behind, step      call         callee, arguments …
///   filter, test input, arguments …               keyword      the value of name=value, or of **dict without a name
///   comparison   operands                         conditional  condition, then, otherwise
///   output       one expression                   for          target, items, condition; blocks: body, otherwise
///   set          target, value, or blocks: body   if           conditions; blocks: one each, and one more for else
///   macro        defaults of the parameters; blocks: body
/// Null stands for what may be left out.
struct Node {
  Node(std::string_view node_kind, int node_line, std::string node_name = {})
      : kind(node_kind), line(node_line), name(std::move(node_name)) {}
  void add(NodePointer part) {
    if (part) height = std::max(height, part->height + 1);
    if (height > 200) throw Fault("the template has an expression nested deeper than 200");
    parts.push_back(std::move(part));
  }
  std::string_view kind;  ///< as above; also constant, variable, data, generation, break and continue
  int line, height = 0;
  std::string name;
  Value value;
  Nodes parts;
  std::vector<std::string> names;
  std::vector<Nodes> blocks;
};

class Lexer {
 public:
  /// @param line  where the lexer is, for errors
  Lexer(const std::string& source, int& line) : line_(line) {
    for (std::size_t i = 0; i < source.size(); ++i) {  // \r\n and \r are \n to Jinja
      if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
      text_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (!text_.empty() && text_.back() == '\n') text_.pop_back();
  }
  std::vector<Token> tokens() {
    while (at_ < text_.size()) outside();
    add(Token::Kind::end, {}, at_);
    return std::move(tokens_);
  }

 private:
  char peek(std::size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  bool has(std::size_t i, std::string_view word) const { return text_.compare(i, word.size(), word) == 0; }
  void move(std::size_t to) {
    const auto begin = text_.begin();
    line_ += static_cast<int>(
        std::count(begin + static_cast<std::ptrdiff_t>(at_), begin + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  /// Adds a token that ends at `end`.
  void add(Token::Kind kind, std::string text, std::size_t end) {
    tokens_.push_back({kind, std::move(text), line_});
    move(end);
  }
  std::size_t behind_space(std::size_t from) const {
    return text_.size() - strip(std::string_view(text_).substr(from), nullptr, true, false).size();
  }
  std::size_t inside(std::size_t open) const { return open + (peek(open + 2) == '-' || peek(open + 2) == '+' ? 3 : 2); }

  /// Adds the text up to a tag's opening.
  void add_data(std::size_t open) {
    std::string_view data = std::string_view(text_).substr(at_, open - at_);
    if (peek(open + 2) == '-') {
      data = strip(data, nullptr, false, true);
    } else if (peek(open + 2) != '+' && peek(open + 1) != '{') {
      const std::size_t line = data.rfind('\n') + 1;  // npos + 1 = 0
      if ((line > 0 || line_starts_) && strip(data.substr(line), nullptr, true, false).empty()) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) add(Token::Kind::data, std::string(data), at_);
    move(open);
  }

  /// Behind the end of a tag: at `close`, or at - or + and `close`. npos where there is none.
  std::size_t behind_end(std::size_t from, std::string_view close, bool trim) const {
    const char sign = peek(from);
    if (sign == '-' || (trim && sign == '+')) ++from;
    if (!has(from, close)) return std::string::npos;
    from += close.size();
    if (sign == '-') return behind_space(from);
    return from + (trim && sign != '+' && peek(from) == '\n' ? 1 : 0);
  }
  void end_tag(std::size_t behind) {
    move(behind);
    line_starts_ = text_[at_ - 1] == '\n';
  }

  void outside() {
    std::size_t open = text_.find('{', at_);
    while (open != std::string::npos && std::string_view("{%#").find(peek(open + 1)) == std::string_view::npos) {
      open = text_.find('{', open + 1);
    }
    if (open == std::string::npos) return add(Token::Kind::data, text_.substr(at_), text_.size());
    add_data(open);
    if (peek(open + 1) == '#') {
      const std::size_t close = text_.find("#}", inside(open));
      if (close == std::string::npos) throw Fault("Missing end of comment tag");
      const bool sign = close > inside(open) && (text_[close - 1] == '-' || text_[close - 1] == '+');
      return end_tag(behind_end(close - (sign ? 1 : 0), "#}", true));
    }
    if (peek(open + 1) == '%' && raw(open)) return;
    add(Token::Kind::symbol, text_.substr(open, 2), inside(open));
    tag(peek(open + 1) == '{' ? "}}" : "%}");
  }

  /// Behind a tag that holds only `word`; npos where another tag is.
  std::size_t behind_tag(std::size_t open, std::string_view word, bool trim) const {
    const std::size_t at = behind_space(inside(open));
    return has(at, word) ? behind_end(behind_space(at + word.size()), "%}", trim) : std::string::npos;
  }
  /// {% raw %} … {% endraw %}. @return  whether that is here.
  bool raw(std::size_t open) {
    const std::size_t behind = behind_tag(open, "raw", false);  // jinja2 keeps a newline here
    if (behind == std::string::npos) return false;
    end_tag(behind);
    for (open = text_.find("{%", at_); open != std::string::npos; open = text_.find("{%", open + 2)) {
      const std::size_t end = behind_tag(open, "endraw", true);
      if (end == std::string::npos) continue;
      add_data(open);
      end_tag(end);
      return true;
    }
    throw Fault("Missing end of raw directive");
  }

  void tag(std::string_view close) {
    int brackets = 0;  // inside them }} ends nothing
    while (true) {
      move(behind_space(at_));
      const std::size_t end = brackets == 0 ? behind_end(at_, close, close == "%}") : std::string::npos;
      if (end != std::string::npos) {
        add(Token::Kind::symbol, std::string(close), at_);
        return end_tag(end);
      }
      if (at_ == text_.size()) throw Fault("unexpected end of template, expected " + std::string(close));
      const char c = text_[at_];
      if (is_digit(c)) {
        number();
      } else if (is_name(c)) {
        std::size_t behind = at_;
        while (is_name(peek(behind))) ++behind;
        add(Token::Kind::name, text_.substr(at_, behind - at_), behind);
      } else if (c == '"' || c == '\'') {
        string(c);
      } else {
        const auto two = {"//", "**", "==", "!=", ">=", "<="};
        const bool pair = std::any_of(two.begin(), two.end(), [&](const char* symbol) { return has(at_, symbol); });
        if (!pair && std::string_view("+-/*%~[](){}><=.:|,").find(c) == std::string_view::npos) {
          throw Fault(std::string("unexpected char '") + c + "'");
        }
        brackets += c == '(' || c == '[' || c == '{' ? 1 : c == ')' || c == ']' || c == '}' ? -1 : 0;
        if (brackets < 0) throw Fault(std::string("unexpected '") + c + "'");
        add(Token::Kind::symbol, text_.substr(at_, pair ? 2 : 1), at_ + (pair ? 2 : 1));
      }
    }
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  // All that is not ASCII counts as a letter.
  static bool is_name(char c) {
    return is_digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           static_cast<unsigned char>(c) >= 128;
  }

  void number() {
    std::size_t end = at_;
    const auto digits = [&](std::size_t from) {
      if (is_digit(peek(from))) end = from;
      while (is_digit(peek(end))) ++end;
    };
    digits(at_);
    const std::size_t whole = end;
    if (at_ == 0 || text_[at_ - 1] != '.') {  // x.0.1 is two subscripts
      if (peek(end) == '.') digits(end + 1);
      if ((peek(end) | 0x20) == 'e') digits(end + (peek(end + 1) == '-' || peek(end + 1) == '+' ? 2 : 1));
    }
    add(end == whole ? Token::Kind::integer : Token::Kind::number, text_.substr(at_, end - at_), end);
  }

  void string(char quote) {
    std::string value;
    std::size_t i = at_ + 1;
    for (; i < text_.size() && text_[i] != quote; ++i) {
      if (text_[i] != '\\') {
        value += text_[i];
        continue;
      }
      const char c = peek(++i);
      constexpr std::string_view letters = "\\'\"abfnrtv", values = "\\'\"\a\b\f\n\r\t\v";
      if (const std::size_t which = letters.find(c); which != std::string_view::npos) {
        value += values[which];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        const std::string hex = text_.substr(i + 1, count);
        const bool good = hex.size() == count && hex.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
        const unsigned long code = good ? std::stoul(hex, nullptr, 16) : 0x110000;
        if (code > 0x10FFFF) throw Fault(std::string("wrong escape \\") + c + " in a string");
        append(value, static_cast<utf8proc_int32_t>(code));
        i += count;
      } else if (c != '\n') {
        (value += '\\') += c;
      }
    }
    if (i >= text_.size()) throw Fault("a string has no end");
    add(Token::Kind::string, value, i + 1);
  }

  std::string text_;
  int& line_;
  std::size_t at_ = 0;
  bool line_starts_ = true;  // whether the last tag ended with a newline
  std::vector<Token> tokens_;
};

/// Goes through tokens.
class TokenReader {
 public:
  /// @param line  where the reader is, for errors
  TokenReader(std::vector<Token> tokens, int& line) : tokens_(std::move(tokens)), line_(line) { line_ = now().line; }

 protected:
  const Token& now() const { return tokens_[at_]; }
  bool is(Token::Kind kind) const { return now().kind == kind; }
  /// Whether a name or a symbol is here, or some tokens ahead.
  bool at(std::string_view text, std::size_t ahead = 0) const {
    const Token& token = tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
    return (token.kind == Token::Kind::name || token.kind == Token::Kind::symbol) && token.text == text;
  }
  std::string take() {
    std::string text = now().text;
    if (at_ + 1 < tokens_.size()) ++at_;
    line_ = now().line;
    return text;
  }
  bool skip(std::string_view text) { return at(text) && (take(), true); }
  [[noreturn]] void unexpected(const std::string& wanted) const {
    throw Fault("expected " + wanted + ", got " +
                (is(Token::Kind::end) ? "the end of the template" : "'" + now().text + "'"));
  }
  void expect(std::string_view text) {
    if (!skip(text)) unexpected("'" + std::string(text) + "'");
  }
  std::string name() {
    if (!is(Token::Kind::name)) unexpected("a name");
    return take();
  }

 private:
  std::vector<Token> tokens_;
  int& line_;
  std::size_t at_ = 0;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
