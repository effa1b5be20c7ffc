// SPDX-License-Identifier: MIT
// Makes a tree of a Jinja template.
#pragma once

#include <initializer_list>
#include <map>

#include "hydralora/lm/text/jinja_lexer.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

class Parser : TokenReader {
 public:
  using TokenReader::TokenReader;

  /// Up to a tag that begins with one of `ends`, which is the current token afterwards. Empty: up to the end.
  Nodes block(std::initializer_list<std::string_view> ends = {}) {
    deeper();
    Nodes nodes;
    while (now().kind != Token::Kind::end) {
      if (now().kind == Token::Kind::data) {
        nodes.push_back(node("data"));
        nodes.back()->value = take();
      } else if (skip("{{")) {
        nodes.push_back(node("output", tuple_or_one("}}")));
        expect("}}");
      } else {
        expect("{%");
        if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return at(end); })) break;
        nodes.push_back(statement());
        expect("%}");
      }
    }
    if (ends.size() > 0 && is(Token::Kind::end)) unexpected("{% " + std::string(*ends.begin()) + " %}");
    --depth_;
    return nodes;
  }

 private:
  void deeper() {
    if (++depth_ > 100) throw Fault("the template is nested deeper than 100");
  }

  NodePointer node(std::string_view kind, NodePointer first = nullptr, std::string name = {}) const {
    NodePointer made = std::make_unique<Node>(kind, first ? first->line : now().line, std::move(name));
    if (first) made->add(std::move(first));
    return made;
  }

  /// The body of a statement whose tag ends here, and its end tag's name.
  void body(Node& owner, std::string_view end) {
    expect("%}");
    owner.blocks.push_back(block({end}));
    take();
  }

  /// Items with commas between them, and the bracket behind.
  template <typename Item>
  void listed(std::string_view end, Item item) {
    for (bool more = true; more && !at(end); more = skip(",")) item();
    expect(end);
  }

  NodePointer statement() {
    const auto known = {"for", "if", "set", "macro", "generation", "break", "continue"};
    const auto kind = std::find_if(known.begin(), known.end(), [&](const char* each) { return at(each); });
    if (kind == known.end()) throw Fault("Encountered unknown tag '" + now().text + "'");
    NodePointer made = node(*kind);
    const std::string tag = take();
    if (tag == "for") {
      made->add(target());
      expect("in");
      made->add(tuple_or_one("%}", false));
      made->add(skip("if") ? expression() : nullptr);
      expect("%}");
      made->blocks.push_back(block({"endfor", "else"}));
      if (take() == "else") body(*made, "endfor");
    } else if (tag == "if") {
      for (std::string next = "elif"; next == "elif" || next == "else"; next = take()) {
        if (next == "elif") made->add(tuple_or_one("%}"));
        expect("%}");
        made->blocks.push_back(block({"endif", next == "elif" ? "else" : "endif", next == "elif" ? "elif" : "endif"}));
      }
    } else if (tag == "set") {
      made->add(target());
      if (skip("=")) {
        made->add(tuple_or_one("%}"));
      } else {  // its filters are an expression of the variable
        NodePointer filtered = at("|") ? filters(node("variable", nullptr, made->parts[0]->name)) : nullptr;
        body(*made, "endset");
        made->add(std::move(filtered));
      }
    } else if (tag == "macro") {
      made->name = name();
      expect("(");
      listed(")", [&] {
        made->names.push_back(name());
        made->add(skip("=") ? expression() : nullptr);
      });
    }
    if (tag == "macro" || tag == "generation") body(*made, "end" + tag);
    return made;
  }

  /// What can be assigned to: a name, names with commas, or a namespace's attribute.
  NodePointer target() {
    deeper();
    NodePointer made = node("tuple");
    do {
      if (skip("(")) {
        made->add(target());
        expect(")");
        continue;
      }
      made->add(node("variable", nullptr, name()));
      if (skip(".")) made->parts.back() = node("attribute", std::move(made->parts.back()), name());
    } while (skip(",") && !at("in") && !at("=") && !at(")"));
    --depth_;
    return made->parts.size() == 1 ? std::move(made->parts[0]) : std::move(made);
  }

  /// An expression, or a tuple of them without brackets, up to `end`.
  NodePointer tuple_or_one(std::string_view end, bool with_condition = true) {
    NodePointer tuple = node("tuple");
    bool many = end == ")" && at(end);
    while (!at(end)) {
      tuple->add(with_condition ? expression() : operation(1));
      if (!skip(",")) break;
      many = true;
    }
    if (tuple->parts.empty() && !many) unexpected("an expression");
    return many ? std::move(tuple) : std::move(tuple->parts[0]);
  }

  NodePointer expression() {
    NodePointer value = operation(1);
    while (skip("if")) {
      NodePointer made = node("conditional", operation(1));
      made->add(std::move(value));
      made->add(skip("else") ? expression() : nullptr);
      value = std::move(made);
    }
    return value;
  }

  /// How strong the operator here binds; 0 where there is none. A filter binds tighter than all of them.
  int strength() const {
    static const std::map<std::string_view, int> all = {
        {"or", 1}, {"and", 2}, {"in", 4}, {"==", 4}, {"!=", 4}, {"<", 4},  {"<=", 4}, {">", 4}, {">=", 4},
        {"+", 5},  {"-", 5},   {"~", 6},  {"*", 7},  {"/", 7},  {"//", 7}, {"%", 7},  {"**", 8}};
    if (at("not") && at("in", 1)) return 4;
    const auto found = is(Token::Kind::name) || is(Token::Kind::symbol) ? all.find(now().text) : all.end();
    return found == all.end() ? 0 : found->second;
  }
  /// Operands between operators that bind at least so strong. All join from left to right.
  NodePointer operation(int least) {
    deeper();
    NodePointer left = skip("not") ? node("unary", operation(4), "not") : filters(signed_value());
    for (int found = strength(); found >= least && found > 0; found = strength()) {
      if (found != 4) {
        std::string symbol = take();
        left = node("binary", std::move(left), std::move(symbol));
        left->add(operation(found + 1));
        continue;
      }
      left = node("comparison", std::move(left));
      while (strength() == 4) {
        std::string symbol = take();
        left->names.push_back(symbol == "not" ? symbol + " " + take() : symbol);
        left->add(operation(5));
      }
    }
    --depth_;
    return left;
  }
  NodePointer signed_value() {
    if (!at("+") && !at("-")) return postfix(primary());
    deeper();
    std::string sign = take();
    NodePointer value = node("unary", signed_value(), std::move(sign));
    --depth_;
    return postfix(std::move(value));
  }

  NodePointer primary() {
    NodePointer made = node("constant");
    if (is(Token::Kind::name)) {
      made->name = name();
      const std::string word = with_case(made->name.substr(0, 1), "lower") + made->name.substr(1);
      if (word == "true" || word == "false")
        made->value = word == "true";
      else if (word == "none")
        made->value = nullptr;
      else
        made->kind = "variable";
    } else if (is(Token::Kind::string)) {
      std::string text;
      while (is(Token::Kind::string)) text += take();
      made->value = text;
    } else if (is(Token::Kind::integer) || is(Token::Kind::number)) {
      made->value = read_number(now().text, is(Token::Kind::integer));
      if (made->value == Value()) throw Fault("the number " + now().text + " is too large");
      take();
    } else if (skip("(")) {
      made = tuple_or_one(")");
      expect(")");
    } else if (at("[") || at("{")) {
      made->kind = at("[") ? "list" : "dict";
      const char* const end = take() == "[" ? "]" : "}";
      listed(end, [&] {
        made->add(expression());
        if (made->kind == "list") return;
        expect(":");
        made->add(expression());
      });
    } else {
      unexpected("an expression");
    }
    return made;
  }

  NodePointer postfix(NodePointer value) {
    while (true) {
      if (skip(".")) {
        const bool index = is(Token::Kind::integer);
        value = index ? node("subscript", std::move(value)) : node("attribute", std::move(value), name());
        if (index) value->add(primary());
      } else if (skip("[")) {
        NodePointer first = at(":") ? nullptr : expression();
        value = node(at(":") ? "slice" : "subscript", std::move(value));
        value->add(std::move(first));
        while (value->kind == "slice" && value->parts.size() < 4) {
          value->add(skip(":") && !at(":") && !at("]") ? expression() : nullptr);
        }
        expect("]");
      } else if (at("(")) {
        value = node("call", std::move(value));
        arguments(*value);
      } else {
        return value;
      }
    }
  }

  bool begins_argument() const {
    if (is(Token::Kind::name)) return strength() == 0 && !at("not") && !at("else") && !at("is") && !at("if");
    return is(Token::Kind::string) || is(Token::Kind::integer) || is(Token::Kind::number) || at("[") || at("{");
  }
  NodePointer filters(NodePointer value) {
    while (at("|") || at("is")) {
      const bool test = take() == "is", negated = test && skip("not");
      value = node(test ? "test" : "filter", std::move(value), name());
      if (at("("))
        arguments(*value);
      else if (test && begins_argument())
        value->add(postfix(primary()));  // `is divisibleby 3`
      if (negated) value = node("unary", std::move(value), "not");
    }
    return value;
  }

  void arguments(Node& made) {
    expect("(");
    bool named = false;
    listed(")", [&] {
      const bool key = is(Token::Kind::name) && at("=", 1);
      if (named && !key && !at("**")) unexpected("name=");
      named = key || skip("**");
      NodePointer argument = named ? node("keyword", nullptr, key ? name() : "") : expression();
      if (key) expect("=");
      if (named) argument->add(expression());
      made.add(std::move(argument));
    });
  }

  int depth_ = 0;
};

/// @throws Fault  on a syntax error; `line` then says where.
inline Nodes parse(const std::string& text, int& line) {
  Lexer lexer(text, line);
  return Parser(lexer.tokens(), line).block();
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
