// SPDX-License-Identifier: MIT
// Makes a tree of a Jinja template's tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_expression.hpp"
#include "hydralora/lm/text/jinja_node.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_token.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;
  using ExpressionParser::line;
  /// @throws Fault  on a syntax error; line() then gives where.
  Nodes parse() { return block({}); }

 private:
  /// Up to a tag that begins with one of `ends`, which is the current token afterwards. Empty: up to the end.
  Nodes block(std::initializer_list<const char*> ends) {
    const Depth depth(depth_);
    Nodes nodes;
    while (now().kind != Token::Kind::end) {
      if (now().kind == Token::Kind::data) {
        nodes.push_back(node(Kind::data));
        nodes.back()->value = now().text;
        ++at_;
      } else if (now().kind == Token::Kind::output_begin) {
        ++at_;
        nodes.push_back(node(Kind::output, tuple_or_one()));
        expect_end(Token::Kind::output_end);
      } else {
        ++at_;
        if (std::any_of(ends.begin(), ends.end(), [&](const char* end) { return at_name(end); })) return nodes;
        nodes.push_back(statement());
        expect_end(Token::Kind::tag_end);
      }
    }
    if (ends.size() > 0) unexpected("{% " + std::string(*ends.begin()) + " %}");
    return nodes;
  }
  /// The body of a statement whose tag ends here, and its end tag's name.
  void body(Node& owner, const char* end) {
    expect_end(Token::Kind::tag_end);
    owner.blocks.push_back(block({end}));
    ++at_;
  }

  NodePointer statement() {
    const Token tag = now();
    if (tag.kind != Token::Kind::name) unexpected("a tag's name");
    ++at_;
    NodePointer made = std::make_unique<Node>(Kind::set, tag.line);
    if (tag.text == "for") {
      for_loop(*made);
    } else if (tag.text == "if") {
      if_else(*made);
    } else if (tag.text == "set") {
      made->add(target(true));
      if (skip_symbol("=")) {
        made->add(tuple_or_one());
      } else {
        made->add(nullptr);
        made->add(filters(nullptr));
        body(*made, "endset");
      }
    } else if (tag.text == "macro") {
      made->kind = Kind::macro;
      made->name = expect_name();
      parameters(*made);
      function_body(*made, "endmacro");
    } else if (tag.text == "call") {
      made->kind = Kind::call_block;
      NodePointer caller = node(Kind::macro, "caller");
      if (at_symbol("(")) parameters(*caller);
      NodePointer called = expression();
      if (called->kind != Kind::call) throw Fault("expected a call");
      function_body(*caller, "endcall");
      made->add(std::move(caller));
      made->add(std::move(called));
    } else if (tag.text == "filter") {
      made->kind = Kind::filter_block;
      NodePointer first = filter(nullptr);
      made->add(filters(std::move(first)));
      body(*made, "endfilter");
    } else if (tag.text == "with") {
      made->kind = Kind::with;
      while (now().kind != Token::Kind::tag_end) {
        if (!made->parts.empty()) expect(",");
        made->add(target(false));
        expect("=");
        made->add(expression());
      }
      body(*made, "endwith");
    } else if (tag.text == "generation") {
      made->kind = Kind::generation;
      function_body(*made, "endgeneration");  // jinja2 makes a function of it: no break out of it
    } else if (tag.text == "break" || tag.text == "continue") {
      if (loops_ == 0) throw Fault(tag.text + " outside a loop");
      made->kind = tag.text == "break" ? Kind::break_loop : Kind::continue_loop;
    } else {
      throw Fault("Encountered unknown tag '" + tag.text + "'");
    }
    return made;
  }

  void for_loop(Node& made) {
    made.kind = Kind::for_loop;
    made.add(target(false, "in"));
    expect_name("in");
    made.add(tuple_or_one(false));
    made.add(skip_name("if") ? expression() : nullptr);
    if (at_name("recursive")) throw Fault("recursive loops are not supported");
    expect_end(Token::Kind::tag_end);
    ++loops_;
    made.blocks.push_back(block({"endfor", "else"}));
    --loops_;
    if (skip_name("else")) return body(made, "endfor");
    ++at_;
  }

  void if_else(Node& made) {
    made.kind = Kind::if_else;
    do {
      made.add(tuple_or_one(false));
      expect_end(Token::Kind::tag_end);
      made.blocks.push_back(block({"endif", "else", "elif"}));
    } while (skip_name("elif"));
    if (skip_name("else")) return body(made, "endif");
    ++at_;
  }

  void parameters(Node& made) {
    expect("(");
    while (!skip_symbol(")")) {
      if (!made.names.empty()) expect(",");
      made.names.push_back(expect_name());
      if (skip_symbol("=")) {
        made.add(expression());
      } else if (!made.parts.empty()) {
        throw Fault("non-default argument follows default argument");
      }
    }
  }
  void function_body(Node& made, const char* end) {
    const int loops = std::exchange(loops_, 0);
    const auto begin = static_cast<std::ptrdiff_t>(at_);
    body(made, end);
    loops_ = loops;
    // A macro takes more arguments than it names where it speaks of them.
    const auto used = [&](const char* name) {
      return std::any_of(tokens_.begin() + begin, tokens_.begin() + static_cast<std::ptrdiff_t>(at_),
                         [&](const Token& token) { return token.kind == Token::Kind::name && token.text == name; });
    };
    made.value = Value(Value::List{used("varargs"), used("kwargs"), used("caller")});
  }

  /// What can be assigned to: a name, names with commas, or a namespace's attribute.
  NodePointer target(bool with_attribute, const char* end = "=") {
    NodePointer made = node(Kind::tuple);
    bool many = false;
    while (now().kind != Token::Kind::tag_end && !at_name(end) && !at_symbol(end) && !at_symbol(")")) {
      if (skip_symbol("(")) {
        const Depth depth(depth_);
        made->add(target(with_attribute, end));
        expect(")");
      } else {
        NodePointer one = node(Kind::variable, expect_name());
        for (const char* word : {"true", "false", "none", "True", "False", "None", "loop"}) {
          if (one->name == word && (one->name != "loop" || end[0] == 'i'))
            throw Fault("can't assign to '" + one->name + "'");
        }
        if (with_attribute && skip_symbol(".")) one = node(Kind::attribute, std::move(one), expect_name());
        made->add(std::move(one));
      }
      if (!skip_symbol(",")) break;
      many = true;
    }
    if (made->parts.empty()) unexpected("a name to assign to");
    return !many ? std::move(made->parts[0]) : std::move(made);
  }

  int loops_ = 0;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
