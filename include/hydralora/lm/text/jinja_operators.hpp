// SPDX-License-Identifier: MIT
// Python's operators on the values of a Jinja template.
#pragma once

#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// What a loop goes through. @throws Fault  where Python cannot.
inline List items_of(const Value& value) {
  if (value.is_list()) return value.list();
  if (!value.is(Kind::string) && !value.is(Kind::dict) && !value.is(Kind::undefined)) {
    throw Fault("'" + value.type() + "' object is not iterable");
  }
  List items;
  for (const std::string_view one : characters(value.is(Kind::string) ? value.text() : std::string_view()))
    items.emplace_back(one);
  for (const auto& pair : value.dict()) items.push_back(pair.first);
  return items;
}

inline bool contains(const Value& all, const Value& one) {
  if (all.is(Kind::dict)) return all.find(one) != nullptr;
  if (all.is(Kind::string)) {
    if (!one.is(Kind::string)) throw Fault("'in <string>' requires string as left operand, not " + one.type());
    return all.text().find(one.text()) != std::string::npos;
  }
  const List items = items_of(all);
  return std::find(items.begin(), items.end(), one) != items.end();
}

inline bool compare(const std::string& symbol, const Value& a, const Value& b) {
  if (symbol == "==" || symbol == "!=") return (a == b) == (symbol == "==");
  if (symbol == "in" || symbol == "not in") return contains(b, a) == (symbol == "in");
  return (symbol[0] == '<' ? Value::less(a, b) : Value::less(b, a)) || (symbol.size() > 1 && a == b);
}

/// object[first:behind:step]; none for what is not given.
inline Value slice(const Value& object, const Value& first, const Value& behind, const Value& by) {
  if (object.is(Kind::undefined)) throw Fault(object.why());
  if (!object.is(Kind::string) && !object.is_sequence()) throw Fault("'" + object.type() + "' object cannot be sliced");
  const List items = items_of(object);
  const auto size = static_cast<std::int64_t>(items.size());
  const auto clamped = [](const Value& value, std::int64_t least, std::int64_t most) {
    if (!value.is_integer()) throw Fault("slice indices must be integers or None");
    return std::clamp(value.integer(), least, most);
  };
  const std::int64_t step = by.is(Kind::none) ? 1 : clamped(by, -size - 1, size + 1);
  if (step == 0) throw Fault("slice step cannot be zero");
  const std::int64_t low = step > 0 ? 0 : -1, high = low + size;  // where a slice can begin and end
  const auto place = [&](const Value& value, std::int64_t otherwise) {
    if (value.is(Kind::none)) return otherwise;
    const std::int64_t i = clamped(value, -size - 1, size);
    return std::clamp(i < 0 ? i + size : i, low, high);
  };
  const std::int64_t end = place(behind, step > 0 ? high : low);
  List cut;
  std::string text;
  for (std::int64_t i = place(first, step > 0 ? low : high); step > 0 ? i < end : i > end; i += step) {
    const Value& item = items[static_cast<std::size_t>(i)];
    object.is(Kind::string) ? void(text += item.text()) : cut.push_back(item);
  }
  return object.is(Kind::string) ? Value(text) : Value(std::move(cut), object.kind());
}

/// str.ljust and so on. `left` is how much of the filling stands on the left.
inline std::string padded(const std::string& text, std::int64_t width, const std::string& fill, double left) {
  const auto missing = static_cast<std::size_t>(std::max<std::int64_t>(0, width - length(text)));
  within_limit(text.size() + within_limit(missing) * fill.size());
  std::string out;
  for (std::size_t i = 0; i < missing; ++i) out += fill;
  // Python's center puts the odd one on the left where the width is odd.
  const std::size_t odd = left == 0.5 ? missing & static_cast<std::size_t>(width) & 1U : 0;
  return out.insert((static_cast<std::size_t>(left * static_cast<double>(missing)) + odd) * fill.size(), text);
}

