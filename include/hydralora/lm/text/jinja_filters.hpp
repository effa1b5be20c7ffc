// SPDX-License-Identifier: MIT
// The filters of a Jinja template.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_format.hpp"
#include "hydralora/lm/text/jinja_methods.hpp"
#include "hydralora/lm/text/jinja_numbers.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_tests.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

inline Value generator(List items) { return {Value::Kind::generator, std::move(items)}; }

/// The item that a path such as "function.name" or "0.id" leads to; `value` itself for none.
/// `otherwise` replaces what is undefined on the way.
inline Value item_at_path(Value value, const Value& path, const Value& otherwise = {}) {
  if (path.is(Value::Kind::none)) return value;
  if (!path.is(Value::Kind::string)) return item(value, path);
  const std::string dot = ".";
  for (const std::string& part : split(path.text(), &dot, -1, false)) {
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    value = item(value, number ? Value(static_cast<std::int64_t>(std::stoll(part))) : Value(part));
    if (value.is(Value::Kind::undefined) && !otherwise.is(Value::Kind::undefined)) value = otherwise;
  }
  return value;
}

/// What sort, unique, min, max compare: small letters, unless case_sensitive.
inline Value sort_key(const Value& value, const Value& path, bool case_sensitive) {
  Value key = item_at_path(value, path);
  return key.is(Value::Kind::string) && !case_sensitive ? Value(with_case(key.text(), Case::lower)) : key;
}

