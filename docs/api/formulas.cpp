// SPDX-License-Identifier: MIT
#include "formulas.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>

namespace api_docs {
namespace {

std::u32string decode(std::string_view bytes) {
  std::u32string out;
  for (std::size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<unsigned char>(bytes[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    auto code = static_cast<char32_t>(length == 1 ? lead : lead & (0xFFU >> (length + 1)));
    for (std::size_t k = 1; k < length && i + k < bytes.size(); ++k) {
      code = (code << 6U) | (static_cast<unsigned char>(bytes[i + k]) & 0x3FU);
    }
    out += code;
    i += length;
  }
  return out;
}

std::string encode(std::u32string_view text) {
  std::string out;
  for (const char32_t code : text) {
    const auto tail = [&](unsigned shift) { out += static_cast<char>(0x80U | ((code >> shift) & 0x3FU)); };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0U | (code >> 6U));
      tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0U | (code >> 12U));
      tail(6), tail(0);
    } else {
      out += static_cast<char>(0xF0U | (code >> 18U));
      tail(12), tail(6), tail(0);
    }
  }
  return out;
}

using Table = std::map<char32_t, const char*>;
const Table letters{{U'α', "\\alpha"},      {U'β', "\\beta"},   {U'γ', "\\gamma"},  {U'δ', "\\delta"},
                    {U'ε', "\\varepsilon"}, {U'η', "\\eta"},    {U'θ', "\\theta"},  {U'κ', "\\kappa"},
                    {U'λ', "\\lambda"},     {U'μ', "\\mu"},     {U'π', "\\pi"},     {U'ρ', "\\rho"},
                    {U'σ', "\\sigma"},      {U'τ', "\\tau"},    {U'φ', "\\varphi"}, {U'ω', "\\omega"},
                    {U'Ω', "\\Omega"},      {U'Δ', "\\Delta "}, {U'ℓ', "\\ell"},    {U'∞', "\\infty"}};
const Table superscripts{{U'ᵀ', "\\top"}, {U'²', "2"}, {U'³', "3"}, {U'⁻', "-"}, {U'¹', "1"}, {U'⁰', "0"},
                         {U'⁴', "4"},     {U'⁵', "5"}, {U'⁶', "6"}, {U'⁷', "7"}, {U'⁸', "8"}, {U'⁹', "9"}};
const Table relations{{U'=', "="},         {U'≤', "\\le "}, {U'≥', "\\ge "},   {U'≠', "\\ne "},
                      {U'≈', "\\approx "}, {U'∈', "\\in "}, {U'←', "\\gets "}, {U'→', "\\to "}};
const Table products{{U'·', "\\cdot "}, {U'∘', "\\circ "}, {U'×', "\\times "}};
const std::map<std::u32string, const char*> functions{{U"exp", "\\exp"},
                                                      {U"ln", "\\ln"},
                                                      {U"log", "\\log"},
                                                      {U"max", "\\max"},
                                                      {U"min", "\\min"},
                                                      {U"cos", "\\cos"},
                                                      {U"artanh", "\\operatorname{artanh}"},
                                                      {U"softmax", "\\operatorname{softmax}"}};

const char* find(const Table& table, char32_t c) {
  const auto found = table.find(c);
  return found == table.end() ? nullptr : found->second;
}
bool is_ascii_letter(char32_t c) { return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z'); }
bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }

struct Formula {
  std::string latex;
  bool group = false;   // one pair of parentheses around all of it, which a fraction does not need
  bool letter = false;  // has a variable
  bool strong = false;  // cannot be prose
  bool word = false;    // nothing but a name of several letters
};

Formula joined(Formula a, const std::string& between, const Formula& b) {
  a.latex += between + b.latex;
  a.letter = a.letter || b.letter;
  a.strong = a.strong || b.strong;
  a.group = a.word = false;
  return a;
}

/// Recursive descent. Every function reads as much as parses and leaves the rest; none that fails has moved on.
class Parser {
 public:
  Parser(const std::u32string& text, std::size_t at) : text_(text), at_(at) {}

  std::size_t at() const { return at_; }

