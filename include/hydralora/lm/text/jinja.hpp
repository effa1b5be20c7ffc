// SPDX-License-Identifier: MIT
// Runs a Jinja template as jinja2's ImmutableSandboxedEnvironment does.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/config.hpp"
#include "hydralora/lm/text/jinja_arguments.hpp"
#include "hydralora/lm/text/jinja_attributes.hpp"
#include "hydralora/lm/text/jinja_evaluator.hpp"
#include "hydralora/lm/text/jinja_node.hpp"
#include "hydralora/lm/text/jinja_print.hpp"
#include "hydralora/lm/text/jinja_text.hpp"
#include "hydralora/lm/text/jinja_value.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace jinja {

/// One rendering of a template.
class Interpreter : private Evaluator {
 public:
  explicit Interpreter(Dict variables) {
    for (const char* name : {"range", "dict", "namespace", "raise_exception", "strftime_now", "joiner", "cycler"}) {
      scope_->set(name, Value(std::make_shared<Callable>(Callable{name}), nullptr));
    }
    for (auto& [name, value] : variables) scope_->set(name.text(), std::move(value));
    scope_ = std::make_shared<Scope>(scope_);
  }

  /// @throws Fault  on any error; line() then gives where.
  std::string run(const Nodes& nodes) {
    std::string out;
    out_ = &out;
    run_block(nodes);
    return out;
  }
  using Evaluator::line;

 private:
  enum class Flow { onward, broken, continued };

  void emit(const std::string& text) {
    within_limit(out_->size() + text.size());
    *out_ += text;
  }

