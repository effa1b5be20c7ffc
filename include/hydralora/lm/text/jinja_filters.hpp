// SPDX-License-Identifier: MIT
// The filters and tests of a Jinja template.
#pragma once

#include <map>

#include "hydralora/lm/text/jinja_methods.hpp"
#include "hydralora/lm/text/jinja_operators.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// The settings of Python's json.dumps.
struct JsonStyle {
  bool ascii, sorted, lines;
  std::string indent, comma, colon;
};

inline void json_to(std::string& out, const Value& value, const JsonStyle& style, std::size_t depth) {
  within_limit(out.size());
  const auto string = [&](const std::string& text) {
    out += nlohmann::json(text).dump(-1, ' ', style.ascii, nlohmann::json::error_handler_t::replace);
  };
  bool first = true;
  const auto line = [&](std::size_t level) {
    if (!style.lines) return;
    within_limit(out.size() + level * style.indent.size());
    out += '\n';
    while (level-- > 0) out += style.indent;
  };
  const auto separate = [&] {
    if (!std::exchange(first, false)) out += style.comma;
    line(depth + 1);
  };
  if (value.is(Kind::string)) {
    string(value.text());
  } else if (value.is(Kind::none) || value.is(Kind::boolean)) {
    out += value.is(Kind::none) ? "null" : value.truth() ? "true" : "false";
  } else if (value.is_number()) {
    const double number = value.number();
    out += std::isfinite(number) ? print(value) : std::isnan(number) ? "NaN" : number < 0 ? "-Infinity" : "Infinity";
  } else if (value.is_sequence()) {
    out += '[';
    for (const Value& item : value.list()) {
      separate();
      json_to(out, item, style, depth + 1);
    }
    if (!first) line(depth);
    out += ']';
  } else if (value.is(Kind::dict)) {
    Dict pairs = value.dict();
    if (style.sorted) {
      std::stable_sort(pairs.begin(), pairs.end(),
                       [](const auto& a, const auto& b) { return Value::less(a.first, b.first); });
    }
    out += '{';
    for (const auto& [key, item] : pairs) {
      separate();
      std::string name = key.is(Kind::string) ? key.text() : "";
      if (!key.is(Kind::string)) json_to(name, key, style, 0);
      string(name);
      out += style.colon;
      json_to(out, item, style, depth + 1);
    }
    if (!first) line(depth);
    out += '}';
  } else {
    throw Fault("Object of type " + value.type() + " is not JSON serializable");
  }
}

/// The item that a path such as "function.name" or "0.id" leads to; `value` itself for none.
/// `otherwise` replaces what is undefined on the way.
inline Value item_at_path(Value value, const Value& path, const Value& otherwise = {}) {
  if (path.is(Kind::none)) return value;
  if (!path.is(Kind::string)) return item(value, path);
  const std::string dot = ".";
  for (const std::string& part : split(path.text(), &dot, -1, false)) {
    const Value index = read_number(part, true);
    value = item(value, index.is(Kind::undefined) ? Value(part) : index);
    if (value.is(Kind::undefined) && !otherwise.is(Kind::undefined)) value = otherwise;
  }
  return value;
}

/// What sort, unique, min, max compare: small letters, unless case_sensitive.
inline Value sort_key(const Value& value, const Value& path, bool case_sensitive) {
  Value key = item_at_path(value, path);
  return key.is(Kind::string) && !case_sensitive ? Value(with_case(key.text(), "lower")) : key;
}
inline List sorted(List items, const Value& path, bool case_sensitive, bool descending) {
  std::stable_sort(items.begin(), items.end(), [&](const Value& a, const Value& b) {
    const Value left = sort_key(a, path, case_sensitive), right = sort_key(b, path, case_sensitive);
    return descending ? Value::less(right, left) : Value::less(left, right);
  });
  return items;
}

/// The number that int and float make of a value; undefined where it is none.
inline Value number_of(const Value& value) {
  if (value.is(Kind::undefined)) throw Fault(value.why());
  return value.is(Kind::string) ? read_number(value.text(), false) : value;
}
/// The white space of an indentation, which is a text or a count.
inline std::string spaces(const Value& width) {
  return width.is(Kind::string) ? width.text() : padded("", width.integer(), " ", 1);
}