  std::optional<Formula> relation() {
    auto left = sum();
    while (left) {
      const std::size_t start = at_;
      const bool spaced = skip_space();  // r=8 is a label
      std::string symbol;
      if (peek() == U'+' && peek(1) == U'=') {
        symbol = "\\mathrel{+}= ";
        at_ += 2;
      } else if (const char* found = find(relations, peek()); found != nullptr && spaced) {
        symbol = std::string(" ") + found;
        ++at_;
      } else {
        at_ = start;
        break;
      }
      skip_space();
      auto right = sum();
      if (!right || (right->word && prose_follows())) {
        at_ = start;
        break;
      }
      left->strong = left->strong || left->letter || right->letter;
      left = joined(*left, symbol, *right);
    }
    return left;
  }

 private:
  char32_t peek(std::size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : U'\0'; }
  char32_t before() const { return at_ > 0 ? text_[at_ - 1] : U' '; }
  bool skip_space() {  // one: what stands further apart is something else
    if (peek() != U' ' || peek(1) == U' ') return false;
    ++at_;
    return true;
  }
  bool prose_follows() const { return peek() == U' ' && is_ascii_letter(peek(1)) && is_ascii_letter(peek(2)); }

  std::optional<Formula> sum() {
    auto left = term(true);
    while (left) {
      const std::size_t start = at_;
      const bool spaced = skip_space();
      const char32_t sign = peek();
      const bool is_sign = (sign == U'+' && peek(1) != U'=') || sign == U'-' || sign == U'−';
      if (!is_sign || (spaced && peek(1) != U' ')) {
        at_ = start;
        break;
      }
      ++at_;
      skip_space();
      const auto right = term(true);
      if (!right || (!spaced && left->word && right->word)) {  // low-rank
        at_ = start;
        break;
      }
      left = joined(*left, sign == U'+' ? " + " : " - ", *right);
    }
    return left;
  }

  std::optional<Formula> term(bool divide) {
    auto last = factor();
    if (!last) return last;
    std::optional<Formula> product;  // what stands before the last factor
    std::string between;
    const auto append = [&](const std::string& next_between, const Formula& next) {
      product = product ? joined(*product, between, *last) : *last;
      between = next_between;
      last = next;
    };
    while (true) {
      const std::size_t start = at_;
      const bool spaced = skip_space();
      if (const char* symbol = find(products, peek())) {
        const bool dot = peek() != U'×';
        ++at_;
        skip_space();
        if (auto next = factor()) {
          next->strong = next->strong || dot;
          append(symbol, *next);
          continue;
        }
      } else if (divide && peek() == U'/' && spaced) {
        ++at_;
        skip_space();
        if (auto next = factor()) {
          last = joined({"\\frac{" + bare(*last), false, last->letter, last->strong}, "}{" + bare(*next) + "}",
                        {"", false, next->letter, next->strong});
          continue;
        }
      } else if (spaced || before() == U')' || before() == U']' ||
                 (is_digit(before()) && find(letters, peek()) != nullptr)) {
        auto next = factor();
        const bool name = next && (next->word || last->word);
        const bool shape = next && next->group && !next->letter;
        if (next && !name && !shape) {
          append("\\,", *next);
          continue;
        }
      }
      at_ = start;
      break;
    }
    return product ? joined(*product, between, *last) : last;
  }

  static std::string bare(const Formula& f) {  // (a + b) over a line needs no parentheses
    constexpr std::string_view open = "\\left(", close = "\\right)";
    if (!f.group) return f.latex;
    return f.latex.substr(open.size(), f.latex.size() - open.size() - close.size());
  }

  std::optional<Formula> factor() {
    const std::size_t start = at_;
    const auto failed = [&]() -> std::optional<Formula> {
      at_ = start;
      return std::nullopt;
    };
    const char32_t c = peek();
    if ((c == U'-' || c == U'−') && peek(1) != U' ' && !is_ascii_letter(before())) {
      ++at_;
      const auto rest = factor();
      return rest ? joined({"-"}, "", *rest) : failed();
    }
    if (c == U'√') {
      ++at_;
      const auto inside = factor();
      if (!inside) return failed();
      return Formula{"\\sqrt{" + bare(*inside) + "}", false, inside->letter, true};
    }
    if (c == U'Σ' || c == U'∏') {
      ++at_;
      const std::string below = indices();
      skip_space();
      const auto rest = term(false);
      if (!rest || (rest->word && prose_follows())) return failed();
      return Formula{(c == U'Σ' ? "\\sum" : "\\prod") + below + " " + rest->latex, false, true, true};
    }
    if (c == U'…' && fences_ > 0) {
      ++at_;
      return Formula{"\\dots "};
    }
    if (c == U'½') {
      ++at_;
      return Formula{"\\tfrac{1}{2}"};
    }
    if (is_digit(c)) return number();
    if (c == U'(') return fenced(U')', "\\left(", "\\right)", true);
    if (c == U'[') return fenced(U']', "\\left[", "\\right]", false);
    if (c == U'⟨') return fenced(U'⟩', "\\left\\langle ", "\\right\\rangle ", false);
    if (c == U'‖') return fenced(U'‖', "\\left\\lVert ", "\\right\\rVert ", false);
    return name();
  }

