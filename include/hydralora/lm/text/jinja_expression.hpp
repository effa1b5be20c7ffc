// SPDX-License-Identifier: MIT
// Makes trees of expressions. Precedence is Jinja's: or, and, not, comparisons, + -, ~, * / // %, **, signs, then
// filters and tests. So a filter binds tighter than +.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_node.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_token.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// The part of the parser that reads expressions.
class ExpressionParser : public TokenReader {
 public:
  using TokenReader::TokenReader;

 protected:
  using Kind = Node::Kind;
  NodePointer node(Kind kind, std::string name = {}) const {
    return std::make_unique<Node>(kind, now().line, std::move(name));
  }
  NodePointer node(Kind kind, NodePointer first, std::string name = {}) const {
    NodePointer made = node(kind, std::move(name));
    if (first) made->line = first->line;
    made->add(std::move(first));
    return made;
  }

  /// An expression, or a tuple of them without brackets.
  NodePointer tuple_or_one(bool with_condition = true, bool may_be_empty = false) {
    NodePointer tuple = node(Kind::tuple);
    bool many = false;
    while (!at_symbol(")") && now().kind != Token::Kind::output_end && now().kind != Token::Kind::tag_end) {
      tuple->add(with_condition ? expression() : disjunction());
      if (!skip_symbol(",")) break;
      many = true;
    }
    if (many || (tuple->parts.empty() && may_be_empty)) return tuple;
    if (tuple->parts.empty()) unexpected("an expression");
    return std::move(tuple->parts[0]);
  }

  NodePointer expression() {
    const Depth depth(depth_);
    NodePointer value = disjunction();
    while (skip_name("if")) {
      NodePointer made = node(Kind::conditional, disjunction());
      made->add(std::move(value));
      made->add(skip_name("else") ? expression() : nullptr);
      value = std::move(made);
    }
    return value;
  }
  NodePointer disjunction() {
    NodePointer left = conjunction();
    while (skip_name("or")) left = binary(std::move(left), "or", conjunction());
    return left;
  }
  NodePointer conjunction() {
    NodePointer left = inversion();
    while (skip_name("and")) left = binary(std::move(left), "and", inversion());
    return left;
  }
  NodePointer inversion() {
    if (!skip_name("not")) return comparison();
    const Depth depth(depth_);
    return node(Kind::negation, inversion());
  }
  NodePointer comparison() {
    NodePointer left = sum();
    NodePointer made;
    while (true) {
      std::string name;
      if (at_name("not") && ahead().kind == Token::Kind::name && ahead().text == "in") {
        name = "not in";
        ++at_;
      } else if (at_name("in")) {
        name = "in";
      } else {
        for (const char* symbol : {"==", "!=", "<", "<=", ">", ">="}) name = at_symbol(symbol) ? symbol : name;
      }
      if (name.empty()) return made ? std::move(made) : std::move(left);
      ++at_;
      if (!made) made = node(Kind::comparison, std::move(left));
      made->names.push_back(name);
      made->add(sum());
    }
  }
  NodePointer binary(NodePointer left, std::string name, NodePointer right) const {
    NodePointer made = node(Kind::binary, std::move(left), std::move(name));
    made->add(std::move(right));
    return made;
  }
  /// Operands of `next` with one of `symbols` between them, from left to right.
  NodePointer chain(NodePointer (ExpressionParser::*next)(), std::initializer_list<const char*> symbols) {
    NodePointer left = (this->*next)();
    while (now().kind == Token::Kind::symbol &&
           std::any_of(symbols.begin(), symbols.end(), [&](const char* symbol) { return at_symbol(symbol); })) {
      std::string name = tokens_[at_++].text;
      left = binary(std::move(left), std::move(name), (this->*next)());
    }
    return left;
  }
  NodePointer sum() { return chain(&ExpressionParser::joined, {"+", "-"}); }
  NodePointer joined() { return chain(&ExpressionParser::product, {"~"}); }
  NodePointer product() { return chain(&ExpressionParser::power, {"*", "/", "//", "%"}); }
  NodePointer power() { return chain(&ExpressionParser::filtered, {"**"}); }
  NodePointer filtered() { return filters(signed_value()); }
  NodePointer signed_value() {
    if (at_symbol("+") || at_symbol("-")) {
      const Depth depth(depth_);
      std::string name = tokens_[at_++].text;
      return postfix(node(Kind::sign, signed_value(), std::move(name)));
    }
    return postfix(primary());
  }

