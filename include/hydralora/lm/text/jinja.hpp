// SPDX-License-Identifier: MIT
// Runs a Jinja template as jinja2's ImmutableSandboxedEnvironment does.
#pragma once

#include <map>

#include "hydralora/lm/text/jinja_filters.hpp"
#include "hydralora/lm/text/jinja_methods.hpp"
#include "hydralora/lm/text/jinja_parser.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// The names that a block sees: its own, then those of the block around it.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::map<std::string, Value> names{};
};

/// One rendering of a template.
class Interpreter {
 public:
  /// @param line  where the interpreter is, for errors
  Interpreter(const Dict& variables, int& line) : line_(line) {
    for (const std::string name : {"range", "dict", "namespace", "raise_exception", "strftime_now"}) {
      const Value::Function function = [this, name](const Arguments& given) {
        Value value = globals().call(name, {}, given);
        if (value.is(Kind::space)) spaces_.push_back(value);
        return value;
      };
      scope_->names[name] = {function, nullptr};
    }
    for (const auto& [name, value] : variables) scope_->names[name.text()] = value;
    scope_ = inner();
  }
  ~Interpreter() {  // namespaces can hold one another
    for (const Value& space : spaces_) space.dict().clear();
  }
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// @throws Fault  on any error.
  std::string run(const Nodes& nodes) { return printed(nodes, scope_); }

 private:
  enum class Flow { onward, broken, continued };

  /// Counts depth and steps, and sets the line that an error gets. An error ends all: line and depth stay as they are.
  template <typename Work>
  auto step(const Node& node, Work work) {
    const int line = std::exchange(line_, node.line);
    if (++depth_ > 600) throw Fault("the template's calls and blocks are nested too deep");
    spend(1);
    auto result = work();
    --depth_;
    line_ = line;
    return result;
  }
  void spend(std::size_t steps) {
    constexpr std::size_t most = 20'000'000;
    steps_ += steps;
    if (steps_ > most) throw Fault("the template does not end within " + std::to_string(most) + " steps");
  }
  /// Counts the work that was done with a value.
  Value spent(Value value) {
    spend(value.cost());
    return value;
  }

  void emit(const std::string& text) { within_limit((*out_ += text).size()); }
  std::shared_ptr<Scope> inner() const { return std::make_shared<Scope>(Scope{scope_}); }

