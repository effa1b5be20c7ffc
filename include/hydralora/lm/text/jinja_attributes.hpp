// SPDX-License-Identifier: MIT
// Items, attributes and slices of a Jinja template's values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

inline Value characters(const std::string& text) {
  List items;
  const std::vector<std::size_t> starts = code_points(text);
  for (std::size_t i = 0; i + 1 < starts.size(); ++i)
    items.emplace_back(text.substr(starts[i], starts[i + 1] - starts[i]));
  return items;
}

/// What a loop goes through. @throws Fault  where Python cannot.
inline List items_of(const Value& value) {
  if (value.is(Value::Kind::generator)) return value.consumed();
  if (value.is_list()) return value.list();
  if (value.is(Value::Kind::string)) return characters(value.text()).list();
  if (value.is(Value::Kind::undefined)) return {};
  if (!value.is(Value::Kind::dict)) throw Fault("'" + value.type() + "' object is not iterable");
  List keys;
  for (const auto& pair : value.dict()) keys.push_back(pair.first);
  return keys;
}

inline std::int64_t length(const Value& value) {
  if (value.is(Value::Kind::string)) return static_cast<std::int64_t>(code_points(value.text()).size()) - 1;
  if (value.is_list() && !value.is(Value::Kind::generator)) return static_cast<std::int64_t>(value.list().size());
  if (value.is(Value::Kind::dict)) return static_cast<std::int64_t>(value.dict().size());
  if (value.is(Value::Kind::undefined)) return 0;
  throw Fault("object of type '" + value.type() + "' has no len()");
}

inline bool contains(const Value& all, const Value& one) {
  if (all.is(Value::Kind::string)) {
    if (!one.is(Value::Kind::string)) throw Fault("'in <string>' requires string as left operand, not " + one.type());
    return all.text().find(one.text()) != std::string::npos;
  }
  if (all.is(Value::Kind::dict)) return all.find(one) != nullptr;
  const List items = items_of(all);
  return std::find(items.begin(), items.end(), one) != items.end();
}