  NodePointer primary() {
    const Token token = now();
    NodePointer made = node(Kind::constant);
    if (token.kind == Token::Kind::name) {
      ++at_;
      if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
        made->value = (token.text[0] | 0x20) == 't';
      } else if (token.text == "none" || token.text == "None") {
        made->value = nullptr;
      } else {
        made->kind = Kind::variable;
        made->name = token.text;
      }
    } else if (token.kind == Token::Kind::string) {
      std::string text;
      for (; now().kind == Token::Kind::string; ++at_) text += now().text;
      made->value = text;
    } else if (token.kind == Token::Kind::integer) {
      ++at_;
      made->value = integer(token.text);
    } else if (token.kind == Token::Kind::number) {
      ++at_;
      double number = 0;
      read_number(token.text, number);
      made->value = number;
    } else if (skip_symbol("(")) {
      const Depth depth(depth_);
      made = tuple_or_one(true, true);
      expect(")");
    } else if (skip_symbol("[")) {
      made->kind = Kind::list;
      while (!skip_symbol("]")) {
        if (!made->parts.empty()) expect(",");
        if (skip_symbol("]")) break;
        made->add(expression());
      }
    } else if (skip_symbol("{")) {
      made->kind = Kind::dict;
      while (!skip_symbol("}")) {
        if (!made->parts.empty()) expect(",");
        if (skip_symbol("}")) break;
        made->add(expression());
        expect(":");
        made->add(expression());
      }
    } else {
      unexpected("an expression");
    }
    return made;
  }
  static Value integer(const std::string& digits) {
    const bool prefixed = digits.size() > 1 && digits[1] > '9';
    const int base = !prefixed ? 10 : digits[1] == 'x' ? 16 : digits[1] == 'o' ? 8 : 2;
    try {
      return static_cast<std::int64_t>(std::stoll(prefixed ? digits.substr(2) : digits, nullptr, base));
    } catch (const std::logic_error&) {
      throw Fault("the integer " + digits + " is wrong or has more than 64 bits");
    }
  }

  NodePointer postfix(NodePointer value) {
    while (true) {
      if (skip_symbol(".")) {
        if (now().kind == Token::Kind::integer) {
          NodePointer key = node(Kind::constant);
          key->value = integer(now().text);
          value = node(Kind::subscript, std::move(value));
          value->add(std::move(key));
          ++at_;
        } else {
          value = node(Kind::attribute, std::move(value), expect_name());
        }
      } else if (skip_symbol("[")) {
        value = node(Kind::subscript, std::move(value));
        value->add(subscript());
        expect("]");
      } else if (at_symbol("(")) {
        value = node(Kind::call, std::move(value));
        arguments(*value);
      } else {
        return value;
      }
    }
  }
  NodePointer subscript() {
    NodePointer first = at_symbol(":") ? nullptr : expression();
    if (!at_symbol(":")) return first;
    NodePointer made = node(Kind::slice);
    made->add(std::move(first));
    while (made->parts.size() < 3) {
      const bool given = skip_symbol(":") && !at_symbol(":") && !at_symbol("]");
      made->add(given ? expression() : nullptr);
    }
    return made;
  }

  NodePointer filters(NodePointer value) {
    while (true) {
      if (skip_symbol("|")) {
        value = filter(std::move(value));
      } else if (value && at_name("is")) {
        value = test(std::move(value));
      } else if (value && at_symbol("(")) {
        value = node(Kind::call, std::move(value));
        arguments(*value);
      } else {
        return value;
      }
    }
  }
  /// The filter whose name is the current token.
  NodePointer filter(NodePointer input) {
    NodePointer made = node(Kind::filter);
    made->name = expect_name();
    while (skip_symbol(".")) made->name += "." + expect_name();
    made->add(std::move(input));
    if (at_symbol("(")) arguments(*made);
    return made;
  }
  NodePointer test(NodePointer input) {
    ++at_;
    const bool negated = skip_name("not");
    NodePointer made = node(Kind::test);
    made->name = expect_name();
    made->add(std::move(input));
    const auto kind = now().kind;
    const bool name = kind == Token::Kind::name;
    if (at_symbol("(")) {
      arguments(*made);
    } else if (kind == Token::Kind::string || kind == Token::Kind::integer || kind == Token::Kind::number ||
               at_symbol("[") || at_symbol("{") || (name && !at_name("else") && !at_name("or") && !at_name("and"))) {
      if (at_name("is")) throw Fault("You cannot chain multiple tests with is");
      made->add(postfix(primary()));
    }
    return negated ? node(Kind::negation, std::move(made)) : std::move(made);
  }

  void arguments(Node& made) {
    expect("(");
    bool comma = true, named = false;
    while (!skip_symbol(")")) {
      if (!comma) expect(",");
      if (!comma && skip_symbol(")")) break;
      comma = false;
      if (at_symbol("*") || at_symbol("**")) {
        std::string stars = tokens_[at_++].text;
        named = true;
        made.add(node(Kind::star, expression(), std::move(stars)));
      } else if (now().kind == Token::Kind::name && ahead().kind == Token::Kind::symbol && ahead().text == "=") {
        std::string name = expect_name();
        ++at_;
        named = true;
        made.add(node(Kind::keyword, expression(), std::move(name)));
      } else {
        if (named) throw Fault("invalid syntax for function call expression");
        made.add(expression());
      }
    }
  }
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
