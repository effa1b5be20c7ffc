// SPDX-License-Identifier: MIT
// The methods of strings, lists and dictionaries in a Jinja template, and the global functions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_format.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

inline List values_of(std::vector<std::string> texts) {
  List values;
  for (std::string& text : texts) values.emplace_back(std::move(text));
  return values;
}

/// str.is…: whether the text has characters, and all of them fit.
inline bool all_are(const std::string& text, const std::string& name) {
  bool cased = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::uint32_t c = code_point(text, at);
    const bool digit = c >= '0' && c <= '9';
    if (name == "isspace"   ? !is_space(c)
        : name == "isalpha" ? !is_alpha(c)
                            : name == "isalnum" && !digit && !is_alpha(c)) {
      return false;
    }
    if (is_one_of(name, {"isdigit", "isdecimal", "isnumeric"}) && !digit) return false;
    if ((name == "isupper" && to_upper(c) != c) || (name == "islower" && to_lower(c) != c)) return false;
    cased = cased || is_cased(c);
  }
  return !text.empty() && (cased || (name != "isupper" && name != "islower"));
}

inline std::string padded(const std::string& text, const std::string& name, std::int64_t width,
                          const std::string& fill) {
  const std::int64_t missing_count = std::max<std::int64_t>(0, width - length(text));
  const auto count = static_cast<std::size_t>(missing_count);
  within_limit(text.size() + within_limit(count) * fill.size());
  // Python's center puts the odd one on the left where the width is odd.
  const std::size_t left = name == "ljust"   ? 0
                           : name == "rjust" ? count
                                             : count / 2 + (count & static_cast<std::size_t>(width) & 1U);
  std::string out;
  for (std::size_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (std::size_t i = left; i < count; ++i) out += fill;
  return out;
}

inline Value string_method(const std::string& text, const std::string& name, const Arguments& given) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Bound bound(given, name, {"chars"});
    return std::string(strip(text, bound.text(0), name != "rstrip", name != "lstrip"));
  }
  if (name == "split" || name == "rsplit") {
    const Bound bound(given, name, {"sep", "maxsplit"});
    return values_of(split(text, bound.text(0), bound.integer(1, -1), name == "rsplit"));
  }
  if (name == "splitlines") return values_of(split_lines(text, Bound(given, name, {"keepends"}).truth(0)));
  if (name == "startswith" || name == "endswith") {
    const Bound bound(given, name, {"prefix", "start", "end"});
    const Value part = slice(text, bound.get(1, nullptr), bound.get(2, nullptr), nullptr);
    const List choices = bound.at(0).is(Value::Kind::tuple) ? bound.at(0).list() : List{bound.at(0)};
    return std::any_of(choices.begin(), choices.end(), [&](const Value& choice) {
      if (!choice.is(Value::Kind::string))
        throw Fault(name + " needs a string or a tuple of strings, not " + choice.type());
      const std::string& words = choice.text();
      const std::size_t rest = part.text().size() - std::min(part.text().size(), words.size());
      return part.text().compare(name == "endswith" ? rest : 0, words.size(), words) == 0;
    });
  }
  if (name == "upper") return with_case(text, Case::upper);
  if (name == "lower" || name == "casefold") return with_case(text, Case::lower);
  if (name == "title") return with_case(text, Case::title);
  if (name == "capitalize") return with_case(text, Case::capitalize);
  if (name == "swapcase") {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::uint32_t c = code_point(text, at);
      append(out, to_upper(c) != c ? to_upper(c) : to_lower(c));
    }
    return out;
  }
  if (name == "replace") {
    const Bound bound(given, name, {"old", "new", "count"});
    return replace(text, bound.need_text(0), bound.need_text(1), bound.integer(2, -1));
  }
  if (name == "join") {
    std::string out;
    bool first = true;
    for (const Value& part : items_of(Bound(given, name, {"iterable"}).at(0))) {
      if (!part.is(Value::Kind::string)) throw Fault("join needs strings, found " + part.type());
      if (!std::exchange(first, false)) out += text;
      within_limit(out.size() + part.text().size() + text.size());
      out += part.text();
    }
    return out;
  }
  if (is_one_of(name, {"find", "rfind", "index", "count"})) {
    const Bound bound(given, name, {"sub", "start", "end"});
    const std::int64_t start = bound.integer(1, 0), size = length(text);
    const std::int64_t offset = std::clamp<std::int64_t>(start < 0 ? start + size : start, 0, size);
    const Value cut = slice(text, bound.get(1, nullptr), bound.get(2, nullptr), nullptr);
    const std::string &part = cut.text(), &words = bound.need_text(0);
    if (name == "count") {
      if (words.empty()) return start > size ? std::int64_t{0} : length(part) + 1;
      std::int64_t count = 0;
      for (std::size_t at = part.find(words); at != std::string::npos; at = part.find(words, at + words.size()))
        ++count;
      return count;
    }
    const std::size_t found = start > size ? std::string::npos : name == "rfind" ? part.rfind(words) : part.find(words);
    if (found == std::string::npos && name == "index") throw Fault("substring not found");
    return found == std::string::npos ? std::int64_t{-1} : offset + length(part.substr(0, found));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& part = Bound(given, name, {"part"}).need_text(0);
    const bool begin = name == "removeprefix";
    if (part.size() > text.size() || text.compare(begin ? 0 : text.size() - part.size(), part.size(), part) != 0)
      return text;
    return begin ? text.substr(part.size()) : text.substr(0, text.size() - part.size());
  }
  if (name == "format") return brace_format(text, given);
  if (name == "zfill") {
    const std::size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
    const std::int64_t width = Bound(given, name, {"width"}).integer(0, 0) - static_cast<std::int64_t>(sign);
    return text.substr(0, sign) + padded(text.substr(sign), "rjust", width, "0");
  }
  if (name == "ljust" || name == "rjust" || name == "center") {
    const Bound bound(given, name, {"width", "fillchar"});
    const std::string fill = bound.has(1) ? bound.need_text(1) : " ";
    if (length(fill) != 1) throw Fault("the fill character must be exactly one character long");
    return padded(text, name, bound.integer(0, 0), fill);
  }
  if (name == "partition" || name == "rpartition") {
    const std::string& mark = Bound(given, name, {"sep"}).need_text(0);
    if (mark.empty()) throw Fault("empty separator");
    const bool right = name == "rpartition";
    const std::size_t cut = right ? text.rfind(mark) : text.find(mark);
    if (cut == std::string::npos) return {Value::Kind::tuple, right ? List{"", "", text} : List{text, "", ""}};
    return {Value::Kind::tuple, List{text.substr(0, cut), mark, text.substr(cut + mark.size())}};
  }
  const Bound none(given, name, {});
  return all_are(text, name);
}

