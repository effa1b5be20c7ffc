// SPDX-License-Identifier: MIT
// Attributes and methods of a Jinja template's values, and the global functions.
#pragma once

#include <ctime>
#include <map>

#include "hydralora/lm/text/jinja_operators.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// One call of a filter, a method or a global function.
struct Call {
  std::string name;
  Value self;
  const Arguments& given;
  List values;  ///< in the order of the parameters; undefined where an argument is absent

  Value get(std::size_t i, Value otherwise = nullptr) const {
    return values[i].is(Kind::undefined) ? std::move(otherwise) : values[i];
  }
  bool has(std::size_t i) const { return !get(i).is(Kind::none); }
  bool truth(std::size_t i) const { return values[i].truth(); }
  const Value& at(std::size_t i) const {
    if (values[i].is(Kind::undefined)) throw Fault(name + " is missing an argument");
    return values[i];
  }
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

/// Functions by name.
class Table {
 public:
  /// @param names       that it goes by, with spaces between them
  /// @param parameters  their names, with spaces between them; * takes all
  void add(const std::string& names, const std::string& parameters, std::function<Value(const Call&)> run) {
    for (const std::string& name : split(names, nullptr)) all_[name] = {split(parameters, nullptr), run};
  }
  bool has(const std::string& name) const { return all_.count(name) > 0; }
  /// @throws Fault  where there is no such function, too many arguments, or one with an unknown name.
  Value call(const std::string& name, const Value& self, const Arguments& given) const {
    if (!has(name)) throw Fault("No filter named '" + name + "'.");
    const auto& [parameters, run] = all_.at(name);
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
  std::map<std::string, std::pair<std::vector<std::string>, std::function<Value(const Call&)>>> all_;
};

/// '{} {0} {name}'.format(…), without format specifications and {{.
inline std::string brace_format(const std::string& text, const Arguments& given) {
  std::string out;
  std::int64_t next = 0;
  std::size_t at = 0, open = 0;
  while ((open = text.find('{', at)) != std::string::npos) {
    const std::size_t close = text.find('}', open);
    if (close == std::string::npos || text.find("}}") != std::string::npos)
      throw Fault("format: a brace is not supported");
    const std::string field = text.substr(open + 1, close - open - 1);
    const Value index = field.empty() ? Value(next++) : read_number(field, true);
    const auto place = static_cast<std::size_t>(index.integer());
    const bool found = index.is(Kind::integer) && place < given.positional.size();
    const Value* value = found ? &given.positional[place] : nullptr;
    for (const auto& [name, named] : given.named) value = name == field ? &named : value;
    if (value == nullptr) throw Fault("the format field '{" + field + "}' has no argument or is not supported");
    within_limit((out += text.substr(at, open - at) + print(*value)).size());
    at = close + 1;
  }
  return out + text.substr(at);
}

/// What stands between the items is `mark`. @param strict  whether they must be strings
inline std::string joined(const List& items, const std::string& mark, bool strict) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (strict && !items[i].is(Kind::string)) throw Fault("join needs strings, found " + items[i].type());
    within_limit((out += (i > 0 ? mark : "") + print(items[i])).size());
  }
  return out;
}

