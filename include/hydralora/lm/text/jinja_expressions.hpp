// SPDX-License-Identifier: MIT
// Evaluates the expressions of a Jinja template while reading them.
#pragma once

#include <array>
#include <map>

#include "hydralora/lm/text/jinja_functions.hpp"
#include "hydralora/lm/text/jinja_scanner.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

/// The names that a block sees: its own, then those of the block around it.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::map<std::string, Value> names{};
};

/// Gives a variable another value, until the end of the block.
template <typename T>
struct Exchanged {
  Exchanged(T& variable, T value) : place(variable), before(std::exchange(variable, std::move(value))) {}
  ~Exchanged() { place = std::move(before); }
  T& place;
  T before;
};

/// What is not live, such as the branch of an `if` that is not taken, is read without effect.
class Expressions : public Scanner {
 public:
  using Scanner::Scanner;

 protected:
  virtual Value call_macro(const Value& macro, const Arguments& given) = 0;

  static constexpr int compares = 3;  ///< how strong comparisons bind

  int deeper() const {
    if (depth_ == 600) throw Fault("the template's calls and blocks are nested too deep");
    return depth_ + 1;
  }
  void spend(std::size_t steps) {
    steps_ += steps;
    if (steps_ > 5'000'000) throw Fault("the template does not end within 5000000 steps");
  }
  /// Counts the work that was done with a value.
  Value spent(Value value) {
    spend(value.cost());
    return value;
  }
  Value variable(const std::string& name) const {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->outer.get()) {
      if (const auto at = scope->names.find(name); at != scope->names.end()) return at->second;
    }
    const bool is_global = functions().has("global", name);
    return is_global ? Value(std::int64_t{0}, Kind::callable) : Value::undefined("'" + name + "' is undefined");
  }

  /// Does `work`, which is not live where `live` is false.
  template <typename Work>
  auto only_if(bool live, const Work& work) {
    const Exchanged<bool> now(live_, live_ && live);
    return work();
  }
  /// Does `work` with new names inside those of `outer`.
  template <typename Work>
  auto inside(const std::shared_ptr<Scope>& outer, const Work& work) {
    const Exchanged<std::shared_ptr<Scope>> now(scope_, std::make_shared<Scope>(Scope{outer}));
    return work();
  }

  /// Items with commas between them, and the bracket behind.
  template <typename Item>
  void listed(std::string_view end, const Item& item) {
    for (bool more = true; more && !at(end); more = skip(",")) item();
    expect(end);
  }
  /// Expressions with commas between them: one, or a tuple.
  Value tuple_or_one(bool with_condition = true) {
    List items;
    bool many = at(")");
    for (bool more = !many; more && !at(")") && !at_end(); many = many || more) {
      items.push_back(with_condition ? expression() : operation(1));
      more = skip(",");
    }
    if (items.empty() && !many) unexpected("an expression");
    return many ? Value(std::move(items), Kind::tuple) : items[0];
  }
  Value expression() {
    const Exchanged<int> depth(depth_, deeper());
    const std::size_t start = at_;
    const auto condition = places_.find(start);
    if (!live_ || condition == places_.end()) {
      const Value value = operation(1);
      if (!skip("if")) return value;
      places_.emplace(start, at_);
      operation(1);
      return skip("else") ? expression() : value;
    }
    at_ = condition->second;
    const bool holds = operation(1).truth();
    const std::size_t behind = std::exchange(at_, start);
    const Value value = only_if(holds, [&] { return operation(1); });
    at_ = behind;
    if (skip("else")) return holds ? (only_if(false, [&] { return expression(); }), value) : expression();
    return holds ? value : Value::undefined("the inline if-expression was false and has no else");
  }

  /// The operator here, and how strong it binds. A filter binds tighter than all of them.
  std::pair<std::string_view, int> operator_here() const {
    static constexpr std::string_view symbols[] = {"or", "and", "in", "not", "==", "!=", "<=", ">=", "<",
                                                   ">",  "+",   "-",  "~",   "*",  "//", "/",  "%"};
    static constexpr int strengths[] = {1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 6, 6, 6, 6};
    for (std::size_t i = 0; i < std::size(symbols) && !at_end(); ++i) {
      if (at(symbols[i])) return {symbols[i], strengths[i]};
    }
    return {"", 0};
  }
  /// Operands between operators that bind at least so strong. All join from left to right.
  Value operation(int least) {
    std::size_t nots = 0;
    while (skip("not")) ++nots;
    Value left = nots > 0 ? operation(compares) : operand();
    if (nots > 0) left = left.truth() == (nots % 2 == 0);
    for (auto next = operator_here(); next.second >= least; next = operator_here()) {
      const auto& [symbol, strength] = next;
      expect(symbol);
      if (symbol == "not") expect("in");
      const bool logic = strength < compares, needed = !logic || left.truth() == (symbol == "and");
      Value right = only_if(needed, [&] { return operation(next.second + 1); });
      if (strength == compares && operator_here().second == compares) unexpected("no second comparison");
      if (logic) left = needed ? std::move(right) : std::move(left);
      if (!live_ || logic) continue;
      spend(left.cost() + right.cost());
      left = strength == compares ? Value(compare(symbol, left, right))
             : symbol == "~"      ? Value(print(left) + print(right))
                                  : spent(arithmetic(symbol, left, right));
    }
    return left;
  }
  Value operand() {
    spend(1);
    const bool minus = !at_end() && skip("-");
    Value value = postfix(primary());
    if (minus && live_) value = arithmetic("*", value, std::int64_t{-1});
    while (at("|") || at("is")) {
      const bool filter = skip("|"), negated = !filter && skip("is") && skip("not");
      const std::string function = name();
      const Arguments given = arguments(!filter);
      if (!live_) continue;
      spend(value.cost());
      const Value made = spent(functions().call(filter ? "filter" : "test", function, value, given));
      value = filter ? made : Value(made.truth() != negated);
    }
    return value;
  }

  Value primary() {
    if (at_name()) {
      const std::string word = name();
      if (word == "true" || word == "True") return true;
      if (word == "false" || word == "False") return false;
      if (word == "none" || word == "None") return nullptr;
      const bool calls = at("(");
      const Arguments given = arguments(false);
      if (!live_) return {};
      const Value value = variable(word);
      if (!calls) return value;
      if (!value.defined().is(Kind::callable)) throw Fault("'" + value.type() + "' object is not callable");
      return spent(value.integer() > 0 ? call_macro(value, given) : functions().call("global", word, {}, given));
    }
    if (at_digit()) return number();
    if (at_quote()) {
      std::string text;
      while (at_quote()) text += string();
      return spent(text);
    }
    if (skip("(")) {
      const Value value = tuple_or_one();
      expect(")");
      return value;
    }
    List items;
    if (skip("[")) {
      listed("]", [&] { items.push_back(expression()); });
      return items;
    }
    if (!skip("{")) unexpected("an expression");
    Value made((Dict()));
    listed("}", [&] {
      const Value key = expression();
      expect(":");
      made.set(key, expression());
      spend(made.cost());
    });
    return made;
  }
  Value postfix(Value value) {
    while (true) {
      if (skip(".")) {
        const Value key = at_digit() ? number(false) : Value(name());
        const bool calls = key.is(Kind::string) && at("(");
        const Arguments given = arguments(false);
        if (live_ && calls) value = spent(functions().call(value.defined().type(), key.text(), value, given));
        if (live_ && !calls) value = item(value, key, true);
      } else if (skip("[")) {
        value = subscript(value);
      } else {
        return value;
      }
    }
  }
  Value subscript(const Value& object) {
    std::array<Value, 3> parts{nullptr, nullptr, nullptr};
    std::size_t colons = 0;
    if (!at(":")) parts[0] = expression();
    while (colons < 2 && skip(":")) {
      if (++colons, !at(":") && !at("]")) parts[colons] = expression();
    }
    expect("]");
    if (!live_) return {};
    spend(colons > 0 ? object.cost() : object.text().size() / 64);
    return colons > 0 ? slice(object, parts[0], parts[1], parts[2]) : item(object, parts[0]);
  }
  /// (a, b, name=c) where it is here. A test may have one argument without brackets.
  Arguments arguments(bool test) {
    Arguments given;
    const bool begins_one = at_quote() || at_digit() || at("[") || at("{") ||
                            (at_name() && operator_here().second == 0 && !at("is") && !at("if") && !at("else"));
    if (skip("(")) {
      listed(")", [&] {
        const std::size_t start = at_;
        std::string key = at_name() ? name() : "";
        if (at("==") || !skip("=")) at_ = start, key.clear();
        if (key.empty() && !given.named.empty()) unexpected("name=");
        const Value value = spent(expression());
        key.empty() ? void(given.positional.push_back(value)) : void(given.named.emplace_back(key, value));
      });
    } else if (test && begins_one) {
      given.positional.push_back(postfix(primary()));
    }
    return given;
  }

  bool live_ = false;
  int depth_ = 0;
  std::shared_ptr<Scope> scope_ = std::make_shared<Scope>();
  std::map<std::size_t, std::size_t> places_{};  ///< ends of blocks and conditions of values

 private:
  std::size_t steps_ = 0;
};

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