/// The pairs of dict(…) and namespace(…).
inline Dict pairs_of(const Arguments& given, const std::string& function) {
  if (given.positional.size() > 1) throw Fault(function + " was given too many arguments");
  const Value made{Dict()};
  if (!given.positional.empty()) {
    const Value& from = given.positional[0];
    if (from.is(Value::Kind::dict)) {
      for (const auto& [key, value] : from.dict()) made.set(key, value);
    } else {
      for (const Value& pair : items_of(from)) {
        const List two = items_of(pair);
        if (two.size() != 2) throw Fault(function + " needs pairs");
        made.set(two[0], two[1]);
        if (made.dict().size() > 10000) throw Fault(function + " makes more than 10000 keys");  // each is searched for
      }
    }
  }
  for (const auto& [key, value] : given.named) made.set(key, value);
  return made.dict();
}

inline Value container_method(const Value& self, const std::string& name, const Arguments& given) {
  if (name == "get") {
    const Bound bound(given, name, {"key", "default"});
    const Value* const found = self.find(bound.at(0));
    return found != nullptr ? *found : bound.get(1, nullptr);
  }
  if (name == "index" || name == "count") {
    const Value wanted = Bound(given, name, {"value"}).at(0);
    const List& all = self.list();
    if (name == "count") return static_cast<std::int64_t>(std::count(all.begin(), all.end(), wanted));
    const auto found = std::find(all.begin(), all.end(), wanted);
    if (found == all.end()) throw Fault(print(wanted, true) + " is not in list");
    return static_cast<std::int64_t>(found - all.begin());
  }
  const Bound none(given, name, {});
  if (name == "copy") return self;
  List all;
  for (const auto& [key, value] : self.dict()) {
    all.push_back(name == "items" ? Value(Value::Kind::tuple, {key, value}) : name == "keys" ? key : value);
  }
  return {Value::Kind::view, std::move(all), "dict_" + name};
}

