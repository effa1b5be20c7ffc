// SPDX-License-Identifier: MIT
// Arithmetic on a Jinja template's values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_format.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// Python's a + b, a - b … on values. @throws Fault  where Python raises, and where an integer leaves 64 bits.
inline Value arithmetic(const std::string& symbol, const Value& a, const Value& b) {
  if (a.is(Value::Kind::undefined) || b.is(Value::Kind::undefined))
    throw Fault(a.is(Value::Kind::undefined) ? a.why() : b.why());
  const auto repeat = [](const Value& value, std::int64_t times) -> Value {
    const auto count = static_cast<std::size_t>(std::max<std::int64_t>(0, times));
    const std::size_t size = value.is(Value::Kind::string) ? value.text().size() : value.list().size() * 64;
    if (size > 0 && count > most_bytes / size) within_limit(most_bytes + 1);
    std::string text;
    List items;
    for (std::size_t i = 0; i < count && size > 0; ++i) {
      if (value.is(Value::Kind::string)) {
        text += value.text();
      } else {
        items.insert(items.end(), value.list().begin(), value.list().end());
      }
    }
    return value.is(Value::Kind::string) ? Value(std::move(text)) : Value(value.kind(), std::move(items));
  };
  const auto is_row = [](const Value& value) { return value.is(Value::Kind::list) || value.is(Value::Kind::tuple); };
  if (symbol == "+" && a.kind() == b.kind() && a.is(Value::Kind::string)) {
    within_limit(a.text().size() + b.text().size());
    return a.text() + b.text();
  }
  if (symbol == "+" && a.kind() == b.kind() && is_row(a)) {
    List all = a.list();
    all.insert(all.end(), b.list().begin(), b.list().end());
    return {a.kind(), std::move(all)};
  }
  if (symbol == "*" && (is_row(a) || a.is(Value::Kind::string)) && b.is_integer()) return repeat(a, b.integer());
  if (symbol == "*" && (is_row(b) || b.is(Value::Kind::string)) && a.is_integer()) return repeat(b, a.integer());
  if (symbol == "%" && a.is(Value::Kind::string)) return percent_format(a.text(), b);
  if (!a.is_number() || !b.is_number()) {
    throw Fault("unsupported operand type(s) for " + symbol + ": '" + a.type() + "' and '" + b.type() + "'");
  }
  if ((symbol == "/" || symbol == "//" || symbol == "%") && b.number() == 0) throw Fault("division by zero");
  const double x = a.number(), y = b.number();
  if (!a.is_integer() || !b.is_integer() || symbol == "/" || (symbol == "**" && y < 0)) {
    if (symbol == "+") return x + y;
    if (symbol == "-") return x - y;
    if (symbol == "*") return x * y;
    if (symbol == "/") return x / y;
    if (symbol == "**") {
      if ((x == 0 && y < 0) || (x < 0 && y != std::floor(y))) throw Fault("this power is not a real number");
      return std::pow(x, y);
    }
    double rest = std::fmod(x, y);
    const double whole = (x - rest) / y;
    const bool other_sign = rest != 0 && (rest < 0) != (y < 0);
    if (symbol == "//") return std::floor(std::round(whole)) - (other_sign ? 1.0 : 0.0);
    return rest == 0 ? std::copysign(0.0, y) : other_sign ? rest + y : rest;
  }
  const std::int64_t i = a.integer(), j = b.integer();
  constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  const auto product = [&](std::int64_t m, std::int64_t n) {
    if (m != 0 && n != 0 && (m == -largest - 1 || n == -largest - 1 || std::abs(m) > largest / std::abs(n))) {
      throw Fault("integers beyond 64 bits are not supported");
    }
    return m * n;
  };
  if (symbol == "*") return product(i, j);
  if (symbol == "**") {
    std::int64_t power = 1;
    const bool trivial = i == 0 || i == 1 || i == -1;
    for (std::int64_t n = trivial && j > 2 ? 2 + j % 2 : j; n > 0; --n) power = product(power, i);
    return power;
  }
  if (symbol == "+" || symbol == "-") {
    const bool minus = symbol == "-";
    if (minus && j == -largest - 1) throw Fault("integers beyond 64 bits are not supported");
    const std::int64_t n = minus ? -j : j;
    if (n > 0 ? i > largest - n : i < -largest - 1 - n) throw Fault("integers beyond 64 bits are not supported");
    return i + n;
  }
  if (j == -1) return symbol == "%" ? Value(std::int64_t{0}) : Value(product(i, -1));
  const std::int64_t rest = i % j;
  const bool other_sign = rest != 0 && (rest < 0) != (j < 0);
  return symbol == "%" ? rest + (other_sign ? j : 0) : i / j - (other_sign ? 1 : 0);
}

inline bool read_integer(const std::string& text, std::int64_t base, std::int64_t& number) {
  std::string digits = with_case(strip(text, nullptr, true, true), Case::lower);
  const bool negative = digits[0] == '-';
  if (negative || digits[0] == '+') digits.erase(0, 1);
  const std::string prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "none";
  if (digits.compare(0, prefix.size(), prefix) == 0) digits.erase(0, prefix.size());
  number = 0;
  for (const char c : digits) {
    if (c == '_') continue;
    const std::int64_t digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
    if (digit >= base) return false;
    if (number > (std::int64_t{1} << 62U) / base) throw Fault("integers beyond 64 bits are not supported");
    number = number * base + digit;
  }
  if (negative) number = -number;
  return !digits.empty();
}

inline Value to_integer(const Value& value, const Value& otherwise, std::int64_t base) {
  if (value.is(Value::Kind::undefined)) throw Fault(value.why());
  if (value.is_integer()) return value.integer();
  std::int64_t integer = 0;
  double number = value.number();
  if (value.is(Value::Kind::string)) {
    if (base < 2 || base > 36) throw Fault("int() base must be from 2 to 36");
    if (read_integer(value.text(), base, integer)) return integer;
    if (!read_number(value.text(), number)) return otherwise;
  } else if (!value.is(Value::Kind::number)) {
    return otherwise;
  }
  return std::abs(number) < 9.2e18 ? Value(static_cast<std::int64_t>(number)) : otherwise;
}

inline Value rounded(const Value& value, std::int64_t precision, const std::string& method) {
  if (!value.is_number()) throw Fault("round needs a number, not " + value.type());
  if (!is_one_of(method, {"common", "ceil", "floor"})) throw Fault("method must be common, ceil or floor");
  if (std::abs(precision) > 300) throw Fault("the precision of round is too large");
  const double number = value.number(), power = std::pow(10.0, static_cast<double>(precision));
  if (method != "common") return (method == "ceil" ? std::ceil(number * power) : std::floor(number * power)) / power;
  if (value.is_integer() && precision >= 0) return value.integer();
  if (precision < 0) {
    const double result = std::nearbyint(number * std::pow(10.0, static_cast<double>(-precision) * -1)) / power;
    return value.is_integer() ? Value(static_cast<std::int64_t>(result)) : Value(result);
  }
  std::string digits(700, '\0');  // printed and read back: rounds as Python does
  std::snprintf(digits.data(), digits.size(), "%.*f", static_cast<int>(precision), number);
  return std::strtod(digits.c_str(), nullptr);
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
