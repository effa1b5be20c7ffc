// SPDX-License-Identifier: MIT
// How the values of a Jinja template print, and Python's operators on them.
#pragma once

#include <cstdio>

#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

/// How values print: as str() does, or as json.dumps does with these settings.
struct Style {
  bool json = false, ascii = false, sorted = false, lines = false;
  std::string comma = ", ", colon = ": ", indent{};
};

inline std::string print_number(double value, bool json) {
  if (std::isnan(value)) return json ? "NaN" : "nan";
  if (std::isinf(value)) return std::string(value < 0 ? "-" : "") + (json ? "Infinity" : "inf");
  const bool whole = std::abs(value) >= 1e15 && std::abs(value) < 1e16;  // Python has no exponent here
  return whole ? std::to_string(static_cast<std::int64_t>(value)) + ".0" : nlohmann::json(value).dump();
}

/// repr(text), or json.dumps(text).
inline std::string print_quoted(const std::string& text, const Style& style) {
  if (style.json) return nlohmann::json(text).dump(-1, ' ', style.ascii, nlohmann::json::error_handler_t::replace);
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char32_t character : detail::to_characters(text)) {
    const auto c = static_cast<utf8proc_int32_t>(character);
    const char category = utf8proc_category_string(c)[0];
    const char* const form = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
    char code[12] = "";
    if (category == 'C' || (category == 'Z' && c != ' '))
      std::snprintf(code, sizeof code, form, static_cast<unsigned>(c));
    if (c == '\\' || c == quote) out += '\\';
    out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : *code != '\0' ? code : to_utf8({&character, 1});
  }
  return out + quote;
}

/// Appends the value, which is `depth` deep inside others.
inline void print_to(std::string& out, const Value& value, const Style& style, std::size_t depth = 0) {
  const Kind kind = value.kind();
  if (kind == Kind::string) {
    out += style.json || depth > 0 ? print_quoted(value.text(), style) : value.text();
  } else if (kind == Kind::none) {
    out += style.json ? "null" : "None";
  } else if (kind == Kind::boolean) {
    out += value.truth() ? (style.json ? "true" : "True") : (style.json ? "false" : "False");
  } else if (value.is_number()) {
    out += kind == Kind::integer ? std::to_string(value.integer()) : print_number(value.number(), style.json);
  } else if (style.json && !value.is_sequence() && kind != Kind::dict) {
    throw Fault("Object of type " + value.type() + " is not JSON serializable");
  } else if (kind == Kind::undefined || kind == Kind::callable) {
    out += kind == Kind::callable ? "<function>" : depth > 0 ? "Undefined" : "";
  } else {
    const auto new_line = [&](std::size_t level) {
      if (style.lines) out += '\n';
      within_limit(out.size() + level * style.indent.size());
      for (; level > 0; --level) out += style.indent;
    };
    Dict pairs = value.dict();
    if (style.sorted) std::stable_sort(pairs.begin(), pairs.end(), [](auto& a, auto& b) { return a.first < b.first; });
    const std::size_t size = value.is_list() ? value.list().size() : pairs.size();
    const bool tuple = kind == Kind::tuple && !style.json;
    out += kind == Kind::space ? "<Namespace {" : kind == Kind::dict ? "{" : tuple ? "(" : "[";
    for (std::size_t i = 0; i < size; ++i) {
      if (i > 0) out += style.comma;
      new_line(depth + 1);
      if (!value.is_list()) {
        std::string key;
        print_to(key, pairs[i].first, style, 1);
        out += (style.json && key[0] != '"' ? '"' + key + '"' : key) + style.colon;
      }
      print_to(out, value.is_list() ? value.list()[i] : pairs[i].second, style, depth + 1);
    }
    if (size > 0) new_line(depth);
    out += kind == Kind::space ? "}>" : kind == Kind::dict ? "}" : tuple ? (size == 1 ? ",)" : ")") : "]";
  }
  within_limit(out.size());
}

inline std::string print(const Value& value, const Style& style = {}) {
  std::string out;
  print_to(out, value, style);
  return out;
}

/// What a loop goes through. @throws Fault  where Python cannot.
inline List items_of(const Value& value) {
  if (value.is_list()) return value.list();
  if (value.is(Kind::undefined)) return {};
  if (!value.is(Kind::string) && !value.is(Kind::dict)) throw Fault("'" + value.type() + "' object is not iterable");
  List items;
  const std::u32string letters = detail::to_characters(value.text());
  if (letters.size() > std::size_t{1} << 22U) throw Fault("a text of more than 4 million characters is no list");
  for (const char32_t& letter : letters) items.emplace_back(to_utf8({&letter, 1}));
  for (const auto& pair : value.dict()) items.push_back(pair.first);
  return items;
}