inline Value range(const Arguments& given) {
  const Bound bound(given, "range", {"start", "stop", "step"});
  bound.at(0);
  const std::int64_t first = bound.has(1) ? bound.integer(0, 0) : 0;
  const std::int64_t stop = bound.integer(bound.has(1) ? 1 : 0, 0), step = bound.integer(2, 1);
  constexpr std::int64_t largest = std::int64_t{1} << 60U, most = 100000;  // jinja2's MAX_RANGE
  if (step == 0) throw Fault("range() arg 3 must not be zero");
  if (std::max({std::abs(first), std::abs(stop), std::abs(step)}) > largest)
    throw Fault("a range's numbers are too large");
  List all;
  for (std::int64_t i = first; step > 0 ? i < stop : i > stop; i += step) {
    if (all.size() == most) throw Fault("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    all.emplace_back(i);
  }
  const std::string by = step == 1 ? "" : ", " + std::to_string(step);
  return {Value::Kind::range, std::move(all),
          "range(" + std::to_string(first) + ", " + std::to_string(stop) + by + ")"};
}

/// Calls a method, or a global function; a macro is the interpreter's.
inline Value call_function(Callable& function, const Arguments& given) {
  const std::string& name = function.name;
  const Value& self = function.self;
  if (self.is(Value::Kind::string) && name != "joiner") return string_method(self.text(), name, given);
  if (self.is(Value::Kind::loop)) {
    Loop& loop = *self.loop();
    if (name == "cycle") {
      if (given.positional.empty()) throw Fault("no items for cycling given");
      return given.positional[static_cast<std::size_t>(loop.index0) % given.positional.size()];
    }
    const Value seen(Value::Kind::tuple, given.positional);
    const bool changed = loop.changed != seen;
    loop.changed = seen;
    return changed;
  }
  if (self.is(Value::Kind::callable)) {  // cycler's next and reset
    Callable& cycler = *self.callable();
    const std::size_t now = cycler.position;
    cycler.position = name == "reset" ? 0 : (now + 1) % cycler.self.list().size();
    return name == "reset" ? Value(nullptr) : cycler.self.list()[now];
  }
  if (name == "joiner" && self.is(Value::Kind::string)) return function.position++ == 0 ? Value("") : self;
  if (name == "cycler" && self.is(Value::Kind::tuple)) throw Fault("a cycler is not callable: use next()");
  if (!self.is(Value::Kind::undefined)) return container_method(self, name, given);
  if (name == "range") return range(given);
  if (name == "dict") return pairs_of(given, name);
  if (name == "namespace") {
    Dict pairs = pairs_of(given, name);
    for (const auto& pair : pairs) {
      if (pair.first.is(Value::Kind::string) && pair.first.text()[0] == '_') {
        throw Fault("Chat templates cannot store underscore-prefixed attributes on a namespace: '" + pair.first.text() +
                    "'");
      }
    }
    return Value::space(std::move(pairs));
  }
  if (name == "raise_exception") throw Fault(print(Bound(given, name, {"message"}).at(0)));
  if (name == "joiner" || name == "cycler") {
    const Value state =
        name == "cycler" ? Value(Value::Kind::tuple, given.positional) : Bound(given, name, {"sep"}).get(0, ", ");
    if (!state.truth() && name == "cycler") throw Fault("at least one item has to be provided");
    return {std::make_shared<Callable>(Callable{name, state.is(Value::Kind::tuple) ? state : Value(print(state))}),
            state};
  }
  const std::string format = Bound(given, name, {"format"}).need_text(0);  // strftime_now
  const std::time_t now = std::time(nullptr);
  std::string out(within_limit(format.size() * 32 + 256), '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), std::localtime(&now)));
  return out;
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
