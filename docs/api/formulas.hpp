// SPDX-License-Identifier: MIT
//
// Formulas as the headers have them, in plain text, into LaTeX for the pages.
#pragma once

#include <string>
#include <string_view>

namespace api_docs {

/// The text with every formula in it as `\f$…\f$`, and what stands in `backticks` as it is.
///
///   s · Σ_i ω_i B_i A_i x   →   s \cdot \sum_{i} \omega_{i} B_{i} A_{i} x
///
/// A formula is what parses as one and cannot be prose: it has a Greek letter, a sum, a root, a transpose, an index, a product
/// dot, or a letter on one side of a relation. A plain x or (in × out) in a sentence stays as it is.
/// @param prefix  put before every formula: `\displaystyle ` where it stands by itself.
std::string typeset(std::string_view text, std::string_view prefix = "");

}  // namespace api_docs
