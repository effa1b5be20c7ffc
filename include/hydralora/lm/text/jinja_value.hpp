// SPDX-License-Identifier: MIT
// The values of a Jinja template, as Python has them: kinds, truth, equality, order, and how they print.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <locale>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

struct Arguments;

/// Lists and dictionaries are shared and never change: the sandbox forbids it. Only a namespace changes.
class Value {
 public:
  /// generator: what the filters map, select … give. It is true even where it is empty, and has no length.
  enum class Kind { undefined, none, boolean, integer, number, string, list, tuple, generator, dict, space, callable };
  using List = std::vector<Value>;
  using Dict = std::vector<std::pair<Value, Value>>;
  using Function = std::function<Value(Arguments&)>;

  Value() = default;
  Value(std::nullptr_t) : kind_(Kind::none) {}
  Value(bool value) : kind_(Kind::boolean), integer_(value ? 1 : 0) {}
  Value(std::int64_t value) : kind_(Kind::integer), integer_(value) {
    if (std::abs(static_cast<double>(value)) > 9.2e18) throw Fault("integers beyond 64 bits are not supported");
  }
  Value(double value) : kind_(Kind::number), number_(value) {}
  Value(std::string text) : kind_(Kind::string), body_(std::make_shared<Body>()) {
    within_limit(text.size());
    body_->text = std::move(text);
  }
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(const void*) = delete;
  Value(List items, Kind kind = Kind::list) : kind_(kind), body_(std::make_shared<Body>()) {
    for (const Value& item : items) hold(item);
    body_->list = std::move(items);
  }
  Value(Dict items, Kind kind = Kind::dict) : kind_(kind), body_(std::make_shared<Body>()) {
    for (const auto& [key, item] : items) hold(item);
    if (kind == Kind::space) depth_ = 0, weight_ = 1;  // what it holds can change
    body_->dict = std::move(items);
  }
  /// `held` is what the function holds.
  Value(Function function, const Value& held) : kind_(Kind::callable), body_(std::make_shared<Body>()) {
    hold(held);
    body_->function = std::move(function);
  }
  explicit Value(const nlohmann::ordered_json& json, int depth = 0) {
    if (depth > 200) throw Fault("values are nested deeper than 200");
    Dict dict;
    List list;
    if (json.is_object()) {
      for (const auto& [key, item] : json.items()) dict.emplace_back(key, Value(item, depth + 1));
      *this = std::move(dict);
    } else if (json.is_array()) {
      for (const auto& item : json) list.emplace_back(item, depth + 1);
      *this = std::move(list);
    } else if (json.is_number_unsigned() && json.get<std::uint64_t>() > std::uint64_t{1} << 63U) {
      throw Fault("integers beyond 64 bits are not supported");
    } else {
      *this = json.is_string()           ? Value(json.get_ref<const std::string&>())
              : json.is_boolean()        ? Value(json.get<bool>())
              : json.is_number_integer() ? Value(json.get<std::int64_t>())
              : json.is_number()         ? Value(json.get<double>())
                                         : Value(nullptr);
    }
  }
  static Value undefined(std::string why) {
    Value value(std::move(why));
    value.kind_ = Kind::undefined;
    return value;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_integer() const { return is(Kind::integer) || is(Kind::boolean); }
  bool is_number() const { return is_integer() || is(Kind::number); }
  bool is_sequence() const { return is(Kind::list) || is(Kind::tuple); }
  bool is_list() const { return is_sequence() || is(Kind::generator); }
  std::int64_t integer() const { return integer_; }
  double number() const { return is(Kind::number) ? number_ : static_cast<double>(integer_); }
  const std::string& text() const { return body().text; }                      ///< of a string
  const List& list() const { return body().list; }                             ///< of all that is_list()
  Dict& dict() const { return body().dict; }                                   ///< of a dict or a namespace
  const Function& function() const { return body().function; }                 ///< of a callable
  std::int64_t weight() const { return weight_; }                              ///< how many values are in it
  std::string why() const { return body_ ? text() : "a value is undefined"; }  ///< of an undefined value
  /// The work of going through it once, in steps.
  std::size_t cost() const { return text().size() / 64 + list().size() / 8 + dict().size() / 8; }

  const Value* find(const Value& key) const {
    const auto at = std::find_if(dict().begin(), dict().end(), [&](const auto& pair) { return pair.first == key; });
    return at == dict().end() ? nullptr : &at->second;
  }

  std::string type() const {
    static constexpr const char* names[] = {"Undefined", "NoneType", "bool",      "int",  "float",     "str",
                                            "list",      "tuple",    "generator", "dict", "Namespace", "function"};
    return names[static_cast<int>(kind_)];
  }
  bool truth() const {
    if (is(Kind::undefined) || is(Kind::none)) return false;
    if (is_number()) return number() != 0;
    if (is(Kind::space) || is(Kind::callable) || is(Kind::generator)) return true;
    return !text().empty() || !list().empty() || !dict().empty();
  }

  friend bool operator==(const Value& a, const Value& b) {
    if (a.is_integer() && b.is_integer()) return a.integer_ == b.integer_;
    if (a.is_number() && b.is_number()) return a.number() == b.number();
    if (a.kind_ != b.kind_) return false;
    if (a.is(Kind::undefined) || a.body_ == b.body_) return true;
    if (a.is(Kind::string)) return a.text() == b.text();
    if (a.is_sequence()) return a.list() == b.list();
    return a.is(Kind::dict) && a.dict().size() == b.dict().size() &&
           std::all_of(a.dict().begin(), a.dict().end(), [&](const auto& pair) {
             const Value* const other = b.find(pair.first);
             return other != nullptr && *other == pair.second;
           });
  }
  friend bool operator!=(const Value& a, const Value& b) { return !(a == b); }

  /// a < b. @throws Fault  where Python's < does.
  static bool less(const Value& a, const Value& b) {
    if (a.is_integer() && b.is_integer()) return a.integer_ < b.integer_;
    if (a.is_number() && b.is_number()) return a.number() < b.number();
    if (a.is(Kind::undefined) || b.is(Kind::undefined)) throw Fault(a.is(Kind::undefined) ? a.why() : b.why());
    if (a.kind_ == b.kind_ && a.is(Kind::string)) return a.text() < b.text();
    if (a.kind_ != b.kind_ || !a.is_sequence()) {
      throw Fault("order is not supported between instances of '" + a.type() + "' and '" + b.type() + "'");
    }
    const auto [left, right] = std::mismatch(a.list().begin(), a.list().end(), b.list().begin(), b.list().end());
    return right != b.list().end() && (left == a.list().end() || less(*left, *right));
  }

 private:
  struct Body {
    std::string text;
    List list;
    Dict dict;
    Function function;
  };

  Body& body() const {
    static Body empty;
    return body_ ? *body_ : empty;
  }
  /// Keeps the recursion through a value short, and its cost bounded where one list is in another many times.
  void hold(const Value& item) {
    depth_ = std::max(depth_, item.depth_ + 1);
    weight_ += item.weight_;
    if (depth_ > 200) throw Fault("values are nested deeper than 200");
    if (weight_ > (std::int64_t{1} << 24U)) throw Fault("a list or dictionary holds more than 16 million values");
  }

  Kind kind_ = Kind::undefined;
  int depth_ = 0;
  std::int64_t weight_ = 1, integer_ = 0;
  double number_ = 0;
  std::shared_ptr<Body> body_;
};

using Kind = Value::Kind;
using List = Value::List;
using Dict = Value::Dict;

inline void set(Dict& dict, const Value& key, Value item) {
  const auto at = std::find_if(dict.begin(), dict.end(), [&](const auto& pair) { return pair.first == key; });
  at == dict.end() ? void(dict.emplace_back(key, std::move(item))) : void(at->second = std::move(item));
}

/// The arguments of a call.
struct Arguments {
  List positional{};
  std::vector<std::pair<std::string, Value>> named{};
};

inline List values_of(const std::vector<std::string>& texts) { return List(texts.begin(), texts.end()); }

/// The number that a text is; undefined where it is none.
inline Value read_number(const std::string& text, bool whole) {
  std::istringstream stream{std::string(strip(text, nullptr, true, true))};
  stream.imbue(std::locale::classic());
  std::int64_t integer = 0;
  double number = 0;
  whole ? stream >> integer : stream >> number;
  if (stream.fail() || stream.peek() != std::istringstream::traits_type::eof()) return {};
  return whole ? Value(integer) : Value(number);
}

/// A float as Python prints it.
inline std::string print_number(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
  char buffer[40];
  int precision = 0;  // the fewest digits that give the number back
  do {
    std::snprintf(buffer, sizeof buffer, "%.*e", precision, value);
  } while (std::strtod(buffer, nullptr) != value && ++precision < 17);
  const std::string all = buffer, sign = std::signbit(value) ? "-" : "";
  const std::size_t e = all.find('e');
  const int power = std::atoi(buffer + e + 1);
  std::string digits;  // without the decimal point, which the locale chooses
  for (const char c : all.substr(0, e)) digits += c >= '0' && c <= '9' ? std::string(1, c) : "";
  if (power < -4 || power >= 16) return sign + digits[0] + (precision > 0 ? "." + digits.substr(1) : "") + (buffer + e);
  if (power < 0) return sign + "0." + std::string(static_cast<std::size_t>(-power - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(power) + 1;
  if (digits.size() <= whole) digits.append(whole + 1 - digits.size(), '0');
  return sign + digits.insert(whole, ".");
}

/// Appends Python's repr(text).
inline void print_string(std::string& out, const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  char code[12];
  out += quote;
  for (std::size_t at = 0; at < text.size();) {
    const utf8proc_int32_t c = code_point(text, at);
    const char category = utf8proc_category_string(c)[0];
    if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (category == 'C' || (category == 'Z' && c != ' ')) {
      std::snprintf(code, sizeof code,
                    c < 0x100     ? "\\x%02x"
                    : c < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                    static_cast<unsigned>(c));
      out += code;
    } else {
      if (c == '\\' || c == quote) out += '\\';
      append(out, c);
    }
  }
  out += quote;
}

/// Appends str(value), or repr(value).
inline void print_to(std::string& out, const Value& value, bool repr, int depth) {
  if (depth > 200) throw Fault("values are nested deeper than 200");  // a namespace inside itself
  within_limit(out.size());
  auto comma = [&, first = true]() mutable { out += std::exchange(first, false) ? "" : ", "; };
  if (value.is(Kind::undefined)) {
    out += repr ? "Undefined" : "";
  } else if (value.is(Kind::string)) {
    repr ? print_string(out, value.text()) : void(out += value.text());
  } else if (value.is_list()) {
    out += value.is(Kind::tuple) ? "(" : "[";
    for (const Value& item : value.list()) comma(), print_to(out, item, true, depth + 1);
    out += !value.is(Kind::tuple) ? "]" : value.list().size() == 1 ? ",)" : ")";
  } else if (value.is(Kind::dict) || value.is(Kind::space)) {
    out += value.is(Kind::space) ? "<Namespace {" : "{";
    for (const auto& [key, item] : value.dict()) {
      comma(), print_to(out, key, true, depth + 1);
      out += ": ";
      print_to(out, item, true, depth + 1);
    }
    out += value.is(Kind::space) ? "}>" : "}";
  } else {
    out += value.is(Kind::none)      ? "None"
           : value.is(Kind::boolean) ? (value.truth() ? "True" : "False")
           : value.is(Kind::integer) ? std::to_string(value.integer())
           : value.is(Kind::number)  ? print_number(value.number())
                                     : "<function>";
  }
}

/// Python's str(value), or repr(value).
inline std::string print(const Value& value, bool repr = false) {
  std::string out;
  print_to(out, value, repr, 0);
  return out;
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
