// SPDX-License-Identifier: MIT
// The filters, tests, methods and global functions of a Jinja template.
#pragma once

#include <ctime>
#include <map>

#include "hydralora/lm/text/jinja_operators.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

/// One call of a function.
struct Call {
  std::string name;
  Value self;
  Arguments given;
  List values;  ///< in the order of the parameters; undefined where an argument is absent

  Value get(std::size_t i, Value otherwise = nullptr) const {
    return values[i].is(Kind::undefined) ? std::move(otherwise) : values[i];
  }
  const Value& at(std::size_t i) const {
    if (values[i].is(Kind::undefined)) throw Fault(name + " is missing an argument");
    return values[i];
  }
  bool has(std::size_t i) const { return !get(i).is(Kind::none); }
  std::int64_t integer(std::size_t i, std::int64_t otherwise) const {
    if (has(i) && !values[i].is_integer()) throw Fault(name + " needs an integer, not " + values[i].type());
    return has(i) ? values[i].integer() : otherwise;
  }
  const std::string& text(std::size_t i) const {
    if (!at(i).is(Kind::string)) throw Fault(name + " needs a string, not " + at(i).type());
    return at(i).text();
  }
  const std::string* text_or_none(std::size_t i) const { return has(i) ? &text(i) : nullptr; }
};

inline Fault no_attribute(const std::string& type, const std::string& name) {
  return Fault("'" + type + " object' has no attribute '" + name + "'");
}

/// Functions by kind and name. The kinds are filter, test, global, and the types that have methods.
class Table {
 public:
  /// @param kinds       of these
  /// @param names       under each of these
  /// @param parameters  their names; * takes all. In all three stand spaces between the words.
  void add(const char* kinds, const char* names, const char* parameters, const std::function<Value(const Call&)>& run) {
    for (const std::string& kind : split(kinds)) {
      for (const std::string& name : split(names)) all_[{kind, name}] = {split(parameters), run};
    }
  }
  bool has(const std::string& kind, const std::string& name) const { return all_.count({kind, name}) > 0; }
  /// @throws Fault  where there is no such function, too many arguments, or one with an unknown name.
  Value call(const std::string& kind, const std::string& name, const Value& self, const Arguments& given) const {
    if (!has(kind, name) && kind != "filter" && kind != "test") throw no_attribute(kind, name);
    if (!has(kind, name)) throw Fault("No " + kind + " named '" + name + "'.");
    const auto& [parameters, run] = all_.at({kind, name});
    Call made{name, self, given, List(parameters.size())};
    if (parameters == std::vector<std::string>{"*"}) return run(made);
    if (given.positional.size() > parameters.size()) throw Fault(name + " was given too many arguments");
    std::copy(given.positional.begin(), given.positional.end(), made.values.begin());
    for (const auto& [key, value] : given.named) {
      const auto found = std::find(parameters.begin(), parameters.end(), key);
      if (found == parameters.end()) throw Fault(name + " got an unexpected keyword argument '" + key + "'");
      made.values[static_cast<std::size_t>(found - parameters.begin())] = value;
    }
    return run(made);
  }

 private:
  struct Entry {
    std::vector<std::string> parameters;
    std::function<Value(const Call&)> run;
  };
  std::map<std::pair<std::string, std::string>, Entry> all_;
};

inline const Table& functions();

/// object.key, where methods are first, or object[key], where items are. Undefined where there is neither.
/// @throws Fault  where the object is undefined.
inline Value item(const Value& object, const Value& key, bool is_attribute = false) {
  const Value* const found = object.defined().find(key);
  const bool is_method = key.is(Kind::string) && functions().has(object.type(), key.text());
  if (found != nullptr && !(is_method && is_attribute && object.is(Kind::dict))) return *found;
  if (is_method) return Value(std::int64_t{0}, Kind::callable);
  if (key.is_integer() && (object.is(Kind::string) || object.is_sequence())) {
    const Value behind = key.integer() == -1 ? Value(nullptr) : Value(key.integer() + 1);
    const Value one = slice(object, key, behind, nullptr);  // nothing, or the one
    if (one.truth()) return one.is(Kind::string) ? one : one.list()[0];
  }
  return Value::undefined(no_attribute(object.type(), print(key)).what());
}

