// SPDX-License-Identifier: MIT
// Gives the expressions of a Jinja template their values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_filters.hpp"
#include "hydralora/lm/text/jinja_methods.hpp"
#include "hydralora/lm/text/jinja_node.hpp"
#include "hydralora/lm/text/jinja_numbers.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_tests.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// The names that a block sees: its own, then those of the block around it.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> around = nullptr) : outer(std::move(around)) {}
  const Value* find(const std::string& name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->outer.get()) {
      for (const auto& [known, value] : scope->names) {
        if (known == name) return &value;
      }
    }
    return nullptr;
  }
  void set(const std::string& name, Value value) {
    for (auto& [known, old] : names) {
      if (known == name) return void(old = std::move(value));
    }
    names.emplace_back(name, std::move(value));
  }
  std::vector<std::pair<std::string, Value>> names{};
  std::shared_ptr<Scope> outer;
};

/// Gives expressions their values.
class Evaluator {
 public:
  // Namespaces and the scopes of macros can hold one another: they are emptied one by one.
  virtual ~Evaluator() {
    for (const auto& space : spaces_) space->clear();
    for (const auto& scope : captured_) scope->names.clear();
  }
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;
  int line() const { return line_; }

 protected:
  Evaluator() = default;
  virtual Value call_macro(const Callable& function, Arguments& given) = 0;

  /// Counts depth and steps, and sets the line that an error gets. The line stays where an error leaves.
  class Step {
   public:
    Step(Evaluator& self, const Node& node) : self_(self), line_(std::exchange(self.line_, node.line)) {
      if (++self.depth_ > 600) throw Fault("the template's calls and blocks are nested too deep");
      self.spend(1);
    }
    ~Step() { --self_.depth_; }
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
    void leave() { self_.line_ = line_; }

   private:
    Evaluator& self_;
    int line_;
  };
  void spend(std::size_t steps) {
    constexpr std::size_t most = 20'000'000;
    steps_ += steps;
    if (steps_ > most) throw Fault("the template does not end within " + std::to_string(most) + " steps");
  }

  Value macro(const Node& node) {
    captured_.push_back(scope_);
    return {std::make_shared<Callable>(Callable{node.name, {}, &node, scope_}), nullptr};
  }

  Value value_of(const Node& node) {
    Step step(*this, node);
    Value value = evaluate(node);
    step.leave();
    return value;
  }
  Value part_or_none(const Node& node, std::size_t i) {
    return node.parts[i] ? value_of(*node.parts[i]) : Value(nullptr);
  }

  Value evaluate(const Node& node) {
    switch (node.kind) {
      case Node::Kind::constant:
        return node.value;
      case Node::Kind::variable: {
        const Value* const found = scope_->find(node.name);
        return found != nullptr ? *found : Value::undefined("'" + node.name + "' is undefined");
      }
      case Node::Kind::list:
      case Node::Kind::tuple:
        return collected(node);
      case Node::Kind::dict:
        return dict(node);
      case Node::Kind::attribute:
        return attribute(value_of(*node.parts[0]), node.name);
      case Node::Kind::subscript:
        return subscript(node);
      case Node::Kind::call:
        return call(node, nullptr);
      case Node::Kind::filter:
        return filtered(node, value_of(*node.parts[0]));
      case Node::Kind::test:
        return tested(node);
      case Node::Kind::negation:
        return !value_of(*node.parts[0]).truth();
      case Node::Kind::sign: {
        const Value value = value_of(*node.parts[0]);
        if (value.is(Value::Kind::number)) return node.name == "-" ? -value.number() : value.number();
        return arithmetic(node.name, std::int64_t{0}, value);
      }
      case Node::Kind::binary:
        return binary(node);
      case Node::Kind::comparison:
        return compared(node);
      case Node::Kind::conditional:
        if (value_of(*node.parts[0]).truth()) return value_of(*node.parts[1]);
        if (node.parts[2]) return value_of(*node.parts[2]);
        return Value::undefined("the inline if-expression was false and has no else");
      default:
        throw Fault("a statement stands where an expression should");
    }
  }