inline const Table& string_methods() {
  static const Table all = [] {
    Table t;
    t.add("strip lstrip rstrip", "chars",
          [](auto& c) { return strip(c.self.text(), c.text_or_none(0), c.name != "rstrip", c.name != "lstrip"); });
    t.add("split rsplit", "sep maxsplit", [](auto& c) {
      return values_of(split(c.self.text(), c.text_or_none(0), c.integer(1, -1), c.name == "rsplit"));
    });
    t.add("splitlines", "keepends", [](auto& c) { return values_of(split_lines(c.self.text(), c.truth(0))); });
    t.add("upper lower title capitalize", "", [](auto& c) { return with_case(c.self.text(), c.name); });
    t.add("isdigit isdecimal isnumeric isalpha isalnum isspace isupper islower", "",
          [](auto& c) { return all_are(c.self.text(), c.name); });
    t.add("replace", "old new count",
          [](auto& c) { return replace(c.self.text(), c.text(0), c.text(1), c.integer(2, -1)); });
    t.add("join", "iterable", [](auto& c) { return joined(items_of(c.get(0, {})), c.self.text(), true); });
    t.add("format", "*", [](auto& c) { return brace_format(c.self.text(), c.given); });
    t.add("startswith endswith", "prefix start end", [](auto& c) {
      const Value part = slice(c.self, c.get(1), c.get(2), nullptr);
      const List choices = c.at(0).is(Kind::tuple) ? c.at(0).list() : List{c.text(0)};
      return std::any_of(choices.begin(), choices.end(), [&](const Value& choice) {
        return c.name == "endswith" ? ends(part.text(), print(choice)) : begins(part.text(), print(choice));
      });
    });
    t.add("removeprefix removesuffix", "part", [](auto& c) -> Value {
      const std::string &text = c.self.text(), &part = c.text(0);
      if (c.name == "removesuffix") return ends(text, part) ? text.substr(0, text.size() - part.size()) : text;
      return begins(text, part) ? text.substr(part.size()) : text;
    });
    t.add("count", "sub start end", [](auto& c) {
      const Value part = slice(c.self, c.get(1), c.get(2), nullptr);
      return static_cast<std::int64_t>(replace(part.text(), c.text(0), c.text(0) + "+", -1).size() -
                                       part.text().size());
    });
    t.add("find rfind index rindex", "sub start end", [](auto& c) {
      const Value part = slice(c.self, c.get(1), c.get(2), nullptr);
      const std::size_t at = c.name[0] == 'r' ? part.text().rfind(c.text(0)) : part.text().find(c.text(0));
      if (at == std::string::npos && c.name.back() == 'x') throw Fault("substring not found");
      if (at == std::string::npos) return std::int64_t{-1};
      return length(slice(c.self, nullptr, c.get(1, std::int64_t{0}), nullptr).text()) +
             length(part.text().substr(0, at));
    });
    t.add("zfill ljust rjust center", "width fillchar", [](auto& c) {
      const std::string& text = c.self.text();
      const std::string fill = c.name == "zfill" ? "0" : c.has(1) ? c.text(1) : " ";
      const std::string sign = c.name == "zfill" && (begins(text, "-") || begins(text, "+")) ? text.substr(0, 1) : "";
      const double left = c.name == "ljust" ? 0 : c.name == "center" ? 0.5 : 1;
      return sign + padded(text.substr(sign.size()), c.integer(0, 0) - length(sign), fill, left);
    });
    t.add("partition rpartition", "sep", [](auto& c) -> Value {
      List parts = values_of(split(c.self.text(), &c.text(0), 1, c.name == "rpartition"));
      if (parts.size() == 2) return {List{parts[0], c.at(0), parts[1]}, Kind::tuple};
      return {c.name == "partition" ? List{c.self, "", ""} : List{"", "", c.self}, Kind::tuple};
    });
    return t;
  }();
  return all;
}

/// Of dictionaries, and index, count and copy of lists.
inline const Table& container_methods() {
  static const Table all = [] {
    Table t;
    t.add("get", "key default", [](auto& c) {
      const Value* const found = c.self.find(c.values[0]);
      return found != nullptr ? *found : c.get(1);
    });
    t.add("items keys values", "", [](auto& c) {
      List items;
      for (const auto& [key, value] : c.self.dict()) {
        items.push_back(c.name == "items" ? Value(List{key, value}, Kind::tuple) : c.name == "keys" ? key : value);
      }
      return items;
    });
    t.add("copy", "", [](auto& c) { return c.self; });
    t.add("index count", "value", [](auto& c) {
      const List& items = c.self.list();
      const auto found = std::find(items.begin(), items.end(), c.at(0));
      if (c.name == "count") return static_cast<std::int64_t>(std::count(found, items.end(), c.at(0)));
      if (found == items.end()) throw Fault(print(c.at(0), true) + " is not in list");
      return static_cast<std::int64_t>(found - items.begin());
    });
    return t;
  }();
  return all;
}

