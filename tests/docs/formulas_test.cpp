// SPDX-License-Identifier: MIT
//
// What the API pages make of formulas in plain text, and what they leave alone.
#include "api/formulas.hpp"

#include <doctest/doctest.h>

namespace {

struct Case {
  const char* text;
  const char* expected;
};

TEST_CASE("formulas: those of the headers become LaTeX") {
  const Case cases[] = {
      {"y += s · Σ_i ω_i(x) B_i A x",
       "\\f$y\\mathrel{+}= s\\cdot \\sum_{i} \\omega_{i}\\left(x\\right)\\,B_{i}\\,A\\,x\\f$"},
      {"V = s [B_1 … B_N]ᵀ dY", "\\f$V =s\\,\\left[B_{1}\\,\\dots \\,B_{N}\\right]^{\\top}\\,\\mathrm{d}Y\\f$"},
      {"dℓ = ω ∘ (dω − ⟨ω, dω⟩)",
       "\\f$\\mathrm{d}\\ell =\\omega\\circ \\left(\\mathrm{d}\\omega - \\left\\langle \\omega, "
       "\\mathrm{d}\\omega\\right\\rangle \\right)\\f$"},
      {"m̂ / (√v̂ + ε)", "\\f$\\frac{\\hat{m}}{\\sqrt{\\hat{v}} + \\varepsilon}\\f$"},
      {"v̂ = v / (1-β2^t)", "\\f$\\hat{v} =\\frac{v}{1 - \\beta_{2}^{t}}\\f$"},
      {"c_o² = ‖w_o‖²", "\\f$c_{o}^{2} =\\left\\lVert w_{o}\\right\\rVert ^{2}\\f$"},
      {"ε = 1e-8", "\\f$\\varepsilon =10^{-8}\\f$"},
      {"2 · heads · in_features flop", "\\f$2\\cdot \\mathrm{heads}\\cdot \\mathrm{in\\_features}\\f$ flop"},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK(api_docs::typeset(c.text) == c.expected);
  }
}

TEST_CASE("formulas: in the middle of a sentence, and no further than they go") {
  CHECK(api_docs::typeset("the weights ω of its heads") == "the weights \\f$\\omega\\f$ of its heads");
  CHECK(api_docs::typeset("exact where ω_i = 1, bit for bit") == "exact where \\f$\\omega_{i} =1\\f$, bit for bit");
  CHECK(api_docs::typeset("y += ΔW(x), fills it") == "\\f$y\\mathrel{+}= \\Delta W\\left(x\\right)\\f$, fills it");
  CHECK(api_docs::typeset("h = A x       y += s B h", "\\displaystyle ") ==
        "\\f$\\displaystyle h =A\\,x\\f$       \\f$\\displaystyle y\\mathrel{+}= s\\,B\\,h\\f$");
}

TEST_CASE("formulas: prose, code and shapes stay as they are") {
  for (const char* text : {"(in_features × tokens), read. tokens = 0 is a no-op.", "A token's bits depend on x alone.",
                           "LoRA<float>, forward() and std::invalid_argument", "`ω_i` as it is", "T=512 d=4096 r=8",
                           "a low-rank addition, x / y of them", "see kernels/low_rank.hpp", "1 … heads", ""}) {
    INFO(text);
    CHECK(api_docs::typeset(text) == text);
  }
}

}  // namespace