inline bool contains(const Value& all, const Value& one) {
  if (all.is(Kind::dict)) return all.find(one) != nullptr;
  if (all.is(Kind::string) && one.is(Kind::string)) return all.text().find(one.text()) != std::string::npos;
  if (all.is(Kind::string)) throw Fault("'in <string>' requires string as left operand, not " + one.type());
  const List items = items_of(all);
  return std::find(items.begin(), items.end(), one) != items.end();
}

inline bool compare(std::string_view symbol, const Value& a, const Value& b) {
  if (symbol == "==" || symbol == "!=") return (a == b) == (symbol == "==");
  if (symbol == "in" || symbol == "not") return contains(b, a) == (symbol == "in");
  return (symbol[0] == '<' ? a < b : b < a) || (symbol.size() > 1 && a == b);
}

/// object[first:behind:step], with a step above 0 or as [::-1]; none for what is not given.
inline Value slice(const Value& object, const Value& first, const Value& behind, const Value& step) {
  const bool is_text = object.defined().is(Kind::string), turns = step == Value(-1) && first == behind;
  if (!is_text && !object.is_sequence()) throw Fault("'" + object.type() + "' object cannot be sliced");
  const std::int64_t by = step.is(Kind::none) || turns ? 1 : step.integer();
  if (by < 1) throw Fault("a slice with a step below 0 other than [::-1] is not supported");
  const std::u32string letters = detail::to_characters(object.text());
  const std::size_t size = is_text ? letters.size() : object.list().size();
  const auto place = [size](const Value& value, std::size_t otherwise) {
    if (value.is(Kind::none)) return otherwise;
    if (!value.is_integer()) throw Fault("slice indices must be integers or None");
    const auto most = static_cast<std::int64_t>(size), i = std::clamp(value.integer(), -most, most);
    return static_cast<std::size_t>(i < 0 ? i + most : i);
  };
  List items;
  std::string text;
  for (std::size_t i = place(first, 0), end = place(behind, size); i < end; i += static_cast<std::size_t>(by)) {
    const std::size_t from = turns ? size - 1 - i : i;
    is_text ? detail::append_utf8(text, letters[from]) : items.push_back(object.list()[from]);
  }
  return is_text ? Value(std::move(text)) : Value(std::move(items), object.kind());
}

/// Python's a + b, a - b … on values, but not **, % on texts, and * on lists.
/// @throws Fault  where Python raises, and where an integer leaves the 53 bits that a double holds.
inline Value arithmetic(std::string_view symbol, const Value& a, const Value& b) {
  if (symbol == "+" && a.kind() == b.kind() && a.is(Kind::string)) return a.text() + b.text();
  if (symbol == "+" && a.kind() == b.kind() && a.is_sequence()) {
    List all = a.list();
    all.insert(all.end(), b.list().begin(), b.list().end());
    return {std::move(all), a.kind()};
  }
  if (symbol == "*" && a.is(Kind::string) && b.is_integer()) {
    std::string text;
    for (std::int64_t i = 0; i < b.integer() && a.truth(); ++i) within_limit((text += a.text()).size());
    return text;
  }
  const double x = a.defined().number(), y = b.defined().number();
  if (!a.is_number() || !b.is_number()) {
    throw Fault("unsupported operand type(s) for " + std::string(symbol) + ": '" + a.type() + "' and '" + b.type() +
                "'");
  }
  const bool divides = symbol == "/" || symbol == "//" || symbol == "%";
  if (divides && y == 0) throw Fault("division by zero");
  if (symbol == "/") return x / y;
  double rest = divides ? std::fmod(x, y) : 0;
  if (rest != 0 && (rest < 0) != (y < 0)) rest += y;
  const double result = symbol == "+"    ? x + y
                        : symbol == "-"  ? x - y
                        : symbol == "*"  ? x * y
                        : symbol == "//" ? std::round((x - rest) / y)
                                         : rest;
  if (!a.is_integer() || !b.is_integer()) return result;
  if ((std::max)({std::abs(x), std::abs(y), std::abs(result)}) > 9007199254740992.0) {
    throw Fault("arithmetic with integers beyond 53 bits is not supported");
  }
  return static_cast<std::int64_t>(result);
}

/// The number that a text is; undefined where it is none.
inline Value read_number(std::string text) {
  text = strip(text);
  while (text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9') text.erase(0, 1);
  const auto json = nlohmann::ordered_json::parse(text, nullptr, false);
  return json.is_number() ? Value(json) : Value();
}

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