/// The item that a path such as "function.name" leads to, or `otherwise`; `value` itself where the path is none.
inline Value item_at_path(Value value, const Value& path, const Value& otherwise = {}) {
  if (path.is(Kind::none)) return value;
  if (!path.is(Kind::string)) return item(value, path);
  const std::string dot = ".";
  for (const std::string& part : split(path.text(), &dot)) {
    value = item(value, part);
    if (value.is(Kind::undefined)) value = otherwise;
  }
  return value;
}

/// What stands between the items is `mark`.
inline std::string joined(const List& items, const std::string& mark) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) within_limit((out += (i > 0 ? mark : "") + print(items[i])).size());
  return out;
}

/// map, select, reject, selectattr, rejectattr: another filter or test for each item.
inline Value for_each_item(const Call& c) {
  Arguments rest = c.given;
  List& unnamed = rest.positional;
  const bool map = c.name == "map", by_attribute = c.name.size() > 6;  // selectattr, rejectattr
  if (by_attribute && unnamed.empty()) throw Fault(c.name + " is missing an argument");
  Value path = by_attribute ? unnamed[0] : nullptr, otherwise;
  for (const auto& [key, value] : rest.named) (key == "attribute" ? path : otherwise) = value;
  if (by_attribute) unnamed.erase(unnamed.begin());
  const bool plain = unnamed.empty();
  const std::string function = plain ? "" : print(unnamed[0]);
  if (!plain) unnamed.erase(unnamed.begin());
  List result;
  for (const Value& one : items_of(c.self)) {
    const Value part = item_at_path(one, path, otherwise);
    const Value made = plain ? part : functions().call(map ? "filter" : "test", function, part, rest);
    if (map || made.truth() == (c.name[0] == 's')) result.push_back(map ? made : one);
  }
  return {std::move(result), Kind::generator};
}

