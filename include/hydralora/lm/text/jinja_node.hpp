// SPDX-License-Identifier: MIT
// The tree that a Jinja template becomes.
#pragma once

#include <algorithm>
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
using NodePointer = std::unique_ptr<Node>;
using Nodes = std::vector<NodePointer>;

/// An expression or a statement. What `parts` and `blocks` hold stands behind each kind.
struct Node {
  enum class Kind {
    constant,      // value
    variable,      // name
    list,          // the items
    tuple,         // the items
    dict,          // key, value, key, value …
    attribute,     // object; name
    subscript,     // object, key
    slice,         // first, behind, step; each may be null. Only as the key of a subscript
    call,          // callee, arguments …
    filter,        // input (null in a filter block), arguments …; name
    test,          // input, arguments …; name
    keyword,       // an argument name=value
    star,          // an argument *list, or **dict where name is "**"
    negation,      // not
    sign,          // name + or -
    binary,        // two operands; name is the operator, "and" and "or" too
    comparison,    // operands; names are the operators between them
    conditional,   // condition, then, otherwise (may be null)
    output,        // one expression
    data,          // value
    for_loop,      // target, items, condition (may be null); blocks: body, otherwise
    if_else,       // conditions; blocks: one each, and one more for else
    set,           // target, value (null: what the block prints), a filter for the block (may be null); blocks: body
    macro,         // defaults of the last parameters; name; names are the parameters; blocks: body
    call_block,    // a macro named caller, the call
    filter_block,  // the filter; blocks: body
    with,          // target, value, target, value …; blocks: body
    generation,    // blocks: body
    break_loop,
    continue_loop
  };
  Node(Kind node_kind, int node_line, std::string node_name = {})
      : kind(node_kind), line(node_line), name(std::move(node_name)) {}
  void add(NodePointer part) {
    if (part) height = std::max(height, part->height + 1);
    if (height > 200) throw Fault("the template has an expression nested deeper than 200");
    parts.push_back(std::move(part));
  }
  Kind kind;
  int line, height = 0;
  std::string name;
  Value value;
  Nodes parts;
  std::vector<std::string> names;
  std::vector<Nodes> blocks;
};

}  // namespace jinja
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