  Flow run_block(const Nodes& nodes) {
    Flow flow = Flow::onward;
    for (std::size_t i = 0; i < nodes.size() && flow == Flow::onward; ++i) {
      flow = step(*nodes[i], [&] { return run_node(*nodes[i]); });
    }
    return flow;
  }
  /// The same in a scope of its own.
  Flow run_inside(const Nodes& nodes, std::shared_ptr<Scope> inside) {
    std::swap(scope_, inside);
    const Flow flow = run_block(nodes);
    std::swap(scope_, inside);
    return flow;
  }
  /// What the nodes print.
  std::string printed(const Nodes& nodes, const std::shared_ptr<Scope>& inside) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    if (run_inside(nodes, inside) != Flow::onward) throw Fault("break or continue outside a loop");
    out_ = outer;
    return text;
  }

  Flow run_node(const Node& node) {
    if (node.kind == "data") emit(node.value.text());
    if (node.kind == "output") emit(print(value_of(*node.parts[0])));
    if (node.kind == "for") return run_for(node);
    if (node.kind == "set") {
      if (!node.blocks.empty()) assign(*node.parts[0], printed(node.blocks[0], inner()));
      if (node.parts[1]) assign(*node.parts[0], value_of(*node.parts[1]));
    }
    if (node.kind == "macro") {
      captured_.push_back(scope_);
      const std::size_t at = captured_.size() - 1;
      scope_->names[node.name] = {[this, &node, at](Arguments& given) { return call_macro(node, at, given); }, {}};
    }
    if (node.kind == "generation") emit(printed(node.blocks[0], inner()));
    for (std::size_t i = 0; node.kind == "if" && i < node.blocks.size(); ++i) {
      if (i == node.parts.size() || value_of(*node.parts[i]).truth()) return run_block(node.blocks[i]);
    }
    return node.kind == "break" ? Flow::broken : node.kind == "continue" ? Flow::continued : Flow::onward;
  }

  Flow run_for(const Node& node) {
    List items;
    const std::shared_ptr<Scope> outer = scope_;
    for (const Value& item : items_of(spent(value_of(*node.parts[1])))) {
      scope_ = std::make_shared<Scope>(Scope{outer});
      if (node.parts[2]) assign(*node.parts[0], item);
      if (!node.parts[2] || value_of(*node.parts[2]).truth()) items.push_back(item);
    }
    scope_ = outer;
    if (items.empty() && node.blocks.size() > 1) return run_inside(node.blocks[1], inner());
    const auto seen = std::make_shared<std::string>();
    for (std::size_t i = 0; i < items.size(); ++i) {
      spend(10);
      scope_ = std::make_shared<Scope>(Scope{outer});
      assign(*node.parts[0], items[i]);
      scope_->names["loop"] = loop(items, i, seen);
      if (run_block(node.blocks[0]) == Flow::broken) break;
    }
    scope_ = outer;
    return Flow::onward;
  }
  /// What a template sees as `loop`. `seen` is what its `changed` was given last, printed.
  static Value loop(const List& items, std::size_t i, const std::shared_ptr<std::string>& seen) {
    const auto index = static_cast<std::int64_t>(i), size = static_cast<std::int64_t>(items.size());
    Dict made;
    const auto add = [&](const char* name, std::int64_t value) { made.emplace_back(name, value); };
    add("index", index + 1), add("index0", index), add("revindex", size - index), add("revindex0", size - index - 1);
    add("length", size), add("depth", 1), add("depth0", 0);
    made.emplace_back("first", index == 0);
    made.emplace_back("last", index + 1 == size);
    if (i > 0) made.emplace_back("previtem", items[i - 1]);
    if (i + 1 < items.size()) made.emplace_back("nextitem", items[i + 1]);
    const Value::Function cycle = [i](const Arguments& given) {
      if (given.positional.empty()) throw Fault("no items for cycling given");
      return given.positional[i % given.positional.size()];
    };
    const Value::Function changed = [seen](const Arguments& given) {
      std::string now = print(given.positional);
      return std::exchange(*seen, now) != now;
    };
    made.emplace_back("cycle", Value(cycle, {}));
    made.emplace_back("changed", Value(changed, {}));
    return made;
  }

  void assign(const Node& target, const Value& value) {
    if (target.kind == "tuple") {
      const List items = items_of(value);
      if (items.size() != target.parts.size()) throw Fault("the number of names and of values to unpack differ");
      for (std::size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i]);
    } else if (target.kind == "variable") {
      scope_->names[target.name] = value;
    } else {
      const Value space = value_of(*target.parts[0]);
      if (!space.is(Kind::space)) throw Fault("cannot assign attribute on non-namespace object");
      set(space.dict(), target.name, value);
    }
  }

  Value call_macro(const Node& node, std::size_t at, const Arguments& given) {
    const auto inside = std::make_shared<Scope>(Scope{captured_[at]});
    const std::size_t count = node.names.size();
    if (given.positional.size() > count) throw Fault("macro '" + node.name + "' was given too many arguments");
    for (const auto& [name, value] : given.named) {
      if (std::find(node.names.begin(), node.names.end(), name) == node.names.end()) {
        throw Fault("macro '" + node.name + "' takes no keyword argument '" + name + "'");
      }
      inside->names[name] = value;
    }
    std::shared_ptr<Scope> outer = std::exchange(scope_, inside);
    for (std::size_t i = 0; i < count; ++i) {
      Value& value = inside->names[node.names[i]];
      if (i < given.positional.size()) value = given.positional[i];
      if (i >= given.positional.size() && value.is(Kind::undefined)) {
        value = part(node, i, Value::undefined("parameter '" + node.names[i] + "' was not provided"));
      }
    }
    scope_ = std::move(outer);
    return printed(node.blocks[0], inside);
  }

  Value value_of(const Node& node) {
    return step(node, [&] { return evaluate(node); });
  }
  Value part(const Node& node, std::size_t i, const Value& otherwise = nullptr) {
    return node.parts[i] ? value_of(*node.parts[i]) : otherwise;
  }

  Value evaluate(const Node& node) {
    const std::string_view kind = node.kind;
    if (kind == "constant") return node.value;
    if (kind == "variable") return variable(node.name);
    if (kind == "attribute") return attribute(part(node, 0), node.name);
    if (kind == "call" || kind == "filter" || kind == "test") return called(node);
    if (kind == "binary") return binary(node);
    if (kind == "comparison") return compared(node);
    if (kind == "conditional") {
      const bool truth = part(node, 0).truth();
      if (truth || node.parts[2]) return part(node, truth ? 1 : 2);
      return Value::undefined("the inline if-expression was false and has no else");
    }
    const Value first = node.parts.empty() || kind == "dict" ? Value() : part(node, 0);
    if (kind == "unary" && node.name == "not") return !first.truth();
    if (kind == "unary" && first.is(Kind::number)) return node.name == "-" ? -first.number() : first.number();
    if (kind == "unary") return arithmetic(node.name, std::int64_t{0}, first);
    if (kind == "subscript" || kind == "slice") {
      if (kind == "slice" || first.is(Kind::string)) spend(first.cost());
      if (kind == "subscript") return item(first, part(node, 1));
      return slice(first, part(node, 1), part(node, 2), part(node, 3));
    }
    if (kind == "dict") {
      Dict made;
      for (std::size_t i = 0; i < node.parts.size(); i += 2) set(made, part(node, i), part(node, i + 1));
      return made;
    }
    List items;  // of a list or a tuple
    for (std::size_t i = 0; i < node.parts.size(); ++i) items.push_back(i == 0 ? first : part(node, i));
    return {std::move(items), kind == "list" ? Kind::list : Kind::tuple};
  }

  Value variable(const std::string& name) const {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->outer.get()) {
      if (const auto at = scope->names.find(name); at != scope->names.end()) return at->second;
    }
    return Value::undefined("'" + name + "' is undefined");
  }

  Value binary(const Node& node) {
    Value left = part(node, 0);
    if (node.name == "and" || node.name == "or") return left.truth() == (node.name == "and") ? part(node, 1) : left;
    const Value right = part(node, 1);
    return spent(node.name == "~" ? print(left) + print(right) : arithmetic(node.name, left, right));
  }
  Value compared(const Node& node) {
    Value left = part(node, 0);
    for (std::size_t i = 0; i < node.names.size(); ++i) {
      Value right = part(node, i + 1);
      spend(left.cost() + static_cast<std::size_t>(right.weight()) / 8 + right.cost());
      if (!compare(node.names[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }

  Value called(const Node& node) {
    const Value input = part(node, 0);
    Arguments given;
    for (std::size_t i = 1; i < node.parts.size(); ++i) {
      const Node& argument = *node.parts[i];
      const Value value = value_of(argument.kind == "keyword" ? *argument.parts[0] : argument);
      spend(value.cost());
      if (argument.kind != "keyword") {
        given.positional.push_back(value);
      } else if (!argument.name.empty()) {
        given.named.emplace_back(argument.name, value);
      } else {
        if (!value.is(Kind::dict)) throw Fault("** needs a dictionary, not " + value.type());
        for (const auto& [key, one] : value.dict()) given.named.emplace_back(print(key), one);
      }
    }
    spend(input.cost());
    if (node.kind == "filter") return spent(filters().call(node.name, input, given));
    if (node.kind == "test") return apply_test(node.name, input, given);
    if (input.is(Kind::undefined)) throw Fault(input.why());
    if (!input.is(Kind::callable)) throw Fault("'" + input.type() + "' object is not callable");
    return spent(input.function()(given));
  }

  std::string* out_ = nullptr;
  int& line_;
  int depth_ = 0;
  std::size_t steps_ = 0;
  std::shared_ptr<Scope> scope_ = std::make_shared<Scope>(Scope{nullptr});
  std::vector<std::shared_ptr<Scope>> captured_{};  // where macros were made, by their numbers
  std::vector<Value> spaces_{};
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