  Value collected(const Node& node) {
    List items;
    for (const NodePointer& part : node.parts) items.push_back(value_of(*part));
    return {node.kind == Node::Kind::list ? Value::Kind::list : Value::Kind::tuple, std::move(items)};
  }
  Value dict(const Node& node) {
    const Value made{Dict()};
    for (std::size_t i = 0; i < node.parts.size(); i += 2) {
      const Value key = value_of(*node.parts[i]);
      made.set(key, value_of(*node.parts[i + 1]));
    }
    return Dict(made.dict());  // measured anew
  }
  Value subscript(const Node& node) {
    const Value object = value_of(*node.parts[0]);
    const Node& key = *node.parts[1];
    if (key.kind != Node::Kind::slice) {
      if (object.is(Value::Kind::string)) spend(object.size() / 64);
      return item(object, value_of(key));
    }
    const Value first = part_or_none(key, 0), behind = part_or_none(key, 1), by = part_or_none(key, 2);
    spend(object.size() / 64);
    return spent(slice(object, first, behind, by));
  }
  Value binary(const Node& node) {
    Value left = value_of(*node.parts[0]);
    if (node.name == "and" || node.name == "or") {
      return left.truth() == (node.name == "and") ? value_of(*node.parts[1]) : left;
    }
    const Value right = value_of(*node.parts[1]);
    if (node.name != "~") return spent(arithmetic(node.name, left, right));
    std::string text = print(left);
    text += print(right);
    return spent(std::move(text));
  }
  Value compared(const Node& node) {
    Value left = value_of(*node.parts[0]);
    for (std::size_t i = 0; i < node.names.size(); ++i) {
      Value right = value_of(*node.parts[i + 1]);
      spend((left.size() + right.size()) / 64);
      if (!compare(node.names[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }

  /// Counts what an operation has made.
  Value spent(Value value) {
    spend(value.size() / 64);
    return value;
  }

  Arguments arguments(const Node& node) {
    Arguments given;
    for (std::size_t i = 1; i < node.parts.size(); ++i) {
      const Node& part = *node.parts[i];
      if (part.kind == Node::Kind::keyword) {
        given.named.emplace_back(part.name, value_of(*part.parts[0]));
      } else if (part.kind != Node::Kind::star) {
        given.positional.push_back(value_of(part));
      } else if (const Value value = value_of(*part.parts[0]); part.name == "*") {
        for (const Value& item : items_of(value)) given.positional.push_back(item);
      } else {
        if (!value.is(Value::Kind::dict)) throw Fault("** needs a dictionary, not " + value.type());
        for (const auto& [key, item] : value.dict()) given.named.emplace_back(print(key), item);
      }
    }
    return given;
  }
  Value filtered(const Node& node, Value input) {
    // A chain of filters over a block has the block's text at its beginning.
    if (node.parts[0] && node.parts[0]->kind == Node::Kind::filter && block_chain(*node.parts[0])) {
      input = filtered(*node.parts[0], std::move(input));
    }
    const Arguments given = arguments(node);
    // A length costs nothing, and templates ask for it in loops.
    if (input.is(Value::Kind::string) || (node.name != "length" && node.name != "count")) spend(input.size() / 64);
    return spent(apply_filter(node.name, input, given));
  }
  static bool block_chain(const Node& node) {
    return !node.parts[0] || (node.parts[0]->kind == Node::Kind::filter && block_chain(*node.parts[0]));
  }
  Value tested(const Node& node) {
    const Value input = value_of(*node.parts[0]);
    const Arguments given = arguments(node);
    spend(input.size() / 64);
    for (const Value& other : given.positional) spend(other.size() / 64);
    return apply_test(node.name, input, given);
  }

  Value call(const Node& node, const Node* caller) {
    const Value callee = value_of(*node.parts[0]);
    Arguments given = arguments(node);
    if (caller != nullptr) given.named.emplace_back("caller", macro(*caller));
    if (callee.is(Value::Kind::undefined)) throw Fault(callee.why());
    if (!callee.is(Value::Kind::callable)) throw Fault("'" + callee.type() + "' object is not callable");
    Callable& function = *callee.callable();
    if (function.macro != nullptr) return spent(call_macro(function, given));
    spend(function.self.size() / 64);
    Value value = call_function(function, given);
    if (value.is(Value::Kind::space)) spaces_.push_back(value.shared_dict());
    return spent(std::move(value));
  }

  std::shared_ptr<Scope> scope_ = std::make_shared<Scope>();

 private:
  int line_ = 1, depth_ = 0;
  std::size_t steps_ = 0;
  std::vector<std::shared_ptr<Dict>> spaces_{};
  std::vector<std::shared_ptr<Scope>> captured_{};
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
