// SPDX-License-Identifier: MIT
// Cuts a Jinja template into text and tags, with trim_blocks and lstrip_blocks on as in transformers, and reads words.
#pragma once

#include "hydralora/lm/text/jinja_operators.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

class Scanner {
 public:
  explicit Scanner(const std::string& source) : text_(replace(to_utf8(detail::to_characters(source)), "\r\n", "\n")) {
    std::replace(text_.begin(), text_.end(), '\r', '\n');
    if (ends(text_, "\n")) text_.pop_back();
  }
  /// The line of the last word that was read.
  int line() const { return 1 + static_cast<int>(std::count(text_.begin(), text_.begin() + offset(read_), '\n')); }

 protected:
  /// The text up to the next {{ or {%, which is taken: then tag_ is } or %, and 0 at the end of the template.
  std::string data() {
    std::string all;
    while (true) {
      std::size_t open = text_.find('{', at_);
      while (open < text_.size() && std::string_view("{%#").find(peek(open + 1)) == std::string_view::npos) {
        open = text_.find('{', open + 1);
      }
      open = (std::min)(open, text_.size());
      std::size_t end = open;  // of the text
      const char sign = peek(open + 2);
      tag_ = peek(open + 1);
      if (sign == '-') {
        end = detail::start_of_blanks(text_, open, at_);
      } else if (sign != '+' && (tag_ == '%' || tag_ == '#')) {
        const std::size_t line = open == 0 ? 0 : text_.rfind('\n', open - 1) + 1;  // npos + 1 = 0
        if (line >= at_ && detail::end_of_blanks(text_, line) >= open) end = line;
      }
      all += text_.substr(at_, end - at_);
      take((std::min)(text_.size(), open + (sign == '-' || sign == '+' ? 3 : 2)));
      if (tag_ == '{') tag_ = '}';
      if (tag_ != '#') return all;
      const std::size_t close = text_.find("#}", at_);
      if (close == std::string::npos) throw Fault("Missing end of comment tag");
      at_ = close > at_ && (text_[close - 1] == '-' || text_[close - 1] == '+') ? close - 1 : close;
      end_tag();
    }
  }

  /// Whether a tag ends here: at }} or -}}, and %} may have + before it as well.
  bool at_end() const {
    const char sign = peek(at_);
    const std::size_t i = at_ + (sign == '-' || (sign == '+' && tag_ != '}') ? 1 : 0);
    return peek(i) == tag_ && peek(i + 1) == '}';
  }
  /// Takes the end of a tag, and the white space that goes with it.
  void end_tag() {
    if (!at_end()) unexpected(std::string("'") + tag_ + "}'");
    const char sign = text_[at_];
    at_ += sign == tag_ ? 2 : 3;
    if (sign == '-') take(at_);
    if (sign == tag_ && tag_ != '}' && peek(at_) == '\n') ++at_;
  }

  bool at_digit() const { return is_digit(peek(at_)); }
  bool at_name() const { return is_name(peek(at_)) && !at_digit(); }
  bool at_quote() const { return peek(at_) == '"' || peek(at_) == '\''; }
  /// Whether this word or symbol is here.
  bool at(std::string_view word) const {
    return begins(rest(), word) && !(is_name(word.back()) && is_name(peek(at_ + word.size())));
  }
  bool skip(std::string_view word) {
    const bool here = at(word);
    if (here) take(at_ + word.size());
    return here;
  }
  void expect(std::string_view word) {
    if (!skip(word)) unexpected("'" + std::string(word) + "'");
  }
  [[noreturn]] void unexpected(const std::string& wanted) const {
    throw Fault("expected " + wanted + ", got " +
                (at_ < text_.size() ? "'" + text_.substr(at_, 12) + "'" : "the end of the template"));
  }

  std::string name() {
    if (!at_name()) unexpected("a name");
    return take(end_of(at_, is_name));
  }
  /// An integer, or where it may be, a number with a point.
  Value number(bool may_have_point = true) {
    const std::size_t point = end_of(at_, is_digit);
    const bool has_point = may_have_point && peek(point) == '.' && is_digit(peek(point + 1));
    const std::string digits = take(has_point ? end_of(point + 1, is_digit) : point);
    const Value value = read_number(digits);
    if (!has_point && !value.is_integer()) throw Fault("the number " + digits + " is too large");
    return value;
  }
  std::string string() {
    const char quote = text_[at_];
    std::string value;
    std::size_t i = at_ + 1;
    for (; i < text_.size() && text_[i] != quote; ++i) {
      if (text_[i] != '\\') {
        value += text_[i];
        continue;
      }
      const char c = peek(++i);
      constexpr std::string_view letters = "\\'\"abfnrtv", meanings = "\\'\"\a\b\f\n\r\t\v";
      if (const std::size_t which = letters.find(c); which != std::string_view::npos) {
        value += meanings[which];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        const std::string hex = text_.substr(i + 1, count);
        const bool good = hex.size() == count && hex.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
        const unsigned long code = good ? std::stoul(hex, nullptr, 16) : 0x110000;
        if (code > 0x10FFFF) throw Fault(std::string("wrong escape \\") + c + " in a string");
        detail::append_utf8(value, static_cast<char32_t>(code));
        i += count;
      } else if (c != '\n') {
        (value += '\\') += c;
      }
    }
    if (i >= text_.size()) throw Fault("a string has no end");
    take(i + 1);
    return value;
  }

  std::size_t at_ = 0;
  char tag_ = '\0';

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  /// All that is not ASCII counts as a letter.
  static bool is_name(char c) {
    return is_digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           static_cast<unsigned char>(c) >= 128;
  }
  static std::ptrdiff_t offset(std::size_t at) { return static_cast<std::ptrdiff_t>(at); }
  char peek(std::size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  std::string_view rest() const { return std::string_view(text_).substr(at_); }
  std::size_t end_of(std::size_t from, bool (*fits)(char)) const {
    while (from < text_.size() && fits(text_[from])) ++from;
    return from;
  }
  /// Moves behind a word that ends at `end`, and behind the white space there. @return  the word
  std::string take(std::size_t end) {
    std::string word = text_.substr(at_, end - at_);
    at_ = read_ = end;
    at_ = detail::end_of_blanks(text_, end);
    return word;
  }

  std::string text_;
  std::size_t read_ = 0;  // where the last word ended
};

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
