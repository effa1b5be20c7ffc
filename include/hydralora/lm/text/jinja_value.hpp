// SPDX-License-Identifier: MIT
// The values of a Jinja template, as Python has them, and what Python's str does on UTF-8.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/aligned_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

/// An error without its place, which the template adds.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void within_limit(std::size_t bytes) {
  if (bytes > std::size_t{1} << 26U) throw Fault("the template makes a text of more than 64 MiB");
}

inline bool begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
inline bool ends(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

inline std::string to_utf8(std::u32string_view characters) {
  std::string text;
  for (const char32_t c : characters) detail::append_utf8(text, c);
  return text;
}
inline std::int64_t length(std::string_view text) {
  return static_cast<std::int64_t>(detail::to_characters(text).size());
}

/// str.upper, lower, capitalize, and Jinja's title: there a word begins behind white space, - and an opening bracket.
inline std::string with_case(std::string_view text, std::string_view wanted) {
  std::u32string all = detail::to_characters(text);
  bool begins = wanted != "lower";
  for (char32_t& c : all) {
    const bool upper = begins || wanted == "upper";
    begins = wanted == "title" && (detail::is_space(c) || std::u32string_view(U"-([{<").find(c) < 5);
    const auto code = static_cast<utf8proc_int32_t>(c);
    c = static_cast<char32_t>(upper ? utf8proc_toupper(code) : utf8proc_tolower(code));
  }
  return to_utf8(all);
}

/// str.strip, lstrip, rstrip: of white space, or of the characters in `set`.
inline std::string strip(std::string_view text, bool left = true, bool right = true, const std::string* set = nullptr) {
  const std::u32string all = detail::to_characters(text), chosen = detail::to_characters(set != nullptr ? *set : "");
  const auto goes = [&](char32_t c) { return set != nullptr ? chosen.find(c) < chosen.size() : detail::is_space(c); };
  std::size_t begin = 0, end = all.size();
  while (left && begin < end && goes(all[begin])) ++begin;
  while (right && begin < end && goes(all[end - 1])) --end;
  return to_utf8(std::u32string_view(all).substr(begin, end - begin));
}

/// str.split and rsplit: at `separator`, or from the left at white space; at most `most` cuts, all where negative.
inline std::vector<std::string> split(std::string_view text, const std::string* separator = nullptr,
                                      std::int64_t most = -1, bool from_right = false) {
  std::vector<std::string> parts;
  if (separator == nullptr) {
    if (from_right) throw Fault("rsplit needs a separator");
    const std::string left = strip(text, true, most < 0);
    for (std::size_t at = 0, end = 0; at < left.size(); at = detail::end_of_blanks(left, end)) {
      end = most-- == 0 ? left.size() : at;
      while (end < left.size() && detail::end_of_blanks(left, end) == end) ++end;
      parts.push_back(left.substr(at, end - at));
    }
    return parts;
  }
  if (separator->empty()) throw Fault("empty separator");
  for (; most != 0; --most) {
    const std::size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const std::string_view left = text.substr(0, at), right = text.substr(at + separator->size());
    parts.emplace_back(from_right ? right : left);
    text = from_right ? left : right;
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

/// str.replace: at most `most` times, always where negative.
inline std::string replace(std::string_view text, std::string_view old, std::string_view by, std::int64_t most = -1) {
  if (old.empty()) throw Fault("replace needs a text that is not empty");
  std::string result;
  for (std::size_t at = 0; most != 0 && (at = text.find(old)) != std::string_view::npos; --most) {
    within_limit(result.size() + by.size() + text.size());
    result.append(text.substr(0, at)).append(by);
    text.remove_prefix(at + old.size());
  }
  return result.append(text);
}

/// Lists and dictionaries are shared and never change: the sandbox forbids it. Only a namespace changes.
class Value {
 public:
  /// generator: what the filters map, select … give. It is true even where it is empty, and has no length.
  enum class Kind { undefined, none, boolean, integer, number, string, list, tuple, generator, dict, space, callable };
  using List = std::vector<Value>;
  using Dict = std::vector<std::pair<Value, Value>>;

  Value() = default;
  Value(std::nullptr_t) : kind_(Kind::none) {}
  Value(bool value) : kind_(Kind::boolean), integer_(value ? 1 : 0) {}
  Value(int value) : Value(std::int64_t{value}) {}
  /// A callable is a macro, by its place in the template, or 0: a function that is not called.
  Value(std::int64_t value, Kind kind = Kind::integer) : kind_(kind), integer_(value) {}
  Value(double value) : kind_(Kind::number), number_(value) {}
  Value(std::string text, Kind kind = Kind::string) : Value(kind, {std::move(text), {}, {}}) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(const void*) = delete;
  Value(List items, Kind kind = Kind::list) : Value(kind, {{}, std::move(items), {}}) {}
  Value(Dict items, Kind kind = Kind::dict) : Value(kind, {{}, {}, std::move(items)}) {}
  static Value undefined(std::string why) { return {std::move(why), Kind::undefined}; }
  explicit Value(const nlohmann::ordered_json& json, int depth = 0) {
    Dict dict;
    List list;
    if (depth > 200) throw Fault("values are nested deeper than 200");
    if (json.is_number_integer() && std::abs(json.get<double>()) > 9.2e18) {
      throw Fault("integers beyond 64 bits are not supported");
    }
    for (const auto& [key, item] : json.items()) {
      if (json.is_object()) dict.emplace_back(key, Value(item, depth + 1));
      if (json.is_array()) list.emplace_back(item, depth + 1);
    }
    *this = json.is_object()           ? Value(std::move(dict))
            : json.is_array()          ? Value(std::move(list))
            : json.is_string()         ? Value(to_utf8(detail::to_characters(json.get<std::string>())))
            : json.is_boolean()        ? Value(json.get<bool>())
            : json.is_number_integer() ? Value(json.get<std::int64_t>())
            : json.is_number()         ? Value(json.get<double>())
                                       : Value(nullptr);
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_integer() const { return is(Kind::integer) || is(Kind::boolean); }
  bool is_number() const { return is_integer() || is(Kind::number); }
  bool is_sequence() const { return is(Kind::list) || is(Kind::tuple); }
  bool is_list() const { return is_sequence() || is(Kind::generator); }
  std::int64_t integer() const { return integer_; }
  double number() const { return is(Kind::number) ? number_ : static_cast<double>(integer_); }
  const std::string& text() const { return body().text; }  ///< of a string; of undefined: why it is
  const List& list() const { return body().list; }         ///< of all that is_list()
  Dict& dict() const { return body().dict; }               ///< of a dict or a namespace
  /// The work of going through it once, in steps.
  std::size_t cost() const { return text().size() / 64 + weight_ / 8; }

  Value* find(const Value& key) const {
    const auto at = std::find_if(dict().begin(), dict().end(), [&](const auto& pair) { return pair.first == key; });
    return at == dict().end() ? nullptr : &at->second;
  }
  /// Sets an item of a namespace, or of a dictionary that is being made.
  void set(const Value& key, const Value& item) {
    hold(item);
    Value* const old = find(key);
    old != nullptr ? void(*old = item) : void(dict().emplace_back(key, item));
  }
  /// @throws Fault  where it is undefined.
  const Value& defined() const {
    if (is(Kind::undefined)) throw Fault(body_ ? text() : "a value is undefined");
    return *this;
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
    if (a.is(Kind::space) || a.is(Kind::callable)) return false;
    return a.text() == b.text() && a.list() == b.list() && a.dict().size() == b.dict().size() &&
           std::all_of(a.dict().begin(), a.dict().end(), [&](const auto& pair) {
             const Value* const other = b.find(pair.first);
             return other != nullptr && *other == pair.second;
           });
  }
  /// a < b. @throws Fault  where Python's < does.
  friend bool operator<(const Value& a, const Value& b) {
    if (a.defined().is_number() && b.defined().is_number()) return a.number() < b.number();
    if (a.kind_ == b.kind_ && a.is(Kind::string)) return a.text() < b.text();
    if (a.kind_ == b.kind_ && a.is_sequence()) return a.list() < b.list();
    throw Fault("order is not supported between instances of '" + a.type() + "' and '" + b.type() + "'");
  }

 private:
  struct Body {
    std::string text;
    List list;
    Dict dict;
  };

  Value(Kind kind, Body body) : kind_(kind) {
    within_limit(body.text.size());
    for (const Value& item : body.list) hold(item);
    for (const auto& [key, item] : body.dict) hold(item);
    if (kind == Kind::space) depth_ = most_depth;  // so nothing can hold it, and it cannot hold itself
    body_ = std::make_shared<Body>(std::move(body));
  }
  Body& body() const {
    static Body empty;
    return body_ ? *body_ : empty;
  }
  static constexpr int most_depth = 200;
  /// Keeps the recursion through a value short, and its cost bounded where one list is in another many times.
  void hold(const Value& item) {
    if (item.depth_ >= most_depth) throw Fault("values are nested deeper than 200");
    if (is(Kind::space)) return;  // what it holds changes
    depth_ = (std::max)(depth_, item.depth_ + 1);
    weight_ += item.weight_;
    if (weight_ > std::size_t{1} << 22U) throw Fault("a list or dictionary holds more than 4 million values");
  }

  Kind kind_ = Kind::undefined;
  int depth_ = 0;
  std::size_t weight_ = 1;  // how many values are in it
  std::int64_t integer_ = 0;
  double number_ = 0;
  std::shared_ptr<Body> body_;
};

using Kind = Value::Kind;
using List = Value::List;
using Dict = Value::Dict;

/// The arguments of a call.
struct Arguments {
  List positional{};
  std::vector<std::pair<std::string, Value>> named{};
};

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