  std::optional<Formula> number() {
    std::string digits;
    while (is_digit(peek()) || (peek() == U'.' && is_digit(peek(1)))) digits += static_cast<char>(text_[at_++]);
    if (is_ascii_letter(peek())) {
      const bool exponent = peek() == U'e' && (peek(1) == U'-' || is_digit(peek(1)));
      if (!exponent) {
        at_ -= digits.size();
        return std::nullopt;
      }
      std::string power;
      for (++at_; is_digit(peek()) || peek() == U'-'; ++at_) power += static_cast<char>(peek());
      digits = (digits == "1" ? "" : digits + " \\cdot ") + "10^{" + power + "}";
    }
    return Formula{digits + powers()};
  }

  /// Parts with commas, semicolons and what is side by side between them.
  std::optional<Formula> fenced(char32_t end, const char* open, const char* close, bool group) {
    const std::size_t start = at_++;
    ++fences_;
    Formula all{open};
    if (end == U'⟩' || end == U'‖') all.strong = true;
    while (true) {
      skip_space();
      const auto part = relation();
      if (!part) break;
      all = joined(all, "", *part);
      skip_space();
      if (peek() == end) {
        ++at_;
        --fences_;
        all.latex += close;
        const std::string more = indices() + powers();
        all.latex += more;
        all.group = group && more.empty();
        return all;
      }
      if (peek() == U',' || peek() == U';') {
        all.latex += peek() == U',' ? ", " : "; ";
        ++at_;
      } else if (part->latex != "\\dots ") {
        break;
      }
    }
    at_ = start;
    --fences_;
    return std::nullopt;
  }

  /// `_i`, `_{ij}`; a longer index belongs to a name in the code.
  std::string indices() {
    if (peek() != U'_') return {};
    std::size_t end = at_ + 1;
    while (end < text_.size() && (is_ascii_letter(text_[end]) || is_digit(text_[end]))) ++end;
    const std::string index = encode(std::u32string_view(text_).substr(at_ + 1, end - at_ - 1));
    if (index.empty()) return {};
    at_ = end;
    return "_{" + (index.size() > 2 ? "\\text{" + index + "}" : index) + "}";
  }

  std::string powers() {
    std::string above;
    while (const char* found = find(superscripts, peek())) {
      above += found;
      ++at_;
    }
    if (above.empty() && peek() == U'^' && (is_ascii_letter(peek(1)) || is_digit(peek(1)))) {
      above = static_cast<char>(peek(1));
      at_ += 2;
    }
    return above.empty() ? "" : "^{" + above + "}";
  }