  Flow run_block(const Nodes& nodes) {
    for (const NodePointer& node : nodes) {
      const Flow flow = run_node(*node);
      if (flow != Flow::onward) return flow;
    }
    return Flow::onward;
  }
  /// The same in a scope of its own.
  Flow run_inside(const Nodes& nodes, std::shared_ptr<Scope> inside) {
    std::swap(scope_, inside);
    const Flow flow = run_block(nodes);
    std::swap(scope_, inside);
    return flow;
  }
  /// What the nodes print.
  std::string printed(const Nodes& nodes, const std::shared_ptr<Scope>& inside) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    run_inside(nodes, inside);
    out_ = outer;
    return text;
  }
  std::shared_ptr<Scope> inner() const { return std::make_shared<Scope>(scope_); }

  Flow run_node(const Node& node) {
    Step step(*this, node);
    Flow flow = Flow::onward;
    switch (node.kind) {
      case Node::Kind::data:
        emit(node.value.text());
        break;
      case Node::Kind::output:
        emit(print(value_of(*node.parts[0])));
        break;
      case Node::Kind::if_else:
        flow = run_if(node);
        break;
      case Node::Kind::for_loop:
        flow = run_for(node);
        break;
      case Node::Kind::set:
        if (node.parts[1]) {
          assign(*node.parts[0], value_of(*node.parts[1]));
        } else {
          Value text = printed(node.blocks[0], inner());
          if (node.parts[2]) text = filtered(*node.parts[2], std::move(text));
          assign(*node.parts[0], text);
        }
        break;
      case Node::Kind::macro:
        scope_->set(node.name, macro(node));
        break;
      case Node::Kind::call_block:
        emit(print(call(*node.parts[1], node.parts[0].get())));
        break;
      case Node::Kind::filter_block:
        emit(print(filtered(*node.parts[0], printed(node.blocks[0], inner()))));
        break;
      case Node::Kind::with: {
        const std::shared_ptr<Scope> inside = inner();
        for (std::size_t i = 0; i < node.parts.size(); i += 2) {
          Value value = value_of(*node.parts[i + 1]);
          std::shared_ptr<Scope> outer = std::exchange(scope_, inside);
          assign(*node.parts[i], value);
          scope_ = std::move(outer);
        }
        flow = run_inside(node.blocks[0], inside);
        break;
      }
      case Node::Kind::generation:
        run_inside(node.blocks[0], inner());
        break;
      case Node::Kind::break_loop:
        flow = Flow::broken;
        break;
      case Node::Kind::continue_loop:
        flow = Flow::continued;
        break;
      default:
        throw Fault("an expression stands where a statement should");
    }
    step.leave();
    return flow;
  }

  Flow run_if(const Node& node) {
    for (std::size_t i = 0; i < node.blocks.size(); ++i) {
      if (i == node.parts.size() || value_of(*node.parts[i]).truth()) return run_block(node.blocks[i]);
    }
    return Flow::onward;
  }

  Flow run_for(const Node& node) {
    const auto loop = std::make_shared<Loop>();
    loop->items = items_of(value_of(*node.parts[1]));
    if (node.parts[2]) {
      List kept;
      for (const Value& item : loop->items) {
        std::shared_ptr<Scope> outer = std::exchange(scope_, inner());
        assign(*node.parts[0], item);
        if (value_of(*node.parts[2]).truth()) kept.push_back(item);
        scope_ = std::move(outer);
      }
      loop->items = std::move(kept);
    }
    if (loop->items.empty() && node.blocks.size() > 1) return run_inside(node.blocks[1], inner());
    struct Emptied {
      Loop& loop;
      ~Emptied() { loop.changed = Value(); }
    } emptied{*loop};
    const Value seen(loop, loop->items);
    for (const Value& item : loop->items) {
      spend(1);
      const std::shared_ptr<Scope> inside = inner();
      std::shared_ptr<Scope> outer = std::exchange(scope_, inside);
      assign(*node.parts[0], item);
      inside->set("loop", seen);
      scope_ = std::move(outer);
      if (run_inside(node.blocks[0], inside) == Flow::broken) break;
      ++loop->index0;
    }
    return Flow::onward;
  }

  void assign(const Node& target, const Value& value) {
    if (target.kind == Node::Kind::tuple) {
      const List items = items_of(value);
      if (items.size() != target.parts.size()) {
        throw Fault("cannot unpack " + std::to_string(items.size()) + " values into " +
                    std::to_string(target.parts.size()) + " names");
      }
      for (std::size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i]);
    } else if (target.kind == Node::Kind::variable) {
      scope_->set(target.name, value);
    } else {
      const Value space = value_of(*target.parts[0]);
      if (!space.is(Value::Kind::space)) throw Fault("cannot assign attribute on non-namespace object");
      if (target.name[0] == '_') throw Fault("a namespace cannot hold '" + target.name + "'");
      space.set(target.name, value);
    }
  }

  Value call_macro(const Callable& function, Arguments& given) override {
    const Node& node = *function.macro;
    const auto inside = std::make_shared<Scope>(function.scope);
    const std::size_t count = node.names.size(), required = count - node.parts.size();
    std::shared_ptr<Scope> outer = std::exchange(scope_, inside);
    for (std::size_t i = 0; i < count; ++i) {
      const auto named = std::find_if(given.named.begin(), given.named.end(),
                                      [&](const auto& pair) { return pair.first == node.names[i]; });
      Value value = Value::undefined("parameter '" + node.names[i] + "' was not provided");
      if (i < given.positional.size()) {
        value = given.positional[i];
      } else if (named != given.named.end()) {
        value = named->second;
        given.named.erase(named);
      } else if (i >= required) {
        value = value_of(*node.parts[i - required]);
      }
      inside->set(node.names[i], std::move(value));
    }
    const auto takes = [&](std::size_t which) { return node.value.list()[which].truth(); };
    if (given.positional.size() > count && !takes(0)) {
      throw Fault("macro '" + node.name + "' takes not more than " + std::to_string(count) + " argument(s)");
    }
    Dict rest;
    for (auto& [name, value] : given.named) {
      if (name == "caller" && takes(2)) {
        inside->set(name, value);
      } else if (!takes(1)) {
        throw Fault("macro '" + node.name + "' takes no keyword argument '" + name + "'");
      } else {
        rest.emplace_back(name, value);
      }
    }
    List more;
    for (std::size_t i = count; i < given.positional.size(); ++i) more.push_back(given.positional[i]);
    inside->set("varargs", Value(Value::Kind::tuple, std::move(more)));
    inside->set("kwargs", rest);
    scope_ = std::move(outer);
    return printed(node.blocks[0], inside);
  }

  std::string* out_ = nullptr;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
