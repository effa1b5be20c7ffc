// SPDX-License-Identifier: MIT
// What can be called in a Jinja template, and the arguments of a call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

struct Node;
struct Scope;
using List = Value::List;
using Dict = Value::Dict;

/// A macro, a method with its object, a global function, or a joiner or cycler with its state.
struct Callable {
  std::string name;
  Value self{};
  const Node* macro = nullptr;
  std::shared_ptr<Scope> scope{};
  std::size_t position = 0;
};

/// What a template sees as `loop`.
struct Loop {
  List items{};
  std::int64_t index0 = 0, depth0 = 0;
  Value changed{};  ///< may hold the loop itself: emptied where the loop ends
};

/// The arguments of a call.
struct Arguments {
  List positional{};
  std::vector<std::pair<std::string, Value>> named{};
};

/// Arguments matched with parameters' names.
class Bound {
 public:
  /// @throws Fault  where there are too many arguments, or one has an unknown name.
  Bound(const Arguments& given, std::string function, std::initializer_list<const char*> parameters)
      : function_(std::move(function)), values_(parameters.size(), nullptr) {
    if (given.positional.size() > parameters.size()) throw Fault(function_ + " was given too many arguments");
    for (std::size_t i = 0; i < given.positional.size(); ++i) values_[i] = &given.positional[i];
    for (const auto& [name, value] : given.named) {
      const auto* const found = std::find(parameters.begin(), parameters.end(), name);
      if (found == parameters.end()) throw Fault(function_ + " got an unexpected keyword argument '" + name + "'");
      values_[static_cast<std::size_t>(found - parameters.begin())] = &value;
    }
  }
  bool has(std::size_t i) const { return values_[i] != nullptr; }
  Value get(std::size_t i, Value otherwise) const { return has(i) ? *values_[i] : std::move(otherwise); }
  const Value& at(std::size_t i) const {
    if (!has(i)) throw Fault(function_ + " is missing an argument");
    return *values_[i];
  }
  bool truth(std::size_t i, bool otherwise = false) const { return has(i) ? values_[i]->truth() : otherwise; }
  std::int64_t integer(std::size_t i, std::int64_t otherwise) const {
    if (!has(i) || values_[i]->is(Value::Kind::none)) return otherwise;
    if (!values_[i]->is_integer()) throw Fault(function_ + " needs an integer, not " + values_[i]->type());
    return values_[i]->integer();
  }
  /// Null where the argument is absent or None.
  const std::string* text(std::size_t i) const {
    if (!has(i) || values_[i]->is(Value::Kind::none)) return nullptr;
    if (!values_[i]->is(Value::Kind::string)) throw Fault(function_ + " needs a string, not " + values_[i]->type());
    return &values_[i]->text();
  }
  const std::string& need_text(std::size_t i) const {
    at(i);
    const std::string* const given = text(i);
    if (given == nullptr) throw Fault(function_ + " needs a string, not NoneType");
    return *given;
  }

 private:
  std::string function_;
  std::vector<const Value*> values_;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