inline bool apply_test(const std::string& name, const Value& self, const Arguments& given) {
  static const std::map<std::string, std::string> operators = {
      {"==", "=="}, {"eq", "=="}, {"equalto", "=="},    {"!=", "!="}, {"ne", "!="},     {"<", "<"},
      {"lt", "<"},  {"<=", "<="}, {"lessthan", "<"},    {"le", "<="}, {">", ">"},       {"gt", ">"},
      {">=", ">="}, {"ge", ">="}, {"greaterthan", ">"}, {"in", "in"}, {"sameas", "=="}, {"divisibleby", "%"}};
  static const std::map<std::string, Kind> kinds = {
      {"undefined", Kind::undefined}, {"none", Kind::none},     {"boolean", Kind::boolean}, {"integer", Kind::integer},
      {"float", Kind::number},        {"string", Kind::string}, {"mapping", Kind::dict}};
  const auto symbol = operators.find(name);
  if (given.positional.size() != (symbol == operators.end() ? 0U : 1U)) throw Fault(name + " has a wrong argument");
  if (name == "divisibleby") return !arithmetic("%", self, given.positional[0]).truth();
  if (name == "sameas" && self.kind() != given.positional[0].kind()) return false;
  if (symbol != operators.end()) return compare(symbol->second, self, given.positional[0]);
  if (const auto kind = kinds.find(name); kind != kinds.end()) return self.is(kind->second);
  const bool undefined = self.is(Kind::undefined);
  if (name == "defined") return !undefined;
  if (name == "true" || name == "false") return self.is(Kind::boolean) && self.truth() == (name == "true");
  if (name == "number") return self.is_number();
  if (name == "odd" || name == "even") return (arithmetic("%", self, std::int64_t{2}) == Value(1.0)) == (name == "odd");
  if (name == "callable") return undefined || self.is(Kind::callable);
  if (name == "upper" || name == "lower") return all_are(print(self), "is" + name);
  if (name != "sequence" && name != "iterable") throw Fault("No test named '" + name + "'.");
  return undefined || self.is(Kind::string) || self.is(Kind::dict) || self.is_sequence() ||
         (self.is_list() && name == "iterable");
}

inline const Table& filters();

/// map, select, reject, selectattr, rejectattr: another filter or test for each item.
inline Value for_each_item(const Call& c) {
  Arguments given = c.given;
  const auto take = [&] {
    if (given.positional.empty()) throw Fault(c.name + " is missing an argument");
    Value first = given.positional.front();
    given.positional.erase(given.positional.begin());
    return first;
  };
  const bool map = c.name == "map";
  Value path = c.name.size() > 6 ? take() : nullptr, otherwise;  // selectattr, rejectattr
  const bool plain = given.positional.empty();
  for (const auto& [key, value] : given.named) (key == "attribute" ? path : otherwise) = value;
  const std::string function = plain ? "" : print(take());
  List result;
  for (const Value& one : items_of(c.self)) {
    const Value part = item_at_path(one, path, otherwise);
    if (map) {
      result.push_back(plain ? part : filters().call(function, part, given));
    } else if ((plain ? part.truth() : apply_test(function, part, given)) == (c.name[0] == 's')) {
      result.push_back(one);
    }
  }
  return {std::move(result), Kind::generator};
}

inline Value rounded(const Value& value, std::int64_t precision, const std::string& method) {
  if (!value.is_number() || std::abs(precision) > 300) throw Fault("round cannot round this");
  if (value.is_integer() && precision >= 0 && method == "common") return value.integer();
  const double power = std::pow(10.0, static_cast<double>(precision)), scaled = value.number() * power;
  if (method == "ceil" || method == "floor") return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / power;
  if (precision < 0) return std::nearbyint(scaled) / power;
  std::string digits(700, '\0');  // printed and read back: rounds as Python does
  std::snprintf(digits.data(), digits.size(), "%.*f", static_cast<int>(precision), value.number());
  return std::strtod(digits.c_str(), nullptr);
}