inline List sorted(const List& items, const std::vector<List>& keys, bool descending) {
  std::vector<std::size_t> order(items.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto before = [&](std::size_t a, std::size_t b) {
    const Value left(Value::Kind::tuple, keys[a]), right(Value::Kind::tuple, keys[b]);
    return descending ? Value::less(right, left) : Value::less(left, right);
  };
  std::stable_sort(order.begin(), order.end(), before);
  List result;
  for (const std::size_t i : order) result.push_back(items[i]);
  return result;
}

inline std::string to_json(const Value& value, const Arguments& given) {
  const Bound bound(given, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = bound.truth(0);
  style.sorted = bound.truth(3);
  const Value width = bound.get(1, nullptr);
  if (!width.is(Value::Kind::none)) {
    style.lines = true;
    style.comma = ",";
    style.indent =
        width.is(Value::Kind::string)
            ? width.text()
            : std::string(within_limit(static_cast<std::size_t>(std::max<std::int64_t>(0, bound.integer(1, 0)))), ' ');
  }
  const Value separators = bound.get(2, nullptr);
  if (!separators.is(Value::Kind::none)) {
    const List two = items_of(separators);
    if (two.size() != 2 || !two[0].is(Value::Kind::string) || !two[1].is(Value::Kind::string))
      throw Fault("separators are two strings");
    style.comma = two[0].text();
    style.colon = two[1].text();
  }
  return json(value, style);
}

Value apply_filter(const std::string& name, const Value& input, const Arguments& given);

/// map, select, reject, selectattr, rejectattr: another filter or test for each item.
inline Value for_each_item(const std::string& name, const Value& input, Arguments given) {
  const auto take = [&]() -> Value {
    if (given.positional.empty()) throw Fault(name + " is missing an argument");
    Value first = given.positional.front();
    given.positional.erase(given.positional.begin());
    return first;
  };
  List result;
  if (name == "map" && given.positional.empty()) {
    const Bound bound(given, name, {"attribute", "default"});
    const Value path = bound.at(0);
    for (const Value& one : items_of(input)) result.push_back(item_at_path(one, path, bound.get(1, {})));
    return generator(std::move(result));
  }
  const Value path = name.size() > 6 ? take() : Value(nullptr);  // selectattr, rejectattr
  const bool plain = given.positional.empty() && name != "map";
  const Value function = plain ? Value("") : take();
  if (!function.is(Value::Kind::string)) throw Fault(name + " needs the name of a filter or test");
  for (const Value& one : items_of(input)) {
    if (name == "map") {
      result.push_back(apply_filter(function.text(), one, given));
      continue;
    }
    const Value tested = item_at_path(one, path);
    if ((plain ? tested.truth() : apply_test(function.text(), tested, given)) == (name[0] == 's'))
      result.push_back(one);
  }
  return generator(std::move(result));
}

/// sort, unique, min, max, sum, join, dictsort: filters of all items together.
inline Value all_items(const std::string& name, const Value& input, const Arguments& given) {
  if (name == "join") {
    const Bound bound(given, name, {"d", "attribute"});
    const std::string mark = print(bound.get(0, ""));
    std::string out;
    bool first = true;
    for (const Value& one : items_of(input)) {
      if (!std::exchange(first, false)) out += mark;
      out += print(item_at_path(one, bound.get(1, nullptr)));
      within_limit(out.size() + mark.size());
    }
    return out;
  }
  if (name == "dictsort") {
    const Bound bound(given, name, {"case_sensitive", "by", "reverse"});
    if (!input.is(Value::Kind::dict)) throw Fault("dictsort needs a dictionary, not " + input.type());
    const std::string by = print(bound.get(1, "key"));
    if (by != "key" && by != "value") throw Fault("dictsort can sort by key or by value only");
    List pairs;
    std::vector<List> keys;
    for (const auto& [key, value] : input.dict()) {
      pairs.emplace_back(Value::Kind::tuple, List{key, value});
      keys.push_back({sort_key(by == "key" ? key : value, nullptr, bound.truth(0))});
    }
    return sorted(pairs, keys, bound.truth(2));
  }
  if (name == "sort") {
    const Bound bound(given, name, {"reverse", "case_sensitive", "attribute"});
    const List items = items_of(input);
    std::vector<Value> paths = {bound.get(2, nullptr)};
    const std::string comma = ",";
    if (paths[0].is(Value::Kind::string)) paths = values_of(split(paths[0].text(), &comma, -1, false));
    std::vector<List> keys;
    for (const Value& one : items) {
      keys.emplace_back();
      for (const Value& path : paths) keys.back().push_back(sort_key(one, path, bound.truth(1)));
    }
    return sorted(items, keys, bound.truth(0));
  }
  if (name == "sum") {
    const Bound bound(given, name, {"attribute", "start"});
    double number = 0;
    std::int64_t whole = 0;
    bool is_whole = true;
    List all = items_of(input);
    all.insert(all.begin(), bound.get(1, std::int64_t{0}));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Value value = i == 0 ? all[0] : item_at_path(all[i], bound.get(0, nullptr));
      if (!value.is_number()) throw Fault("sum needs numbers, found " + value.type());
      is_whole = is_whole && value.is_integer();
      number += value.number();
      if (std::abs(number) > 9e18 && is_whole) throw Fault("integers beyond 64 bits are not supported");
      if (is_whole) whole += value.integer();
    }
    return is_whole ? Value(whole) : Value(number);
  }
  const Bound bound(given, name, {"case_sensitive", "attribute"});
  List kept, keys;
  for (const Value& one : items_of(input)) {
    Value key = sort_key(one, bound.get(1, nullptr), bound.truth(0));
    if (name == "unique" ? std::find(keys.begin(), keys.end(), key) == keys.end()
                         : kept.empty() || (name == "min" ? Value::less(key, keys[0]) : Value::less(keys[0], key))) {
      if (name != "unique") kept.clear(), keys.clear();
      kept.push_back(one);
      keys.push_back(std::move(key));
    }
  }
  if (name == "unique") return generator(std::move(kept));
  return kept.empty() ? Value::undefined("No aggregated item, sequence was empty.") : kept[0];
}

inline Value apply_filter(const std::string& name, const Value& input, const Arguments& given) {
  if (is_one_of(name, {"map", "select", "reject", "selectattr", "rejectattr"}))
    return for_each_item(name, input, given);
  if (is_one_of(name, {"sort", "unique", "min", "max", "sum", "join", "dictsort"}))
    return all_items(name, input, given);
  if (name == "tojson") return to_json(input, given);
  if (name == "default" || name == "d") {
    const Bound bound(given, name, {"default_value", "boolean"});
    return input.is(Value::Kind::undefined) || (bound.truth(1) && !input.truth()) ? bound.get(0, "") : input;
  }
  if (name == "trim") {
    const Bound bound(given, name, {"chars"});
    return std::string(strip(print(input), bound.text(0), true, true));
  }
  if (name == "replace") {
    const Bound bound(given, name, {"old", "new", "count"});
    return replace(print(input), print(bound.at(0)), print(bound.at(1)), bound.integer(2, -1));
  }
  if (name == "indent") {
    const Bound bound(given, name, {"width", "first", "blank"});
    return indent(input, bound.get(0, std::int64_t{4}), bound.truth(1), bound.truth(2));
  }
  if (name == "int") {
    const Bound bound(given, name, {"default", "base"});
    return to_integer(input, bound.get(0, std::int64_t{0}), bound.integer(1, 10));
  }
  if (name == "float") {
    const Bound bound(given, name, {"default"});
    double number = input.number();
    if (input.is(Value::Kind::undefined)) throw Fault(input.why());
    const bool good = input.is_number() || (input.is(Value::Kind::string) && read_number(input.text(), number));
    return good ? Value(number) : bound.get(0, 0.0);
  }
  if (name == "round") {
    const Bound bound(given, name, {"precision", "method"});
    return rounded(input, bound.integer(0, 0), print(bound.get(1, "common")));
  }
  if (name == "format") {
    if (!given.named.empty()) throw Fault("format with named arguments is not supported");
    return percent_format(print(input), Value(Value::Kind::tuple, given.positional));
  }
  if (name == "batch") {
    const Bound bound(given, name, {"linecount", "fill_with"});
    const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(bound.integer(0, 0), 1, 1 << 20));
    List rows, row;
    for (const Value& one : items_of(input)) {
      if (row.size() == count) rows.emplace_back(std::exchange(row, {}));
      row.push_back(one);
    }
    if (bound.has(1) && !row.empty()) row.resize(count, bound.at(1));
    if (!row.empty()) rows.emplace_back(std::move(row));
    return generator(std::move(rows));
  }
  const Bound none(given, name, {});
  if (name == "string" || name == "safe") return print(input);
  if (name == "upper") return with_case(print(input), Case::upper);
  if (name == "lower") return with_case(print(input), Case::lower);
  if (name == "capitalize") return with_case(print(input), Case::capitalize);
  if (name == "title") return title(print(input));
  if (name == "length" || name == "count") return length(input);
  if (name == "list") return items_of(input);
  if (name == "abs") {
    if (!input.is_number()) throw Fault("bad operand type for abs(): '" + input.type() + "'");
    if (!input.is_integer()) return std::abs(input.number());
    return input.integer() < 0 ? arithmetic("-", std::int64_t{0}, input) : Value(input.integer());
  }
  if (name == "items") {
    if (input.is(Value::Kind::undefined)) return generator({});
    if (!input.is(Value::Kind::dict)) throw Fault("Can only get item pairs from a mapping.");
    return generator(container_method(input, "items", {}).list());
  }
  if (name == "first") {
    const List items = input.is(Value::Kind::generator) ? input.consumed(true) : items_of(input);
    return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
  }
  if (name == "last" || name == "reverse") {
    if (input.is(Value::Kind::generator)) throw Fault("'generator' object is not reversible");
    List items = items_of(input);
    if (name == "last") return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
    std::reverse(items.begin(), items.end());
    if (!input.is(Value::Kind::string)) return generator(std::move(items));
    std::string text;
    for (const Value& one : items) text += one.text();
    return text;
  }
  throw Fault("No filter named '" + name + "'.");
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
