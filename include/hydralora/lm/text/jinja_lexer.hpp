// SPDX-License-Identifier: MIT
// Cuts a Jinja template into tokens, with trim_blocks and lstrip_blocks on, as transformers sets them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_token.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

namespace jinja {

class Lexer {
 public:
  /// @throws Fault  at a character or an end that fits nothing; line() then gives where.
  explicit Lexer(const std::string& source) {
    for (std::size_t i = 0; i < source.size(); ++i) {  // \r\n and \r are \n to Jinja
      if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
      text_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (!text_.empty() && text_.back() == '\n') text_.pop_back();
  }
  std::vector<Token> tokens() {
    while (at_ < text_.size()) outside();
    add(Token::Kind::end, {});
    return std::move(tokens_);
  }
  int line() const { return line_; }

 private:
  bool at(std::string_view word) const { return text_.compare(at_, word.size(), word) == 0; }
  void move(std::size_t to) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  void add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  std::size_t behind_space(std::size_t from) const {
    for (std::size_t next = from; from < text_.size() && is_space(code_point(text_, next)); from = next) {
    }
    return from;
  }

  /// Adds the text before a tag. `sign` is the character behind the tag's opening.
  void add_data(std::string_view data, char sign, bool may_strip) {
    if (sign == '-') {
      data = strip(data, nullptr, false, true);
    } else if (sign != '+' && may_strip) {
      const std::size_t line = data.rfind('\n') + 1;  // npos + 1 = 0
      if ((line > 0 || line_starts_) && strip(data.substr(line), nullptr, true, false).empty()) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) add(Token::Kind::data, std::string(data));
  }

  /// Behind the end of a tag: at `close`, or at - or + and `close`. npos where there is none.
  std::size_t behind_end(std::size_t from, std::string_view close, bool trim, bool plus) const {
    const char sign = from < text_.size() ? text_[from] : '\0';
    const bool minus = sign == '-';
    if (minus || (plus && sign == '+')) ++from;
    if (text_.compare(from, close.size(), close) != 0) return std::string::npos;
    from += close.size();
    if (minus) return behind_space(from);
    return trim && sign != '+' && from < text_.size() && text_[from] == '\n' ? from + 1 : from;
  }

  void outside() {
    std::size_t open = text_.find('{', at_);
    while (open != std::string::npos && std::string_view("{%#").find(text_[open + 1]) == std::string_view::npos) {
      open = text_.find('{', open + 1);  // text_[size()] is a zero
    }
    if (open == std::string::npos) {
      add(Token::Kind::data, text_.substr(at_));
      return move(text_.size());
    }
    const char type = text_[open + 1];
    const char sign = open + 2 < text_.size() ? text_[open + 2] : '\0';
    add_data(std::string_view(text_).substr(at_, open - at_), sign, type != '{');
    move(open);
    const std::size_t inside = open + (sign == '-' || sign == '+' ? 3 : 2);
    if (type == '#') return comment(inside);
    if (type == '%' && raw(inside)) return;
    add(type == '{' ? Token::Kind::output_begin : Token::Kind::tag_begin, {});
    move(inside);
    tag(type == '{' ? "}}" : "%}", type == '{' ? Token::Kind::output_end : Token::Kind::tag_end);
  }

  void comment(std::size_t from) {
    const std::size_t close = text_.find("#}", from);
    if (close == std::string::npos) throw Fault("Missing end of comment tag");
    const bool sign = close > from && (text_[close - 1] == '-' || text_[close - 1] == '+');
    move(behind_end(close - (sign ? 1 : 0), "#}", true, true));
    line_starts_ = text_[at_ - 1] == '\n';
  }

  /// {% raw %} … {% endraw %} at `from`, where the word raw must stand. @return  whether it does.
  bool raw(std::size_t from) {
    from = behind_space(from);
    if (text_.compare(from, 3, "raw") != 0) return false;
    from = behind_end(behind_space(from + 3), "%}", false, false);
    if (from == std::string::npos) return false;
    line_starts_ = text_[from - 1] == '\n';
    for (std::size_t open = text_.find("{%", from); open != std::string::npos; open = text_.find("{%", open + 2)) {
      const char sign = open + 2 < text_.size() ? text_[open + 2] : '\0';
      const std::size_t word = behind_space(open + (sign == '-' || sign == '+' ? 3 : 2));
      if (text_.compare(word, 6, "endraw") != 0) continue;
      const std::size_t end = behind_end(behind_space(word + 6), "%}", true, true);
      if (end == std::string::npos) continue;
      add_data(std::string_view(text_).substr(from, open - from), sign, true);
      move(end);
      line_starts_ = text_[at_ - 1] == '\n';
      return true;
    }
    throw Fault("Missing end of raw directive");
  }

  void tag(std::string_view close, Token::Kind end_kind) {
    std::string open;  // the brackets that wait for their partner: inside them }} ends nothing
    while (true) {
      move(behind_space(at_));
      if (open.empty()) {
        const std::size_t end = behind_end(at_, close, close == "%}", close == "%}");
        if (end != std::string::npos) {
          add(end_kind, {});
          move(end);
          line_starts_ = text_[at_ - 1] == '\n';
          return;
        }
      }
      if (at_ == text_.size()) throw Fault("unexpected end of template, expected " + std::string(close));
      const char c = text_[at_];
      if (is_digit(c)) {
        number();
      } else if (is_name(c)) {
        std::size_t end = at_;
        while (end < text_.size() && is_name(text_[end])) ++end;
        add(Token::Kind::name, text_.substr(at_, end - at_));
        move(end);
      } else if (c == '"' || c == '\'') {
        string(c);
      } else {
        symbol(open);
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
    std::string digits;
    std::size_t end = at_;
    const auto take = [&](auto&& fits) {
      for (; end < text_.size(); ++end) {
        const bool underscore = text_[end] == '_' && end + 1 < text_.size() && fits(text_[end + 1]);
        if (!underscore && !fits(text_[end])) break;
        if (!underscore) digits += text_[end];
      }
    };
    if (text_[at_] == '0' && at_ + 1 < text_.size() && std::string_view("bBoOxX").find(text_[at_ + 1]) < 6) {
      digits = {'0', static_cast<char>(text_[at_ + 1] | 0x20)};
      end += 2;
      take([](char c) { return std::string_view("0123456789abcdefABCDEF").find(c) != std::string_view::npos; });
      add(Token::Kind::integer, digits);
      return move(end);
    }
    take(is_digit);
    Token::Kind kind = Token::Kind::integer;
    const auto digit_at = [&](std::size_t i) { return i < text_.size() && is_digit(text_[i]); };
    const bool behind_dot = at_ > 0 && text_[at_ - 1] == '.';  // x.0.1 is two subscripts
    if (!behind_dot && end < text_.size() && text_[end] == '.' && digit_at(end + 1)) {
      kind = Token::Kind::number;
      digits += text_[end++];
      take(is_digit);
    }
    if (!behind_dot && end < text_.size() && (text_[end] | 0x20) == 'e') {
      const std::size_t sign = end + 1 < text_.size() && (text_[end + 1] == '-' || text_[end + 1] == '+') ? 1 : 0;
      if (digit_at(end + 1 + sign)) {
        kind = Token::Kind::number;
        digits += text_.substr(end, 1 + sign);
        end += 1 + sign;
        take(is_digit);
      }
    }
    add(kind, digits);
    move(end);
  }

  void string(char quote) {
    std::string value;
    std::size_t i = at_ + 1;
    for (; i < text_.size() && text_[i] != quote; ++i) {
      if (text_[i] != '\\' || i + 1 >= text_.size()) {
        value += text_[i];
        continue;
      }
      constexpr std::string_view letters = "\n\\'\"abfnrtv";
      constexpr std::array<const char*, 11> values = {"", "\\", "'", "\"", "\a", "\b", "\f", "\n", "\r", "\t", "\v"};
      const char c = text_[++i];
      if (const std::size_t which = letters.find(c); which != std::string_view::npos) {
        value += values[which];
      } else if (c >= '0' && c <= '7') {
        std::uint32_t code = 0;
        const std::size_t stop = std::min(i + 3, text_.size());
        for (; i < stop && text_[i] >= '0' && text_[i] <= '7'; ++i)
          code = code * 8 + static_cast<unsigned>(text_[i] - '0');
        --i;
        append(value, code);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        const std::string hex = text_.substr(i + 1, count);
        const bool good = hex.size() == count && hex.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
        const unsigned long code = good ? std::stoul(hex, nullptr, 16) : 0x110000;
        if (code > 0x10FFFF) throw Fault(std::string("wrong escape \\") + c + " in a string");
        append(value, static_cast<std::uint32_t>(code));
        i += count;
      } else if (c == 'N') {
        throw Fault("\\N{…} in a string is not supported");
      } else {
        value += '\\';
        value += c;
      }
    }
    if (i >= text_.size()) throw Fault("a string has no end");
    add(Token::Kind::string, value);
    move(i + 1);
  }

  void symbol(std::string& open) {
    for (const char* two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!at(two)) continue;
      add(Token::Kind::symbol, two);
      return move(at_ + 2);
    }
    const char c = text_[at_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      throw Fault("unexpected char " + std::string("'") + c + "'");
    }
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) throw Fault("unexpected '" + std::string(1, c) + "'");
      open.pop_back();
    }
    add(Token::Kind::symbol, std::string(1, c));
    move(at_ + 1);
  }

  std::string text_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starts_ = true;  // whether the last match ended with a newline
  std::vector<Token> tokens_;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
