// SPDX-License-Identifier: MIT
// Python's two ways to format a text, % and str.format, and Jinja's indent and title.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// Python's text % values.
inline std::string percent_format(const std::string& text, const Value& values) {
  std::string out;
  std::size_t used = 0;
  const List all = values.is(Value::Kind::tuple) ? values.list() : List{values};
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    Value value;
    bool named = false;
    if (++i < text.size() && text[i] == '(') {
      const std::size_t close = std::min(text.find(')', i), text.size());
      value = item(values, text.substr(i + 1, close - i - 1));
      named = true;
      i = close + 1;
    }
    std::string flags, precision;
    for (; i < text.size() && std::string_view("-+ 0#").find(text[i]) != std::string_view::npos; ++i) flags += text[i];
    std::size_t width = 0;
    for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
      width = within_limit(width * 10 + static_cast<std::size_t>(text[i] - '0'));
    }
    if (i < text.size() && text[i] == '.') {
      for (++i; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) precision += text[i];
      if (precision.size() > 2) throw Fault("a format's precision is larger than 99");
      if (precision.empty()) precision = "0";
    }
    const char type = i < text.size() ? text[i] : '\0';
    if (type == '%') {
      out += '%';
      continue;
    }
    if (!named && used >= all.size()) throw Fault("not enough arguments for format string");
    if (!named) value = all[used++];
    std::string made;
    char buffer[512];
    const std::string sign = flags.find('+') != std::string::npos   ? "+"
                             : flags.find(' ') != std::string::npos ? " "
                                                                    : "";
    if (type == 's' || type == 'r') {
      made = print(value, type == 'r');
      if (!precision.empty())
        made.resize(
            code_points(made)[std::min<std::size_t>(std::stoul(precision), static_cast<std::size_t>(length(made)))]);
    } else if (is_one_of(std::string(1, type), {"d", "i", "x", "X", "f", "e", "g", "F", "E", "G"}) &&
               value.is_number()) {
      const bool whole = is_one_of(std::string(1, type), {"d", "i", "x", "X"});
      if (whole && (type == 'x' || type == 'X' ? !value.is_integer() : !(std::abs(value.number()) < 9e18))) {
        throw Fault("a number does not fit its format");
      }
      const std::int64_t integer =
          value.is_integer() ? value.integer() : static_cast<std::int64_t>(whole ? value.number() : 0);
      const std::string pattern =
          "%" + sign + (whole ? "ll" : "." + (precision.empty() ? "6" : precision)) + (type == 'i' ? 'd' : type);
      if (whole) {
        std::snprintf(buffer, sizeof buffer, pattern.c_str(), static_cast<long long>(integer));
      } else {
        std::snprintf(buffer, sizeof buffer, pattern.c_str(), value.number());
      }
      made = buffer;
    } else {
      throw Fault(std::string("%") + type + " cannot format a value of type " + value.type());
    }
    const std::size_t fill = width - std::min(width, code_points(made).size() - 1);
    const bool zeros = flags.find('0') != std::string::npos && type != 's' && type != 'r';
    const std::size_t signs = zeros && !made.empty() && std::string_view("+- ").find(made[0]) < 3 ? 1 : 0;
    if (flags.find('-') != std::string::npos) {
      made.append(fill, ' ');
    } else {
      made.insert(zeros ? signs : 0, fill, zeros ? '0' : ' ');
    }
    within_limit(out.size() + made.size());
    out += made;
  }
  if (!values.is(Value::Kind::dict) && used < all.size())
    throw Fault("not all arguments converted during string formatting");
  return out;
}

/// '{} {0} {name}'.format(…), without format specifications.
inline std::string brace_format(const std::string& text, const Arguments& given) {
  std::string out;
  std::size_t next = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      out += c;
    } else if (i + 1 < text.size() && text[i + 1] == c) {
      out += text[i++];
    } else {
      const std::size_t close = text.find('}', i);
      if (c == '}' || close == std::string::npos) throw Fault("a single '{' or '}' in a format string");
      const std::string field = text.substr(i + 1, close - i - 1);
      i = close;
      const Value* value = nullptr;
      const bool number = field.find_first_not_of("0123456789") == std::string::npos && field.size() < 6;
      if (number) {
        const std::size_t index = field.empty() ? next++ : std::stoul(field);
        value = index < given.positional.size() ? &given.positional[index] : nullptr;
      }
      for (const auto& [name, named] : given.named) value = name == field ? &named : value;
      if (value == nullptr) throw Fault("the format field '{" + field + "}' has no argument or is not supported");
      out += print(*value);
    }
    within_limit(out.size());
  }
  return out;
}

inline std::string indent(const Value& value, const Value& width, bool first, bool blank) {
  if (!value.is(Value::Kind::string)) throw Fault("indent needs a string, not " + value.type());
  if (!width.is(Value::Kind::string) && !width.is_integer())
    throw Fault("indent's width is neither a number nor a string");
  const auto spaces = static_cast<std::size_t>(std::max<std::int64_t>(0, width.integer()));
  const std::string space = width.is(Value::Kind::string) ? width.text() : std::string(within_limit(spaces), ' ');
  std::string out;
  bool begin = true;
  for (const std::string& line : split_lines(value.text() + "\n", false)) {
    within_limit(out.size() + space.size() + line.size());
    if (!begin) out += '\n';
    if (begin ? first : blank || !line.empty()) out += space;
    out += line;
    begin = false;
  }
  return out;
}

/// Jinja's own title: a word begins behind white space, - and an opening bracket, not behind an apostrophe.
inline std::string title(const std::string& text) {
  std::string out;
  bool begins = true;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const std::uint32_t c = code_point(text, at);
    out += with_case(text.substr(start, at - start), begins ? Case::capitalize : Case::lower);
    begins =
        is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
  }
  return out;
}

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
