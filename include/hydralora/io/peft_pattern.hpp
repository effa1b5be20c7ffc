// SPDX-License-Identifier: MIT
// rank_pattern and alpha_pattern of adapter_config.json, read as PEFT reads them.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// A regular expression of an adapter's settings. It must match a whole name, or the end of one behind a dot:
/// (.*\.)?(key)$, as in PEFT. Files are not trusted: long keys and large repetitions are refused, and the work is
/// counted. Standard libraries other than libstdc++ match by backtracking, and end what takes too long with an error.
class NamePattern {
 public:
  /// @throws std::invalid_argument  a key that is no regular expression of ECMAScript, or that could take long.
  explicit NamePattern(const std::string& key) : size_(checked_size(key)) {
    const std::string own = translated(key);
    try {
      std::regex(own, flags);  // refuses "a)|(b", which is one only inside the brackets
      regex_.assign("(?:.*\\.)?(?:" + own + ")", flags);
    } catch (const std::regex_error&) {
      throw std::invalid_argument("is no regular expression that this library reads");
    }
  }
  bool matches(const std::string& name) const {
    try {
      return std::regex_match(name, regex_);
    } catch (const std::regex_error&) {
      throw std::invalid_argument("takes too long to match");
    }
  }
  std::uint64_t size() const { return size_; }
  /// Steps for a name of this length, at most.
  std::uint64_t cost(std::size_t length) const { return size_ * (length + 1); }

  static constexpr std::string_view special = "\\^$|()[]{}*+?";

 private:
#if HYDRALORA_HAS_POLYNOMIAL_REGEX
  static constexpr auto flags = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
  static constexpr auto flags = std::regex::ECMAScript;
#endif

  /// Python's syntax in that of ECMAScript. Groups need not be remembered, which takes time for every step.
  static std::string translated(const std::string& key) {
    const auto refuse = [](const char* what) {
      throw std::invalid_argument(std::string("has ") + what +
                                  ", which is no regular expression that this library reads");
    };
    std::string own;
    bool in_class = false;
    for (std::size_t i = 0; i < key.size(); ++i) {
      const char c = key[i], next = i + 1 < key.size() ? key[i + 1] : '\0';
      if (c == '\\') {
        const bool is_letter = std::isalnum(static_cast<unsigned char>(next)) != 0;
        if (!in_class && (next == 'A' || next == 'Z')) {
          own += next == 'A' ? '^' : '$';
        } else if (is_letter && std::string_view("dDwWsSbBntrfv").find(next) == std::string_view::npos) {
          refuse("an escape");
        } else {
          own += {c, next};
        }
        ++i;
      } else if (in_class) {
        if (c == '[' && (next == ':' || next == '=' || next == '.')) refuse("a class of names");
        in_class = c != ']';
        own += c;
      } else {
        in_class = c == '[';
        own += c;
        if (c == '(' && next != '?') own += "?:";
        if (c == '[' && next == '^') own += key[++i];
        if (c == '[' && i + 1 < key.size() && key[i + 1] == ']') refuse("a ] at the beginning of a class");
      }
    }
    return own;
  }
  /// The number of states after repetitions are written out. A class takes a table to compile.
  static std::uint64_t checked_size(const std::string& key) {
    constexpr std::uint64_t most = 4000;
    std::uint64_t size = key.size() + 64 * static_cast<std::uint64_t>(std::count(key.begin(), key.end(), '['));
    for (std::size_t i = 0; i < key.size() && size <= most; ++i) {
      if (key[i] != '{') continue;
      std::uint64_t times = 1, number = 0;
      for (++i; i < key.size() && key[i] != '}'; ++i) {
        number = key[i] >= '0' && key[i] <= '9' ? number * 10 + static_cast<std::uint64_t>(key[i] - '0') : 0;
        if (number > most) number = most + 1;
        if (number > times) times = number;
      }
      size *= times;
    }
    if (key.empty()) throw std::invalid_argument("is empty");
    if (size > most) throw std::invalid_argument("is too large");
    return size;
  }

  std::regex regex_;
  std::uint64_t size_;
};

/// The values of a pattern by module. As in PEFT the first key that matches counts, in the order of the file.
/// Keys without special characters but dots, which stand for any character there, take one search in a hash table for
/// all keys with dots at the same places. So a file with a key for each of its modules is read in about linear time.
template <class Value>
class PeftPattern {
 public:
  /// @throws std::invalid_argument  as NamePattern.
  void add(const std::string& key, Value value) {
    const std::size_t number = values_.size();
    if (key.empty() || key.find_first_of(NamePattern::special) != std::string::npos) {
      regexes_.emplace_back(number, NamePattern(key));
      constexpr std::uint64_t most = 40000;
      if ((size_ += regexes_.back().second.size()) > most) throw std::invalid_argument("makes the pattern too large");
    } else {
      std::string dots = key;
      for (char& c : dots) c = c == '.' ? '.' : ' ';
      plain_[dots].emplace(key, number);
    }
    values_.push_back(std::move(value));
  }
  /// @throws std::invalid_argument  if all calls together take too long.
  Value find(const std::string& module, Value otherwise) {
    std::size_t first = values_.size();
    count(plain_.size());
    for (const auto& [dots, keys] : plain_) {
      if (dots.size() > module.size()) continue;
      const std::size_t begin = module.size() - dots.size();
      if (begin > 0 && module[begin - 1] != '.') continue;
      count(dots.size());
      std::string end = module.substr(begin);
      for (std::size_t i = 0; i < dots.size(); ++i) {
        if (dots[i] == '.') end[i] = '.';
      }
      const auto found = keys.find(end);
      if (found != keys.end() && found->second < first) first = found->second;
    }
    for (const auto& [number, regex] : regexes_) {
      if (number >= first) break;
      count(regex.cost(module.size()));
      if (regex.matches(module)) first = number;
    }
    return first < values_.size() ? values_[first] : otherwise;
  }

 private:
  void count(std::uint64_t steps) {
    constexpr std::uint64_t most = std::uint64_t{1} << 27U;  // about a second
    if ((steps_ += steps) > most) throw std::invalid_argument("takes too long with this number of keys and modules");
  }

  std::vector<Value> values_;                                                  // in the order of the file
  std::map<std::string, std::unordered_map<std::string, std::size_t>> plain_;  // by the places of their dots
  std::vector<std::pair<std::size_t, NamePattern>> regexes_;
  std::uint64_t size_ = 0, steps_ = 0;
};

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
