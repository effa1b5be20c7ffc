// SPDX-License-Identifier: MIT
// The values of a Jinja template, as Python has them: kinds, truth, equality, order, and how they print.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

struct Callable;
struct Loop;

/// Lists and dictionaries are shared and never change: the sandbox forbids it. Only a namespace changes.
class Value {
 public:
  /// view: what dict.items() gives. generator: what the filters map, select … give; going through it empties it.
  enum class Kind {
    undefined,
    none,
    boolean,
    integer,
    number,
    string,
    list,
    tuple,
    range,
    view,
    generator,
    dict,
    space,
    callable,
    loop
  };
  using List = std::vector<Value>;
  using Dict = std::vector<std::pair<Value, Value>>;

  Value() = default;
  Value(std::nullptr_t) : kind_(Kind::none) {}
  Value(bool value) : kind_(Kind::boolean), integer_(value ? 1 : 0) {}
  Value(std::int64_t value) : kind_(Kind::integer), integer_(value) {}
  Value(double value) : kind_(Kind::number), number_(value) {}
  Value(std::string text) : kind_(Kind::string), text_(std::make_shared<std::string>(std::move(text))) {
    within_limit(text_->size());
  }
  Value(const char* text) : Value(std::string(text)) {}
  Value(const void*) = delete;
  /// `type` is Python's name of a view or a generator, and how a range prints.
  Value(Kind kind, List items, std::string type = {}) : kind_(kind), list_(std::make_shared<List>(std::move(items))) {
    for (const Value& item : *list_) hold(item);
    if (!type.empty()) text_ = std::make_shared<std::string>(std::move(type));
  }
  Value(List items) : Value(Kind::list, std::move(items)) {}
  Value(Dict items) : kind_(Kind::dict), dict_(std::make_shared<Dict>(std::move(items))) {
    for (const auto& [key, item] : *dict_) hold(item);
  }
  /// `held` is what the callable or the loop holds.
  Value(std::shared_ptr<Callable> callable, const Value& held) : kind_(Kind::callable), callable_(std::move(callable)) {
    hold(held);
  }
  Value(std::shared_ptr<Loop> loop, const Value& held) : kind_(Kind::loop), loop_(std::move(loop)) { hold(held); }
  /// @throws Fault  for an integer beyond 64 bits and for a nesting deeper than 200.
  explicit Value(const nlohmann::ordered_json& json) : Value(of_json(json, 0)) {}

