// SPDX-License-Identifier: MIT
// The tests of a Jinja template: what stands behind `is`, and comparisons.
#pragma once

#include <cmath>
#include <cstdlib>
#include <map>
#include <string>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_methods.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

inline bool apply_test(const std::string& name, const Value& value, const Arguments& given) {
  static const std::map<std::string, const char*> operators = {
      {"eq", "=="},      {"equalto", "=="}, {"==", "=="}, {"ne", "!="}, {"!=", "!="},     {"lt", "<"},
      {"lessthan", "<"}, {"<", "<"},        {"le", "<="}, {"<=", "<="}, {"gt", ">"},      {"greaterthan", ">"},
      {">", ">"},        {"ge", ">="},      {">=", ">="}, {"in", "in"}, {"sameas", "=="}, {"divisibleby", "%"}};
  if (const auto found = operators.find(name); found != operators.end()) {
    const std::string symbol = found->second;
    const Value other = Bound(given, name, {"other"}).at(0);
    if (name == "sameas") return value.kind() == other.kind() && value == other;
    if (symbol == "==") return value == other;
    if (symbol == "!=") return value != other;
    if (symbol == "in") return contains(other, value);
    if (symbol == "<") return Value::less(value, other, "<");
    if (symbol == ">") return Value::less(other, value, ">");
    if (symbol == "<=") return value == other || Value::less(value, other, "<=");
    if (symbol == ">=") return value == other || Value::less(other, value, ">=");
    if (!value.is_number() || !other.is_number() || other.number() == 0)
      throw Fault("divisibleby needs numbers, not 0");
    if (!value.is_integer() || !other.is_integer()) return std::fmod(value.number(), other.number()) == 0;
    return other.integer() == -1 || value.integer() % other.integer() == 0;
  }
  const Bound none(given, name, {});
  if (name == "defined") return !value.is(Value::Kind::undefined);
  if (name == "undefined") return value.is(Value::Kind::undefined);
  if (name == "none") return value.is(Value::Kind::none);
  if (name == "boolean") return value.is(Value::Kind::boolean);
  if (name == "true" || name == "false") return value.is(Value::Kind::boolean) && value.truth() == (name == "true");
  if (name == "integer") return value.is(Value::Kind::integer);
  if (name == "float") return value.is(Value::Kind::number);
  if (name == "number") return value.is_number();
  if (name == "string") return value.is(Value::Kind::string);
  if (name == "mapping") return value.is(Value::Kind::dict);
  if (name == "sequence" || name == "iterable") {
    const bool all = name == "iterable" &&
                     (value.is(Value::Kind::view) || value.is(Value::Kind::generator) || value.is(Value::Kind::loop));
    return all || value.is(Value::Kind::string) || value.is(Value::Kind::list) || value.is(Value::Kind::tuple) ||
           value.is(Value::Kind::range) || value.is(Value::Kind::dict) || value.is(Value::Kind::undefined);
  }
  if (name == "callable") return value.is(Value::Kind::callable) || value.is(Value::Kind::undefined);
  if (name == "odd" || name == "even") {
    if (!value.is_number()) throw Fault(name + " needs a number, not " + value.type());
    return std::fmod(std::abs(value.number()), 2) == (name == "odd" ? 1 : 0);
  }
  if (name == "upper" || name == "lower") return all_are(print(value), "is" + name);
  throw Fault("No test named '" + name + "'.");
}

inline bool compare(const std::string& symbol, const Value& a, const Value& b) {
  if (symbol == "in") return contains(b, a);
  if (symbol == "not in") return !contains(b, a);
  return apply_test(symbol, a, {{b}, {}});
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