  /// A variable, a function with its arguments, or a name of several letters.
  std::optional<Formula> name() {
    const std::size_t start = at_;
    const auto is_part = [&](char32_t c) { return is_ascii_letter(c) || find(letters, c) != nullptr; };
    if (!is_part(peek()) || is_part(before()) || before() == U'_') return std::nullopt;
    if (is_digit(before()) && is_ascii_letter(peek())) return std::nullopt;
    std::u32string word;
    while (is_part(peek()) || peek() == U'\u0302' || peek() == U'\u0304') word += text_[at_++];

    Formula f;
    const auto function = functions.find(word);
    const bool ascii = std::all_of(word.begin(), word.end(), is_ascii_letter);
    const bool differential = word.size() == 2 && word[0] == U'd';
    const bool index_follows = peek() == U'_' && !is_ascii_letter(peek(2)) && peek(2) != U'_' && !is_digit(peek(2));
    if (function != functions.end()) {
      f.latex = function->second;
      const std::string below = indices();
      f.latex += below + powers() + " ";
      f.letter = true;
      if (peek() != U'(' && peek() != U' ') f.letter = false;
    } else if (ascii && word.size() > 1 && !differential) {
      while (is_ascii_letter(peek()) || is_digit(peek()) || peek() == U'_') word += text_[at_++];
      f.latex = "\\mathrm{" + replaced(encode(word)) + "}";
      f.word = true;
      const std::string above = powers();
      f.strong = !above.empty();
      f.latex += above;
      const char32_t next = peek();
      if (next == U'(' || next == U'<' || next == U'\'' || next == U':' || next == U'-' ||
          (next == U'.' && is_ascii_letter(peek(1)))) {
        at_ = start;
        return std::nullopt;
      }
      return f;
    } else {
      for (std::size_t i = 0; i < word.size(); ++i) {
        if (i == 0 && word.size() > 1 && word[0] == U'd') {
          f.latex += "\\mathrm{d}";
          continue;
        }
        const char* greek = find(letters, word[i]);
        std::string letter = greek != nullptr ? greek : encode(word.substr(i, 1));
        f.strong = f.strong || greek != nullptr;
        if (i + 1 < word.size() && (word[i + 1] == U'\u0302' || word[i + 1] == U'\u0304')) {
          letter.insert(0, word[i + 1] == U'\u0302' ? "\\hat{" : "\\bar{").append("}");
          f.strong = true;
          ++i;
        }
        f.latex += (f.latex.empty() || f.latex.back() == '}' || f.latex.back() == ' ' ? "" : " ") + letter;
      }
      f.letter = true;
      std::string below;
      if (!ascii && is_digit(peek())) {  // β1
        below = std::string("_{") + static_cast<char>(peek()) + "}";
        ++at_;
      } else if (index_follows) {
        below = indices();
        f.strong = true;
      }
      const std::string above = powers();
      f.strong = f.strong || !above.empty();
      f.latex += below + above;
      const char32_t next = peek();
      const bool code = is_ascii_letter(next) || is_digit(next) || next == U'_' || next == U'<' || next == U'\'' ||
                        next == U'’' || next == U':' || (next == U'.' && is_ascii_letter(peek(1)));
      // "a", and the I of a sentence, are words; so is a letter before a hyphen or an abbreviation's full stop.
      const bool article = (word == U"a" || word == U"I") && below.empty() && !(next == U' ' && peek(1) == U'=');
      const bool hyphen = next == U'-' && is_ascii_letter(peek(1)) && is_ascii_letter(peek(2));
      if ((ascii && article) || hyphen || (code && next != U':' && ascii) || (next == U':' && peek(1) == U':')) {
        at_ = start;
        return std::nullopt;
      }
    }
    if (peek() == U'(') {
      if (peek(1) == U')') {  // a function of the code
        at_ = start;
        return std::nullopt;
      }
      if (auto arguments = fenced(U')', "\\left(", "\\right)", false)) return joined(f, "", *arguments);
    }
    return f;
  }

  static std::string replaced(std::string name) {
    for (std::size_t i = 0; (i = name.find('_', i)) != std::string::npos; i += 2) name.insert(i, "\\");
    return name;
  }

  const std::u32string& text_;
  std::size_t at_;
  int fences_ = 0;
};

}  // namespace

std::string typeset(std::string_view text, std::string_view prefix) {
  const std::u32string line = decode(text);
  std::string out;
  for (std::size_t at = 0; at < line.size();) {
    if (line[at] == U'`') {
      const std::size_t end = std::min(line.find(U'`', at + 1), line.size() - 1);
      out += encode(std::u32string_view(line).substr(at, end + 1 - at));
      at = end + 1;
      continue;
    }
    const bool starts = at == 0 || !(is_ascii_letter(line[at - 1]) || is_digit(line[at - 1]) || line[at - 1] == U'_' ||
                                     line[at - 1] == U':' || line[at - 1] == U'.' || line[at - 1] == U'/');
    Parser parser(line, at);
    const auto formula = starts ? parser.relation() : std::nullopt;
    if (formula && formula->strong) {
      out += "\\f$" + std::string(prefix) + formula->latex + "\\f$";
      at = parser.at();
    } else {
      out += encode(std::u32string_view(line).substr(at, 1));
      ++at;
    }
  }
  return out;
}

}  // namespace api_docs
