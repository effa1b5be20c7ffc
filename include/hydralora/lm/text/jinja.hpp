// SPDX-License-Identifier: MIT
// Runs a Jinja template as jinja2's ImmutableSandboxedEnvironment does.
#pragma once

#include <initializer_list>

#include "hydralora/lm/text/jinja_expressions.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

/// What a template sees as `loop`. `seen` is what its `changed` was given last, printed.
inline Value loop_at(std::size_t i, const List& items, const std::shared_ptr<std::string>& seen) {
  const auto index = static_cast<std::int64_t>(i), size = static_cast<std::int64_t>(items.size());
  const Value::Function cycle = [i](const Arguments& given) {
    if (given.positional.empty()) throw Fault("no items for cycling given");
    return given.positional[i % given.positional.size()];
  };
  const Value::Function changed = [seen](const Arguments& given) {
    std::string now = print(given.positional);
    return std::exchange(*seen, now) != now;
  };
  const char* const names[] = {"index",  "index0", "revindex", "revindex0", "length", "depth",
                               "depth0", "first",  "last",     "cycle",     "changed"};
  const Value values[] = {index + 1,       index,           size - index, size - index - 1,  size,
                          std::int64_t{1}, std::int64_t{0}, index == 0,   index + 1 == size, {cycle, {}},
                          {changed, {}}};
  Dict loop;
  for (std::size_t k = 0; k < std::size(names); ++k) loop.emplace_back(names[k], values[k]);
  if (i > 0) loop.emplace_back("previtem", items[i - 1]);
  if (i + 1 < items.size()) loop.emplace_back("nextitem", items[i + 1]);
  return loop;
}

/// Runs a template while reading it. The first reading is without effect: it finds the errors, and where blocks and
/// conditions are. Each run works on a copy of what the first reading gave.
class Interpreter : public Expressions {
 public:
  using Expressions::Expressions;

  /// The first reading. @throws Fault  on a syntax error.
  void check() { block(false); }
  /// @throws Fault  on any error.
  std::string run(const Dict& variables) {
    for (const auto& [name, value] : variables) scope_->names[name.text()] = value;
    at_ = 0;
    live_ = true;
    return printed({});
  }

 private:
  using Ends = std::initializer_list<std::string_view>;
  enum class Flow { onward, broken, continued };