/// Python's text % values, with %s, %d and %% only.
inline std::string percent_format(const std::string& text, const Value& values) {
  const List all = values.is(Kind::tuple) ? values.list() : List{values};
  std::string out;
  std::size_t used = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char type = text[i] != '%' || i + 1 == text.size() ? '\0' : text[++i];
    if (type == '\0' || type == '%') {
      out += text[i];
      continue;
    }
    if (used == all.size()) throw Fault("not enough arguments for format string");
    if (type != 's' && (type != 'd' || !all[used].is_integer())) {
      throw Fault(std::string("%") + type + " is not supported for " + all[used].type());
    }
    within_limit((out += print(all[used++])).size());
  }
  if (used < all.size()) throw Fault("not all arguments converted during string formatting");
  return out;
}

/// Python's a + b, a - b … on values. @throws Fault  where Python raises, and where an integer leaves 64 bits.
inline Value arithmetic(const std::string& symbol, const Value& a, const Value& b) {
  if (a.is(Kind::undefined) || b.is(Kind::undefined)) throw Fault(a.is(Kind::undefined) ? a.why() : b.why());
  if (symbol == "+" && a.kind() == b.kind() && a.is(Kind::string)) {
    within_limit(a.text().size() + b.text().size());
    return a.text() + b.text();
  }
  if (symbol == "+" && a.kind() == b.kind() && a.is_sequence()) {
    List all = a.list();
    all.insert(all.end(), b.list().begin(), b.list().end());
    return {std::move(all), a.kind()};
  }
  if (symbol == "*" && a.is_integer() && !b.is_number()) return arithmetic(symbol, b, a);
  if (symbol == "*" && (a.is(Kind::string) || a.is_sequence()) && b.is_integer()) {
    const std::size_t size = a.text().size() + a.list().size() * 64;
    const std::size_t most = size == 0 ? 0 : most_bytes / size;
    if (b.number() > static_cast<double>(most) && size > 0) within_limit(most_bytes + 1);
    std::string text;
    List items;
    for (std::int64_t i = 0; i < b.integer() && size > 0; ++i) {
      text += a.text();
      items.insert(items.end(), a.list().begin(), a.list().end());
    }
    return a.is(Kind::string) ? Value(std::move(text)) : Value(std::move(items), a.kind());
  }
  if (symbol == "%" && a.is(Kind::string)) return percent_format(a.text(), b);
  if (!a.is_number() || !b.is_number()) {
    throw Fault("unsupported operand type(s) for " + symbol + ": '" + a.type() + "' and '" + b.type() + "'");
  }
  const double x = a.number(), y = b.number();
  const bool divides = symbol == "/" || symbol == "//" || symbol == "%";
  if (divides && y == 0) throw Fault("division by zero");
  const double result = symbol == "+"    ? x + y
                        : symbol == "-"  ? x - y
                        : symbol == "*"  ? x * y
                        : symbol == "**" ? std::pow(x, y)
                                         : x / y;
  if (std::isnan(result) && !std::isnan(x) && !std::isnan(y)) throw Fault("the result is not a real number");
  if (!a.is_integer() || !b.is_integer() || symbol == "/" || (symbol == "**" && y < 0)) {
    if (!divides || symbol == "/") return result;
    double rest = std::fmod(x, y);
    if (rest != 0 && (rest < 0) != (y < 0)) rest += y;
    return symbol == "%" ? rest : std::round((x - rest) / y);
  }
  if (std::abs(result) > 9.2e18) throw Fault("integers beyond 64 bits are not supported");
  const std::int64_t i = a.integer(), j = b.integer();
  if (symbol == "+") return i + j;
  if (symbol == "-") return i - j;
  if (symbol == "*") return i * j;
  if (symbol == "**") {
    std::uint64_t power = 1, base = static_cast<std::uint64_t>(i);  // what is too large is not used
    for (std::int64_t n = j; n > 0; n /= 2, base *= base) power *= n % 2 == 1 ? base : 1;
    return static_cast<std::int64_t>(power);
  }
  const std::int64_t rest = i % j;
  const bool other_sign = rest != 0 && (rest < 0) != (j < 0);
  return symbol == "%" ? rest + (other_sign ? j : 0) : i / j - (other_sign ? 1 : 0);
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