inline const Table& globals() {
  static const Table all = [] {
    Table t;
    t.add("range", "start stop step", [](auto& c) {
      const std::int64_t first = c.has(1) ? c.integer(0, 0) : 0, step = c.integer(2, 1);
      const double stop = c.has(1) ? c.at(1).number() : c.at(0).number();
      if (step == 0) throw Fault("range() arg 3 must not be zero");
      const double count = (stop - static_cast<double>(first)) / static_cast<double>(step);
      if (count > 100000) throw Fault("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
      List items;
      for (std::int64_t i = 0; static_cast<double>(i) < count; ++i) items.emplace_back(first + i * step);
      return items;
    });
    t.add("dict namespace", "*", [](auto& c) -> Value {
      Dict pairs;
      for (const Value& from : c.given.positional) {
        if (!from.is(Kind::dict)) throw Fault(c.name + " needs a dictionary, not " + from.type());
        for (const auto& [key, value] : from.dict()) set(pairs, key, value);
      }
      for (const auto& [key, value] : c.given.named) set(pairs, key, value);
      return {std::move(pairs), c.name == "dict" ? Kind::dict : Kind::space};
    });
    t.add("raise_exception", "message", [](auto& c) -> Value { throw Fault(print(c.values[0])); });
    t.add("strftime_now", "format", [](auto& c) {
      const std::time_t now = std::time(nullptr);
      std::string out(within_limit(c.text(0).size() * 32 + 256), '\0');
      out.resize(std::strftime(out.data(), out.size(), c.text(0).c_str(), std::localtime(&now)));
      return out;
    });
    return t;
  }();
  return all;
}

inline Value missing(const Value& object, const Value& key) {
  const std::string type = object.is(Kind::none) ? "None" : object.type() + " object";
  return Value::undefined("'" + type + "' has no attribute " + print(key, true));
}

/// object.name: the method, else the item. The sandbox refuses methods that change the object.
/// @throws Fault  where the object is undefined.
inline Value attribute(const Value& object, const std::string& name) {
  if (object.is(Kind::undefined)) throw Fault(object.why());
  const std::string changing = object.is(Kind::list)   ? " append extend insert remove reverse sort clear pop "
                               : object.is(Kind::dict) ? " clear pop popitem setdefault update "
                                                       : "";
  if (changing.find(" " + name + " ") != std::string::npos) {
    return Value::undefined("access to attribute '" + name + "' of '" + object.type() + "' object is unsafe.");
  }
  const Table& methods = object.is(Kind::string) ? string_methods() : container_methods();
  const bool of_list = name == "index" || name == "count" || name == "copy";
  const bool own =
      object.is(Kind::dict) ? !of_list || name == "copy" : object.is(Kind::string) || (object.is_sequence() && of_list);
  if (own && methods.has(name)) {
    return {[&methods, object, name](const Arguments& given) { return methods.call(name, object, given); }, object};
  }
  const Value* const item = object.is(Kind::dict) || object.is(Kind::space) ? object.find(name) : nullptr;
  return item != nullptr ? *item : missing(object, name);
}

/// object[key]: the item, else the attribute. @throws Fault  where the object is undefined.
inline Value item(const Value& object, const Value& key) {
  if (object.is(Kind::undefined)) throw Fault(object.why());
  if (object.is(Kind::dict)) {
    if (const Value* const found = object.find(key)) return *found;
  } else if (key.is_integer() && (object.is(Kind::string) || object.is_sequence())) {
    const List items = object.is(Kind::string) ? items_of(object) : List();
    const List& all = object.is(Kind::string) ? items : object.list();
    const auto size = static_cast<std::int64_t>(all.size());
    const std::int64_t i = key.integer() < 0 ? key.integer() + size : key.integer();
    return i < 0 || i >= size ? missing(object, key) : all[static_cast<std::size_t>(i)];
  }
  return key.is(Kind::string) ? attribute(object, key.text()) : missing(object, key);
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