  static Value undefined(std::string why) {
    Value value;
    value.text_ = std::make_shared<std::string>(std::move(why));
    return value;
  }
  static Value space(Dict items) {
    Value value(std::move(items));
    value.kind_ = Kind::space;
    value.depth_ = 0;  // what it holds can change; the interpreter empties it at the end
    value.weight_ = 1;
    return value;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_integer() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_number() const { return is_integer() || kind_ == Kind::number; }
  bool is_list() const { return kind_ >= Kind::list && kind_ <= Kind::generator; }
  std::int64_t integer() const { return integer_; }
  double number() const { return kind_ == Kind::number ? number_ : static_cast<double>(integer_); }
  const std::string& text() const { return *text_; }  ///< of a string
  const List& list() const { return *list_; }         ///< of all that is_list()
  Dict& dict() const { return *dict_; }               ///< of a dict or a namespace
  const std::shared_ptr<Dict>& shared_dict() const { return dict_; }
  /// How much work it is to go through it, in bytes.
  std::size_t size() const {
    return kind_ == Kind::string ? text_->size() : is_list() ? list_->size() * 64 : dict_ ? dict_->size() * 64 : 8;
  }
  const std::shared_ptr<Callable>& callable() const { return callable_; }
  const std::shared_ptr<Loop>& loop() const { return loop_; }
  std::string why() const { return text_ ? *text_ : "a value is undefined"; }  ///< of an undefined value

  /// The items of a generator, which is empty afterwards.
  List consumed(bool first_only = false) const {
    if (!first_only) return std::exchange(*list_, {});
    List first;
    if (!list_->empty()) {
      first.push_back(list_->front());
      list_->erase(list_->begin());
    }
    return first;
  }

  const Value* find(const Value& key) const {
    for (const auto& [name, item] : *dict_) {
      if (name == key) return &item;
    }
    return nullptr;
  }
  void set(const Value& key, Value item) const {
    for (auto& [name, old] : *dict_) {
      if (name == key) return void(old = std::move(item));
    }
    dict_->emplace_back(key, std::move(item));
  }

  std::string type() const {
    static constexpr const char* names[] = {"Undefined", "NoneType", "bool",      "int",      "float",
                                            "str",       "list",     "tuple",     "range",    "view",
                                            "generator", "dict",     "Namespace", "function", "LoopContext"};
    return kind_ == Kind::view ? *text_ : names[static_cast<int>(kind_)];
  }

  bool truth() const {
    switch (kind_) {
      case Kind::undefined:
      case Kind::none:
        return false;
      case Kind::boolean:
      case Kind::integer:
        return integer_ != 0;
      case Kind::number:
        return number_ != 0;
      case Kind::string:
        return !text_->empty();
      case Kind::dict:
        return !dict_->empty();
      case Kind::list:
      case Kind::tuple:
      case Kind::range:
      case Kind::view:
        return !list_->empty();
      default:
        return true;  // a generator too, even where nothing comes
    }
  }

  friend bool operator==(const Value& a, const Value& b) {
    if (a.is_integer() && b.is_integer()) return a.integer_ == b.integer_;
    if (a.is_number() && b.is_number()) return a.number() == b.number();
    if (a.kind_ != b.kind_) return false;
    switch (a.kind_) {
      case Kind::undefined:
      case Kind::none:
        return true;
      case Kind::string:
        return *a.text_ == *b.text_;
      case Kind::list:
      case Kind::tuple:
      case Kind::range:
        return a.list_ == b.list_ || *a.list_ == *b.list_;
      case Kind::dict: {
        if (a.dict_ == b.dict_) return true;
        if (a.dict_->size() != b.dict_->size()) return false;
        return std::all_of(a.dict_->begin(), a.dict_->end(), [&](const auto& pair) {
          const Value* other = b.find(pair.first);
          return other != nullptr && *other == pair.second;
        });
      }
      case Kind::loop:
        return a.loop_ == b.loop_;
      case Kind::callable:
        return a.callable_ == b.callable_;
      case Kind::space:
        return a.dict_ == b.dict_;
      default:
        return a.list_ == b.list_;
    }
  }
  friend bool operator!=(const Value& a, const Value& b) { return !(a == b); }

  /// a < b. @throws Fault  where Python's < does.
  static bool less(const Value& a, const Value& b, const char* symbol = "<") {
    if (a.is_integer() && b.is_integer()) return a.integer_ < b.integer_;
    if (a.is_number() && b.is_number()) return a.number() < b.number();
    if (a.is(Kind::undefined) || b.is(Kind::undefined)) throw Fault(a.is(Kind::undefined) ? a.why() : b.why());
    if (a.kind_ == b.kind_ && a.is(Kind::string)) return *a.text_ < *b.text_;
    if (a.kind_ == b.kind_ && (a.is(Kind::list) || a.is(Kind::tuple))) {
      const auto [left, right] = std::mismatch(a.list_->begin(), a.list_->end(), b.list_->begin(), b.list_->end());
      if (right == b.list_->end()) return false;
      return left == a.list_->end() || less(*left, *right, symbol);
    }
    throw Fault("'" + std::string(symbol) + "' not supported between instances of '" + a.type() + "' and '" + b.type() +
                "'");
  }

 private:
  /// Keeps the recursion through a value short, and its cost bounded where one list is in another many times.
  void hold(const Value& item) {
    depth_ = std::max(depth_, item.depth_ + 1);
    weight_ += item.weight_;
    if (depth_ > 200) throw Fault("values are nested deeper than 200");
    if (weight_ > (std::int64_t{1} << 24U)) throw Fault("a list or dictionary holds more than 16 million values");
  }

  static Value of_json(const nlohmann::ordered_json& json, int depth) {
    if (depth > 200) throw Fault("values are nested deeper than 200");
    using Type = nlohmann::ordered_json::value_t;
    switch (json.type()) {
      case Type::boolean:
        return json.get<bool>();
      case Type::number_unsigned:
        if (json.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
          throw Fault("integers beyond 64 bits are not supported");
        }
        return json.get<std::int64_t>();
      case Type::number_integer:
        return json.get<std::int64_t>();
      case Type::number_float:
        return json.get<double>();
      case Type::string:
        return json.get_ref<const std::string&>();
      case Type::array: {
        List items;
        for (const auto& item : json) items.push_back(of_json(item, depth + 1));
        return items;
      }
      case Type::object: {
        Dict items;
        for (const auto& [key, item] : json.items()) items.emplace_back(key, of_json(item, depth + 1));
        return items;
      }
      default:
        return nullptr;
    }
  }

  Kind kind_ = Kind::undefined;
  int depth_ = 0;
  std::int64_t weight_ = 1;
  std::int64_t integer_ = 0;
  double number_ = 0;
  std::shared_ptr<const std::string> text_;
  std::shared_ptr<List> list_;
  std::shared_ptr<Dict> dict_;
  std::shared_ptr<Callable> callable_;
  std::shared_ptr<Loop> loop_;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