  void emit(const std::string& text) {
    spend(text.size() / 64 + 1);
    if (live_) within_limit((*out_ += text).size());
  }
  /// Up to a tag that begins with one of `ends`, which is here afterwards. Without them: up to the end.
  bool block(bool live, Ends ends = {}) {
    const std::size_t start = at_;
    const auto known = places_.find(start);
    if (known != places_.end() && !(live && live_)) {
      tag_ = '%';
      at_ = known->second;
      return true;
    }
    deeper();
    const bool outer = std::exchange(live_, live && live_);
    for (bool more = true; more;) {
      emit(data());
      if (tag_ == '\0' && ends.size() > 0) unexpected("{% " + std::string(*ends.begin()) + " %}");
      const bool ended = tag_ == '%' && std::any_of(ends.begin(), ends.end(), [&](auto end) { return at(end); });
      more = tag_ != '\0' && !ended;
      if (more) tag_ == '%' ? statement() : emit(print(tuple_or_one()));
      if (more) end_tag();
    }
    places_.emplace(start, at_);
    live_ = outer && flow_ == Flow::onward;
    --depth_;
    return true;
  }
  /// What a block prints, in names of its own: all, or up to the end tag.
  std::string printed(Ends end) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    if (end.size() > 0) end_tag();
    inside(scope_, [&] { return block(true, end); });
    if (flow_ != Flow::onward) throw Fault("break or continue outside a loop");
    out_ = outer;
    for (const auto word : end) expect(word);
    return text;
  }

  void statement() {
    if (skip("for")) return for_statement();
    if (skip("if")) return if_statement();
    if (skip("set")) return set_statement();
    if (skip("macro")) return macro_statement();
    if (skip("generation")) return emit(printed({"endgeneration"}));
    const bool breaks = at("break");
    if (!skip("break") && !skip("continue")) throw Fault("Encountered unknown tag '" + name() + "'");
    if (live_) flow_ = breaks ? Flow::broken : Flow::continued;
    live_ = false;
  }
  /// {% else %} and its block where they are here, and the end tag.
  bool otherwise(bool live, std::string_view end) {
    if (skip("else")) {
      end_tag();
      block(live, {end});
    }
    return expect(end), true;
  }

  void if_statement() {
    bool found = false;
    do {
      const bool holds = only_if(!found, [&] { return tuple_or_one(); }).truth() && !found;
      end_tag();
      block(holds, {"endif", "else", "elif"});
      found = found || holds;
    } while (skip("elif"));
    otherwise(!found, "endif");
  }
  void for_statement() {
    const Names names = target();
    expect("in");
    const Value all = tuple_or_one(false);
    const bool chooses = skip("if");
    const std::size_t condition = at_;
    if (chooses) only_if(false, [&] { return expression(); });
    end_tag();
    const std::size_t body = at_;
    const bool live = live_;
    List items;
    for (const Value& item : live ? items_of(spent(all)) : List()) {
      at_ = condition;
      const auto fits = [&] { return assign(names, item), expression().truth(); };
      if (!chooses || inside(scope_, fits)) items.push_back(item);
    }
    const auto seen = std::make_shared<std::string>();
    for (std::size_t i = 0; i < items.size() && flow_ != Flow::broken; ++i) {
      spend(10);
      at_ = body;
      flow_ = Flow::onward;
      live_ = live;
      inside(scope_, [&] {
        assign(names, items[i]);
        scope_->names["loop"] = loop_at(i, items, seen);
        return block(true, {"endfor", "else"});
      });
    }
    at_ = body;
    if (live) flow_ = Flow::onward;
    live_ = live;
    block(false, {"endfor", "else"});
    inside(scope_, [&] { return otherwise(items.empty(), "endfor"); });
  }
  void set_statement() {
    const Names names = target();
    const Value value = skip("=") ? tuple_or_one() : Value(printed({"endset"}));
    if (live_) assign(names, value);
  }
  void macro_statement() {
    const std::string name = this->name();
    const std::size_t start = at_;
    const auto call = [this, name, start, scope = std::weak_ptr<Scope>(scope_)](const Arguments& given) {
      const std::size_t at = std::exchange(at_, start);
      const char tag = std::exchange(tag_, '%');
      std::string text = inside(scope.lock(), [&] { return called(name, given); });
      at_ = at;
      tag_ = tag;
      return text;
    };
    if (live_) scope_->names[name] = {call, nullptr};
    only_if(false, [&] { return called(name, {}); });
  }
  /// Reads a macro from its parameters on, and gives what its body prints.
  std::string called(const std::string& macro, const Arguments& given) {
    std::size_t count = 0, used = 0;
    expect("(");
    listed(")", [&] {
      const std::string parameter = name();
      Value value = Value::undefined("parameter '" + parameter + "' was not provided");
      const auto named =
          std::find_if(given.named.begin(), given.named.end(), [&](auto& one) { return one.first == parameter; });
      const bool by_name = named != given.named.end(), by_place = count < given.positional.size();
      if (skip("=")) value = only_if(!by_name && !by_place, [&] { return expression(); });
      scope_->names[parameter] = by_place ? given.positional[count] : by_name ? named->second : value;
      ++count;
      used += by_name ? 1 : 0;
    });
    if (given.positional.size() > count) throw Fault("macro '" + macro + "' was given too many arguments");
    if (given.named.size() > used) throw Fault("macro '" + macro + "' was given an unknown argument");
    return printed({"endmacro"});
  }

  /// What is assigned to: names, or attributes of namespaces.
  using Names = std::vector<std::pair<std::string, std::string>>;
  Names target() {
    Names names;
    const bool bracket = skip("(");
    do {
      std::string first = name();
      names.emplace_back(std::move(first), skip(".") ? name() : "");
    } while (skip(",") && at_name() && !at("in"));
    if (bracket) expect(")");
    return names;
  }
  void assign(const Names& names, const Value& value) {
    const List items = names.size() == 1 ? List{value} : items_of(value);
    if (items.size() != names.size()) throw Fault("the number of names and of values to unpack differ");
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto& [name, attribute] = names[i];
      Value space = attribute.empty() ? Value() : variable(name);
      if (!attribute.empty() && !space.is(Kind::space)) throw Fault("cannot assign attribute on non-namespace object");
      attribute.empty() ? void(scope_->names[name] = items[i]) : space.set(attribute, items[i]);
    }
  }

  Flow flow_ = Flow::onward;
  std::string* out_ = nullptr;
};

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
