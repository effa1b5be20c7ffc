// SPDX-License-Identifier: MIT
// Runs a Jinja template as jinja2's ImmutableSandboxedEnvironment does.
#pragma once

#include <initializer_list>

#include "hydralora/lm/text/jinja_expressions.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::jinja {

/// Sets what a template sees as `loop`.
inline void set_loop(Value& loop, std::size_t i, const List& items) {
  const auto index = static_cast<std::int64_t>(i), size = static_cast<std::int64_t>(items.size());
  const std::int64_t behind = size - index - 1;
  const char* const names[] = {"index", "index0", "revindex", "revindex0", "length",
                               "depth", "depth0", "first",    "last"};
  const Value values[] = {index + 1, index, behind + 1, behind, size, 1, 0, index == 0, behind == 0};
  for (std::size_t k = 0; k < std::size(names); ++k) loop.set(names[k], values[k]);
  loop.set("previtem", i > 0 ? items[i - 1] : Value());
  loop.set("nextitem", behind > 0 ? items[i + 1] : Value());
}

/// Runs a template while reading it. The first reading is without effect: it finds the errors, and where blocks and
/// conditions are. Each run works on a copy of what the first reading gave.
class Interpreter final : public Expressions {
 public:
  using Expressions::Expressions;

  /// The first reading. @throws Fault  on a syntax error.
  void check() { block(false); }
  /// @throws Fault  on any error.
  std::string run(const Dict& variables) {
    root_ = scope_ = std::make_shared<Scope>();
    for (const auto& [name, value] : variables) scope_->names[name.text()] = value;
    at_ = 0;
    live_ = true;
    std::string text;
    out_ = &text;
    block(true);
    if (flow_ != Flow::onward) throw Fault("break or continue outside a loop");
    return text;
  }

 private:
  using Ends = std::initializer_list<std::string_view>;
  enum class Flow { onward, broken, continued };

  void emit(const std::string& text) {
    spend(text.size() / 64 + 1);
    if (live_) within_limit((*out_ += text).size());
  }
  /// Up to a tag that begins with one of `ends`, which is here afterwards. Without them: up to the end.
  void block(bool live, Ends ends = {}) {
    const std::size_t start = at_;
    const auto known = places_.find(start);
    if (known != places_.end() && !(live && live_)) {
      tag_ = '%';
      at_ = known->second;
      return;
    }
    const Exchanged<int> depth(depth_, deeper());
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
  }
  /// What a statement's body prints, which ends with the tag `end`.
  std::string printed(std::string_view end) {
    end_tag();
    std::string text;
    const Exchanged<std::string*> out(out_, &text);
    inside(scope_, [&] { block(true, {end}); });
    if (flow_ != Flow::onward) throw Fault("break or continue outside a loop");
    expect(end);
    return text;
  }

  void statement() {
    if (skip("for")) return for_statement();
    if (skip("if")) return if_statement();
    if (skip("set")) return set_statement();
    if (skip("macro")) return macro_statement();
    if (skip("generation")) return emit(printed("endgeneration"));
    const bool breaks = at("break");
    if (!skip("break") && !skip("continue")) throw Fault("Encountered unknown tag '" + name() + "'");
    if (live_) flow_ = breaks ? Flow::broken : Flow::continued;
    live_ = false;
  }
  /// {% else %} and its block where they are here, and the end tag.
  void otherwise(bool live, std::string_view end) {
    if (skip("else")) {
      end_tag();
      block(live, {end});
    }
    expect(end);
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
    Value loop(Dict(), Kind::space);
    for (std::size_t i = 0; i < items.size() && flow_ != Flow::broken; ++i) {
      spend(10);
      at_ = body;
      flow_ = Flow::onward;
      live_ = live;
      inside(scope_, [&] {
        assign(names, items[i]);
        set_loop(loop, i, items);
        scope_->names["loop"] = loop;
        block(true, {"endfor", "else"});
      });
    }
    at_ = body;
    if (live) flow_ = Flow::onward;
    live_ = live;
    block(false, {"endfor", "else"});
    inside(scope_, [&] { otherwise(items.empty(), "endfor"); });
  }
  void set_statement() {
    const Names names = target();
    const Value value = skip("=") ? tuple_or_one() : Value(printed("endset"));
    if (live_) assign(names, value);
  }
  void macro_statement() {
    const std::string name = this->name();
    if (live_) scope_->names[name] = Value(static_cast<std::int64_t>(at_), Kind::callable);
    only_if(false, [&] { return called({}); });
  }
  /// A macro sees its own names and the template's.
  Value call_macro(const Value& macro, const Arguments& given) override {
    const Exchanged<std::size_t> at(at_, static_cast<std::size_t>(macro.integer()));
    const Exchanged<char> tag(tag_, '%');
    return inside(root_, [&] { return called(given); });
  }
  /// Reads a macro from its parameters on, and gives what its body prints.
  std::string called(const Arguments& given) {
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
    if (given.positional.size() > count) throw Fault("a macro was given too many arguments");
    if (given.named.size() > used) throw Fault("a macro was given an unknown argument");
    return printed("endmacro");
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
  std::shared_ptr<Scope> root_{};
};

}  // namespace lm::jinja
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