inline bool is_one_of(const std::string& name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

inline Value missing(const Value& object, const Value& key) {
  const std::string type = object.is(Value::Kind::none) ? "None" : object.type() + " object";
  return Value::undefined(key.is(Value::Kind::string) ? "'" + type + "' has no attribute '" + key.text() + "'"
                                                      : type + " has no element " + print(key, true));
}

inline Value loop_attribute(const Loop& loop, const std::string& name, const Value& self) {
  const auto size = static_cast<std::int64_t>(loop.items.size());
  const auto item = [&](std::int64_t i, const char* why) {
    return i < 0 || i >= size ? Value::undefined(why) : loop.items[static_cast<std::size_t>(i)];
  };
  if (name == "index") return loop.index0 + 1;
  if (name == "index0") return loop.index0;
  if (name == "revindex") return size - loop.index0;
  if (name == "revindex0") return size - loop.index0 - 1;
  if (name == "first") return loop.index0 == 0;
  if (name == "last") return loop.index0 + 1 == size;
  if (name == "length") return size;
  if (name == "depth") return loop.depth0 + 1;
  if (name == "depth0") return loop.depth0;
  if (name == "previtem") return item(loop.index0 - 1, "there is no previous item");
  if (name == "nextitem") return item(loop.index0 + 1, "there is no next item");
  if (name != "cycle" && name != "changed") return missing(self, name);
  return {std::make_shared<Callable>(Callable{name, self}), self};
}

/// A method of `object` as a value; undefined where there is none. The sandbox refuses those that change the object.
inline Value method(const Value& object, const std::string& name) {
  bool known = false, unsafe = false;
  if (object.is(Value::Kind::string)) {
    known =
        is_one_of(name, {"strip",     "lstrip",    "rstrip",  "split",   "rsplit",       "splitlines",   "startswith",
                         "endswith",  "upper",     "lower",   "title",   "capitalize",   "replace",      "join",
                         "find",      "rfind",     "index",   "count",   "removeprefix", "removesuffix", "isdigit",
                         "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace",      "isupper",      "islower",
                         "format",    "zfill",     "ljust",   "rjust",   "center",       "partition",    "rpartition",
                         "swapcase",  "casefold"});
  } else if (object.is(Value::Kind::dict)) {
    unsafe = is_one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
    known = is_one_of(name, {"items", "keys", "values", "get", "copy"});
  } else if (object.is(Value::Kind::list) || object.is(Value::Kind::tuple) || object.is(Value::Kind::range)) {
    unsafe = object.is(Value::Kind::list) &&
             is_one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
    known = is_one_of(name, {"index", "count"}) || (object.is(Value::Kind::list) && name == "copy");
  } else if (object.is(Value::Kind::callable) && object.callable()->name == "cycler") {
    known = is_one_of(name, {"next", "reset"});
  }
  if (unsafe) {
    return Value::undefined("access to attribute '" + name + "' of '" + object.type() + "' object is unsafe.");
  }
  return known ? Value(std::make_shared<Callable>(Callable{name, object}), object) : Value();
}

/// object.name: the attribute, else the item. @throws Fault  where the object is undefined.
inline Value attribute(const Value& object, const std::string& name) {
  if (object.is(Value::Kind::undefined)) throw Fault(object.why());
  if (object.is(Value::Kind::loop)) return loop_attribute(*object.loop(), name, object);
  const Value found = method(object, name);
  if (!found.is(Value::Kind::undefined) || found.why() != Value().why()) return found;
  if (object.is(Value::Kind::callable) && object.callable()->name == "cycler" && name == "current") {
    return object.callable()->self.list()[object.callable()->position];
  }
  const Value* const item = object.is(Value::Kind::dict) || object.is(Value::Kind::space) ? object.find(name) : nullptr;
  return item != nullptr ? *item : missing(object, name);
}

/// object[key]: the item, else the attribute. @throws Fault  where the object is undefined.
inline Value item(const Value& object, const Value& key) {
  if (object.is(Value::Kind::undefined)) throw Fault(object.why());
  if (object.is(Value::Kind::dict)) {
    if (const Value* const found = object.find(key)) return *found;
  } else if (key.is_integer() &&
             (object.is(Value::Kind::string) ||
              (object.is_list() && !object.is(Value::Kind::view) && !object.is(Value::Kind::generator)))) {
    const std::int64_t size = length(object);
    const std::int64_t i = key.integer() < 0 ? key.integer() + size : key.integer();
    if (i < 0 || i >= size) return missing(object, key);
    const auto at = static_cast<std::size_t>(i);
    if (!object.is(Value::Kind::string)) return object.list()[at];
    const std::vector<std::size_t> starts = code_points(object.text());
    return object.text().substr(starts[at], starts[at + 1] - starts[at]);
  }
  return key.is(Value::Kind::string) ? attribute(object, key.text()) : missing(object, key);
}

/// object[first:behind:step].
inline Value slice(const Value& object, const Value& first, const Value& behind, const Value& by) {
  const bool text = object.is(Value::Kind::string);
  if (object.is(Value::Kind::undefined)) throw Fault(object.why());
  if (!text && !object.is(Value::Kind::list) && !object.is(Value::Kind::tuple) && !object.is(Value::Kind::range)) {
    throw Fault("'" + object.type() + "' object cannot be sliced");
  }
  const List items = text ? characters(object.text()).list() : object.list();
  const auto size = static_cast<std::int64_t>(items.size());
  const auto number = [](const Value& value, std::int64_t otherwise) {
    if (value.is(Value::Kind::none)) return otherwise;
    if (!value.is_integer()) throw Fault("slice indices must be integers or None");
    return value.integer();
  };
  const std::int64_t step = std::clamp<std::int64_t>(number(by, 1), -(std::int64_t{1} << 40U), std::int64_t{1} << 40U);
  if (step == 0) throw Fault("slice step cannot be zero");
  const auto place = [&](const Value& value, std::int64_t otherwise) {
    const std::int64_t i = number(value, otherwise);
    if (value.is(Value::Kind::none)) return i;
    return step > 0 ? std::clamp<std::int64_t>(i < 0 ? i + size : i, 0, size)
                    : std::clamp<std::int64_t>(i < 0 ? i + size : i, -1, size - 1);
  };
  const std::int64_t begin = place(first, step > 0 ? 0 : size - 1), end = place(behind, step > 0 ? size : -1);
  List cut;
  for (std::int64_t i = begin; step > 0 ? i < end : i > end; i += step)
    cut.push_back(items[static_cast<std::size_t>(i)]);
  if (!text) return {object.is(Value::Kind::tuple) ? Value::Kind::tuple : Value::Kind::list, std::move(cut)};
  std::string joined;
  for (const Value& character : cut) joined += character.text();
  return joined;
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