inline const Table& filters() {
  static const Table all = [] {
    Table t;
    t.add("map select reject selectattr rejectattr", "*", for_each_item);
    t.add("tojson", "ensure_ascii indent separators sort_keys", [](auto& c) {
      const Value width = c.get(1);
      JsonStyle style{c.truth(0), c.truth(3), c.has(1), spaces(width), c.has(1) ? "," : ", ", ": "};
      if (c.has(2)) {
        const List two = items_of(c.at(2));
        if (two.size() != 2) throw Fault("separators are two strings");
        style.comma = print(two[0]);
        style.colon = print(two[1]);
      }
      std::string out;
      json_to(out, c.self, style, 0);
      return out;
    });
    t.add("default d", "default_value boolean", [](auto& c) {
      return c.self.is(Kind::undefined) || (c.truth(1) && !c.self.truth()) ? c.get(0, "") : c.self;
    });
    t.add("string safe", "", [](auto& c) { return print(c.self); });
    t.add("upper lower capitalize", "", [](auto& c) { return with_case(print(c.self), c.name); });
    t.add("title", "", [](auto& c) { return with_case(print(c.self), "words"); });
    t.add("trim", "chars", [](auto& c) { return std::string(strip(print(c.self), c.text_or_none(0), true, true)); });
    t.add("replace", "old new count",
          [](auto& c) { return replace(print(c.self), print(c.at(0)), print(c.at(1)), c.integer(2, -1)); });
    t.add("format", "*", [](auto& c) { return percent_format(print(c.self), Value(c.given.positional, Kind::tuple)); });
    t.add("indent", "width first blank", [](auto& c) {
      const std::string space = spaces(c.get(0, std::int64_t{4}));
      std::string out;
      bool first = true;
      for (const std::string& line : split_lines(print(c.self) + "\n", false)) {
        out += first ? "" : "\n";
        if (std::exchange(first, false) ? c.truth(1) : c.truth(2) || !line.empty()) out += space;
        within_limit((out += line).size());
      }
      return out;
    });
    t.add("int", "default", [](auto& c) {
      if (c.self.is_integer()) return Value(c.self.integer());
      const Value read = number_of(c.self);
      const bool fits = read.is_number() && std::abs(read.number()) < 9.2e18;
      return fits ? Value(static_cast<std::int64_t>(read.number())) : c.get(0, std::int64_t{0});
    });
    t.add("float", "default", [](auto& c) {
      const Value read = number_of(c.self);
      return read.is_number() ? Value(read.number()) : c.get(0, 0.0);
    });
    t.add("abs", "", [](auto& c) { return arithmetic(c.self.number() < 0 ? "-" : "+", std::int64_t{0}, c.self); });
    t.add("round", "precision method",
          [](auto& c) { return rounded(c.self, c.integer(0, 0), print(c.get(1, "common"))); });
    t.add("length count", "", [](auto& c) {
      if (c.self.is(Kind::generator)) throw Fault("object of type 'generator' has no len()");
      return static_cast<std::int64_t>(items_of(c.self).size());
    });
    t.add("list", "", [](auto& c) { return items_of(c.self); });
    t.add("items", "", [](auto& c) {
      if (!c.self.is(Kind::undefined) && !c.self.is(Kind::dict)) throw Fault("Can only get item pairs from a mapping.");
      return c.self.is(Kind::dict) ? container_methods().call("items", c.self, c.given) : List();
    });
    t.add("first last", "", [](auto& c) {
      const List items = items_of(c.self);
      if (items.empty()) return Value::undefined("No " + c.name + " item, sequence was empty.");
      return c.name == "first" ? items.front() : items.back();
    });
    t.add("reverse", "", [](auto& c) {
      const Value items = c.self.is(Kind::string) ? c.self : Value(items_of(c.self));
      const Value turned = slice(items, nullptr, nullptr, std::int64_t{-1});
      return c.self.is(Kind::string) ? turned : Value(turned.list(), Kind::generator);
    });
    t.add("join", "d attribute", [](auto& c) {
      List items = items_of(c.self);
      for (Value& one : items) one = item_at_path(one, c.get(1));
      return joined(items, print(c.get(0, "")), false);
    });
    t.add("sum", "attribute start", [](auto& c) {
      Value sum = c.get(1, std::int64_t{0});
      for (const Value& one : items_of(c.self)) sum = arithmetic("+", sum, item_at_path(one, c.get(0)));
      return sum;
    });
    t.add("dictsort", "case_sensitive by reverse", [](auto& c) {
      if (!c.self.is(Kind::dict)) throw Fault("dictsort needs a dictionary, not " + c.self.type());
      const Value by = c.get(1, "key") == Value("value") ? std::int64_t{1} : std::int64_t{0};
      return sorted(container_methods().call("items", c.self, {}).list(), by, c.truth(0), c.truth(2));
    });
    t.add("sort", "reverse case_sensitive attribute",
          [](auto& c) { return sorted(items_of(c.self), c.get(2), c.truth(1), c.truth(0)); });
    t.add("min max", "case_sensitive attribute", [](auto& c) {
      const List all_sorted = sorted(items_of(c.self), c.get(1), c.truth(0), c.name == "max");
      return all_sorted.empty() ? Value::undefined("No aggregated item, sequence was empty.") : all_sorted[0];
    });
    t.add("unique", "case_sensitive attribute", [](auto& c) -> Value {
      List kept, keys;
      for (const Value& one : items_of(c.self)) {
        keys.push_back(sort_key(one, c.get(1), c.truth(0)));
        if (std::find(keys.begin(), keys.end() - 1, keys.back()) == keys.end() - 1) kept.push_back(one);
      }
      return {std::move(kept), Kind::generator};
    });
    return t;
  }();
  return all;
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
