// SPDX-License-Identifier: MIT
// How values print: Python's str, repr and json.dumps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// A float as Python prints it.
inline std::string print_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  int precision = 0;  // the fewest digits that give the number back
  do {
    std::snprintf(buffer, sizeof buffer, "%.*e", precision, value);
  } while (std::strtod(buffer, nullptr) != value && ++precision < 17);
  std::string digits;  // without the decimal point, which the locale chooses
  const char* c = buffer;
  for (; *c != 'e'; ++c) {
    if (*c >= '0' && *c <= '9') digits += *c;
  }
  while (digits.size() > 1 && digits.back() == '0') digits.pop_back();
  const int exponent = std::atoi(c + 1);
  std::string out = std::signbit(value) ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1) + (count > 1 ? "." + digits.substr(1) : "") + (exponent < 0 ? "e-" : "e+");
    const std::string power = std::to_string(std::abs(exponent));
    return out + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return out + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  return out + digits.insert(static_cast<std::size_t>(exponent) + 1, ".");
}

inline void print_string(std::string& out, const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  char code[12];
  out += quote;
  for (std::size_t at = 0; at < text.size();) {
    const std::uint32_t c = code_point(text, at);
    const bool hidden = (c != ' ' && is_space(c)) || c < 32 || (c >= 0x7F && c < 0xA0) || c == 0xAD ||
                        (c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
                        (c >= 0xE000 && c <= 0xF8FF) || c == 0xFEFF || c >= 0xE0000;
    if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (hidden) {
      std::snprintf(code, sizeof code, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
      out += code;
    } else {
      if (c == '\\' || c == static_cast<unsigned char>(quote)) out += '\\';
      append(out, c);
    }
  }
  out += quote;
}

/// Appends str(value), or repr(value).
inline void print_to(std::string& out, const Value& value, bool repr, int depth) {
  if (depth > 200) throw Fault("values are nested deeper than 200");  // a namespace inside itself
  within_limit(out.size());
  const auto items = [&](const char* open, const char* close) {
    out += open;
    for (std::size_t i = 0; i < value.list().size(); ++i) {
      if (i > 0) out += ", ";
      print_to(out, value.list()[i], true, depth + 1);
    }
    out += close;
  };
  switch (value.kind()) {
    case Value::Kind::undefined:
      out += repr ? "Undefined" : "";
      break;
    case Value::Kind::none:
      out += "None";
      break;
    case Value::Kind::boolean:
      out += value.integer() != 0 ? "True" : "False";
      break;
    case Value::Kind::integer:
      out += std::to_string(value.integer());
      break;
    case Value::Kind::number:
      out += print_number(value.number());
      break;
    case Value::Kind::string:
      repr ? print_string(out, value.text()) : void(out += value.text());
      break;
    case Value::Kind::list:
      items("[", "]");
      break;
    case Value::Kind::tuple:
      items("(", value.list().size() == 1 ? ",)" : ")");
      break;
    case Value::Kind::range:
      out += value.text();
      break;
    case Value::Kind::view:
      out += value.text();
      items("([", "])");
      break;
    case Value::Kind::dict:
    case Value::Kind::space: {
      out += value.is(Value::Kind::space) ? "<Namespace {" : "{";
      bool first = true;
      for (const auto& [key, item] : value.dict()) {
        if (!std::exchange(first, false)) out += ", ";
        print_to(out, key, true, depth + 1);
        out += ": ";
        print_to(out, item, true, depth + 1);
      }
      out += value.is(Value::Kind::space) ? "}>" : "}";
      break;
    }
    default:
      throw Fault("a value of type " + value.type() + " cannot be printed");
  }
}

/// Python's str(value), or repr(value).
inline std::string print(const Value& value, bool repr = false) {
  std::string out;
  print_to(out, value, repr, 0);
  return out;
}

/// The settings of Python's json.dumps.
struct JsonStyle {
  bool ascii = false, sorted = false, lines = false;
  std::string indent{}, comma = ", ", colon = ": ";
};

inline void json_string(std::string& out, const std::string& text, bool ascii) {
  char code[8];
  const auto escape = [&](std::uint32_t unit) {
    std::snprintf(code, sizeof code, "\\u%04x", unit & 0xFFFFU);
    out += code;
  };
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const std::uint32_t c = code_point(text, at);
    static constexpr std::string_view marks = "\"\\\n\r\t\b\f", letters = "\"\\nrtbf";
    const std::size_t mark = c < 0x80 ? marks.find(static_cast<char>(c)) : std::string_view::npos;
    if (mark != std::string_view::npos) {
      out += '\\';
      out += letters[mark];
    } else if (c < 32 || (ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
      escape(c);
    } else if (ascii && c >= 0x10000) {
      escape(0xD7C0U + (c >> 10U));
      escape(0xDC00U + (c & 0x3FFU));
    } else {
      out.append(text, start, at - start);
    }
  }
  out += '"';
}

inline void json_to(std::string& out, const Value& value, const JsonStyle& style, std::size_t depth) {
  within_limit(out.size());
  const auto line = [&](std::size_t level) {
    if (!style.lines) return;
    within_limit(out.size() + level * style.indent.size());
    out += '\n';
    for (std::size_t i = 0; i < level; ++i) out += style.indent;
  };
  bool first = true;
  const auto separate = [&] {
    if (!std::exchange(first, false)) out += style.comma;
    line(depth + 1);
  };
  if (value.is(Value::Kind::string)) return json_string(out, value.text(), style.ascii);
  if (value.is(Value::Kind::none)) return void(out += "null");
  if (value.is(Value::Kind::boolean)) return void(out += value.integer() != 0 ? "true" : "false");
  if (value.is(Value::Kind::number) && !std::isfinite(value.number())) {
    return void(out += std::isnan(value.number()) ? "NaN" : value.number() < 0 ? "-Infinity" : "Infinity");
  }
  if (value.is_number()) return print_to(out, value, false, 0);
  if (value.is(Value::Kind::list) || value.is(Value::Kind::tuple)) {
    out += '[';
    for (const Value& item : value.list()) {
      separate();
      json_to(out, item, style, depth + 1);
    }
    if (!first) line(depth);
    out += ']';
  } else if (value.is(Value::Kind::dict)) {
    std::vector<const Value::Dict::value_type*> pairs;
    for (const auto& pair : value.dict()) pairs.push_back(&pair);
    if (style.sorted) {
      std::stable_sort(pairs.begin(), pairs.end(),
                       [](const auto* a, const auto* b) { return Value::less(a->first, b->first); });
    }
    out += '{';
    for (const auto* pair : pairs) {
      separate();
      const Value& key = pair->first;
      if (!key.is(Value::Kind::string) && !key.is(Value::Kind::none) && !key.is_number()) {
        throw Fault("keys must be str, int, float, bool or None, not " + key.type());
      }
      std::string name;
      key.is(Value::Kind::string) ? void(name = key.text()) : json_to(name, key, style, 0);
      json_string(out, name, style.ascii);
      out += style.colon;
      json_to(out, pair->second, style, depth + 1);
    }
    if (!first) line(depth);
    out += '}';
  } else {
    throw Fault("Object of type " + value.type() + " is not JSON serializable");
  }
}

/// Python's json.dumps(value).
inline std::string json(const Value& value, const JsonStyle& style) {
  std::string out;
  json_to(out, value, style, 0);
  return out;
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