inline const Table& functions() {
  static const Table all = [] {
    Table t;
    t.add("str filter", "upper lower capitalize title", "", [](auto& c) { return with_case(print(c.self), c.name); });
    t.add("str filter", "replace", "old new count",
          [](auto& c) { return replace(print(c.self), print(c.at(0)), print(c.at(1)), c.integer(2, -1)); });
    t.add("str", "strip lstrip rstrip", "chars",
          [](auto& c) { return strip(c.self.text(), c.name != "rstrip", c.name != "lstrip", c.text_or_none(0)); });
    t.add("filter", "trim", "chars", [](auto& c) { return strip(print(c.self), true, true, c.text_or_none(0)); });
    t.add("str", "split rsplit", "sep maxsplit", [](auto& c) {
      const auto parts = split(c.self.text(), c.text_or_none(0), c.integer(1, -1), c.name == "rsplit");
      return List(parts.begin(), parts.end());
    });
    t.add("str", "join", "iterable", [](auto& c) { return joined(items_of(c.values[0]), c.self.text()); });
    t.add("filter", "join", "d attribute", [](auto& c) {
      List items = items_of(c.self);
      for (Value& one : items) one = print(item_at_path(one, c.get(1)));
      return joined(items, print(c.get(0, "")));
    });
    t.add("str", "startswith endswith", "part", [](auto& c) {
      const List choices = c.values[0].is(Kind::tuple) ? c.values[0].list() : List{c.text(0)};
      return std::any_of(choices.begin(), choices.end(), [&](const Value& choice) {
        return (c.name == "endswith" ? ends : begins)(c.self.text(), print(choice));
      });
    });
    t.add("str", "find count", "part", [](auto& c) -> std::int64_t {
      if (c.name == "count") return static_cast<std::int64_t>(split(c.self.text(), &c.text(0)).size()) - 1;
      const std::size_t at = c.self.text().find(c.text(0));
      return at == std::string::npos ? -1 : length(c.self.text().substr(0, at));
    });
    t.add("dict", "get", "key default", [](auto& c) {
      const Value* const found = c.self.find(c.values[0]);
      return found != nullptr ? *found : c.get(1);
    });
    t.add("dict filter", "items keys values", "", [](auto& c) {
      if (!c.self.is(Kind::undefined) && !c.self.is(Kind::dict)) throw Fault("Can only get item pairs from a mapping.");
      List items;
      for (const auto& [key, value] : c.self.dict()) {
        items.push_back(c.name == "items" ? Value(List{key, value}, Kind::tuple) : c.name == "keys" ? key : value);
      }
      return items;
    });
    t.add("filter", "dictsort sort", "", [](auto& c) {
      List items = c.name == "sort" ? items_of(c.self) : functions().call("dict", "items", c.self, {}).list();
      const auto key = [&](const Value& value) {  // small letters and capitals are the same
        const Value& found = c.name == "sort" ? value : value.list()[0];
        return found.is(Kind::string) ? Value(with_case(found.text(), "lower")) : found;
      };
      std::stable_sort(items.begin(), items.end(), [&](auto& a, auto& b) { return key(a) < key(b); });
      return items;
    });
    t.add("filter", "map select reject selectattr rejectattr", "*", for_each_item);
    t.add("filter", "tojson", "ensure_ascii indent separators sort_keys", [](auto& c) {
      Style style{true, c.values[0].truth(), c.values[3].truth(), c.has(1)};
      const std::int64_t width = std::clamp<std::int64_t>(c.values[1].integer(), 0, 99);
      if (style.lines) style.comma = ",", style.indent.assign(static_cast<std::size_t>(width), ' ');
      if (c.values[1].is(Kind::string)) style.indent = c.text(1);
      if (c.has(2)) style.comma = print(item(c.values[2], 0)), style.colon = print(item(c.values[2], 1));
      return print(c.self, style);
    });
    t.add("filter", "default d", "default_value boolean", [](auto& c) {
      return c.self.is(Kind::undefined) || (c.values[1].truth() && !c.self.truth()) ? c.get(0, "") : c.self;
    });
    t.add("filter", "string safe", "", [](auto& c) { return print(c.self); });
    t.add("filter", "int float", "default", [](auto& c) {
      const Value read = c.self.defined().is(Kind::string) ? read_number(c.self.text()) : c.self;
      const bool whole = c.name == "int", good = read.is_number() && (!whole || std::abs(read.number()) < 9e15);
      if (whole) return good ? Value(static_cast<std::int64_t>(read.number())) : c.get(0, 0);
      return good ? Value(read.number()) : c.get(0, 0.0);
    });
    t.add("filter", "abs", "", [](auto& c) { return arithmetic("*", c.self, c.self.number() < 0 ? -1 : 1); });
    t.add("filter", "length count", "", [](auto& c) {
      if (c.self.is(Kind::generator)) throw Fault("object of type 'generator' has no len()");
      return c.self.is(Kind::string) ? length(c.self.text()) : static_cast<std::int64_t>(items_of(c.self).size());
    });
    t.add("filter", "list", "", [](auto& c) { return items_of(c.self); });
    t.add("filter", "first last", "", [](auto& c) {
      const List items = items_of(c.self);
      if (items.empty()) return Value::undefined("No " + c.name + " item, sequence was empty.");
      return c.name == "first" ? items.front() : items.back();
    });
    t.add("filter", "reverse", "", [](auto& c) -> Value {
      List items = items_of(c.self);
      std::reverse(items.begin(), items.end());
      return c.self.is(Kind::string) ? Value(joined(items, "")) : Value(std::move(items), Kind::generator);
    });
    const std::pair<const char*, const char*> symbols[] = {
        {"== eq equalto", "=="}, {"!= ne", "!="}, {"< lt lessthan", "<"}, {"<= le", "<="}, {"> gt greaterthan", ">"},
        {">= ge", ">="},         {"in", "in"}};
    for (const auto& [names, symbol] : symbols) {
      t.add("test", names, "other", [symbol = symbol](auto& c) { return compare(symbol, c.self, c.at(0)); });
    }
    t.add("test", "sameas", "other", [](auto& c) { return c.self.kind() == c.at(0).kind() && c.self == c.at(0); });
    t.add("test", "divisibleby", "number", [](auto& c) { return !arithmetic("%", c.self, c.at(0)).truth(); });
    t.add("test", "undefined none boolean integer float string mapping", "", [](auto& c) {
      static const auto kinds = split("undefined none boolean integer float string list tuple generator mapping");
      const auto kind = static_cast<std::size_t>(c.self.kind());
      return kind < kinds.size() && c.name == kinds[kind];
    });
    t.add("test", "defined", "", [](auto& c) { return !c.self.is(Kind::undefined); });
    t.add("test", "number", "", [](auto& c) { return c.self.is_number(); });
    t.add("test", "true false", "",
          [](auto& c) { return c.self.is(Kind::boolean) && c.self.truth() == (c.name == "true"); });
    t.add("test", "odd even", "", [](auto& c) { return arithmetic("%", c.self, 2).truth() == (c.name == "odd"); });
    t.add("test", "callable", "", [](auto& c) { return c.self.is(Kind::callable); });
    t.add("test", "sequence iterable", "", [](auto& c) {
      return c.self.is(Kind::undefined) || c.self.is(Kind::string) || c.self.is(Kind::dict) || c.self.is_sequence() ||
             (c.self.is_list() && c.name == "iterable");
    });
    t.add("global", "range", "start stop step", [](auto& c) {
      const std::int64_t first = c.has(1) ? c.integer(0, 0) : 0, step = c.integer(2, 1);
      const double stop = c.has(1) ? c.at(1).number() : c.at(0).number();
      const double count = (stop - static_cast<double>(first)) / static_cast<double>(step);
      if (!(count <= 100000)) throw Fault("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
      List items;
      for (std::int64_t i = 0; static_cast<double>(i) < count; ++i) {
        items.push_back(arithmetic("+", first, arithmetic("*", i, step)));
      }
      return items;
    });
    t.add("global", "dict namespace", "*", [](auto& c) -> Value {
      if (!c.given.positional.empty()) throw Fault(c.name + " takes only name=value");
      Value made(Dict(), c.name == "dict" ? Kind::dict : Kind::space);
      for (const auto& [key, value] : c.given.named) made.set(key, value);
      return made;
    });
    t.add("Namespace", "cycle", "*", [](auto& c) {  // loop.cycle
      const List& choices = c.given.positional;
      if (choices.empty()) throw Fault("no items for cycling given");
      return choices[static_cast<std::size_t>(item(c.self, "index0").integer()) % choices.size()];
    });
    t.add("Namespace", "changed", "*", [](auto& c) {  // loop.changed
      const Value now = print(c.given.positional), before = item(c.self, "changed");
      Value(c.self).set("changed", now);
      return !(now == before);
    });
    t.add("global", "raise_exception", "message", [](auto& c) -> Value { throw Fault(print(c.values[0])); });
    t.add("global", "strftime_now", "format", [](auto& c) {
      const std::time_t now = std::time(nullptr);
      std::string out(c.text(0).size() * 32 + 256, '\0');
      out.resize(std::strftime(out.data(), out.size(), c.text(0).c_str(), std::localtime(&now)));
      return out;
    });
    return t;
  }();
  return all;
}

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
