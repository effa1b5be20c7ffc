// SPDX-License-Identifier: MIT
//
// What Doxygen reads instead of a header (INPUT_FILTER): the same lines, with
//   - formulas as LaTeX (formulas.hpp), and indented blocks in lines of their own;
//   - Source, Cost, Numerics, forward and the like as titles;
//   - the comment at the top of a header as the description of the file;
//   - hydralora::LoRA instead of the name with the instruction set in it.
// Line numbers stay, so warnings point into the header.

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "formulas.hpp"

namespace {

/// A line of text: formulas as LaTeX, and no HTML.
std::string typeset(std::string_view text, std::string_view prefix = "") {
  std::string out = api_docs::typeset(text, prefix);
  bool ticks = false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] == '`') ticks = !ticks;
    if (out[i] == '<' && !ticks) out.insert(i++, "\\");
  }
  return out;
}

constexpr std::string_view labels[] = {"Source", "Cost", "Numerics", "Memory", "Errors"};
constexpr std::string_view row_labels[] = {"forward", "backward"};
// In namespace detail, which is left out else: what the layers inherit their public functions from.
constexpr std::string_view bases[] = {"class AdapterTensors", "class AdapterLayer", "class AdapterCache"};

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

std::size_t indentation(std::string_view text) {
  const std::size_t at = text.find_first_not_of(' ');
  return at == std::string_view::npos ? text.size() : at;
}

std::string_view without_indentation(std::string_view text) { return text.substr(indentation(text)); }

/// A line that stands by itself: formulas in full size, and columns where there are two spaces or more.
std::string row(std::string_view text) {
  std::string out;
  const std::string line = typeset(without_indentation(text), "\\displaystyle ");
  for (std::size_t i = 0; i < line.size();) {
    const std::size_t spaces = indentation(std::string_view(line).substr(i));
    out += spaces > 1 ? " &emsp; " : line.substr(i, std::max<std::size_t>(spaces, 1));
    i += std::max<std::size_t>(spaces, 1);
  }
  return out;
}

/// A line of a program: it ends in a semicolon, but for a comment.
bool is_code(std::string_view line) {
  const std::string_view statement = line.substr(0, line.find("//"));
  const std::size_t last = statement.find_last_not_of(' ');
  return last != std::string_view::npos && statement[last] == ';';
}

/// A tag, with what it names left alone, and its text.
std::string command(std::string_view line) {
  const std::size_t words =
      starts_with(line, "@param") || starts_with(line, "@throws") || starts_with(line, "@tparam") ? 2 : 1;
  std::size_t end = 0;
  for (std::size_t word = 0; word < words; ++word) {
    end = std::min(line.find_first_not_of(' ', end), line.size());
    end = std::min(line.find(' ', end), line.size());
  }
  return std::string(line.substr(0, end)) + typeset(line.substr(end));
}

/// The lines of one comment, without their slashes and the space after them.
std::vector<std::string> comment(const std::vector<std::string>& lines) {
  enum class Part { prose, text, rows, code };  // text: of a tag or a title
  std::vector<std::string> out;
  Part part = Part::prose;
  std::size_t base = 0;  // indentation of a block
  bool titled = false;   // the block is that of a title, which indents it
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = lines[i];
    const std::size_t indent = indentation(line);
    if (without_indentation(line).empty()) {
      part = Part::prose;
      base = 0;
      out.emplace_back();
      continue;
    }
    if (indent == 0) {
      part = Part::prose;
      base = 0;
      const auto is_label = [&](std::string_view label, std::size_t spaces) {
        return starts_with(line, label) && indentation(line.substr(label.size())) >= spaces;
      };
      std::string_view title;
      for (const std::string_view label : labels) {
        if (is_label(label, 1)) title = label;
      }
      for (const std::string_view label : row_labels) {
        if (!is_label(label, 2)) continue;
        title = label;
        part = Part::rows;
      }
      if (!title.empty()) {
        const std::string_view rest = without_indentation(line.substr(title.size()));
        out.push_back("@titled{" + std::string(title) + "} " + (part == Part::rows ? row(rest) : typeset(rest)));
        titled = part == Part::rows;
        if (part == Part::prose) part = Part::text;
      } else if (line[0] == '@') {
        out.push_back(command(line));
        part = Part::text;
      } else {
        out.push_back(typeset(line));
      }
      continue;
    }
    if (part == Part::prose) {  // a block begins
      const bool after_blank = out.empty() || out.back().empty();
      bool code = false;
      for (std::size_t k = i; k < lines.size() && indentation(lines[k]) > 0 && !lines[k].empty(); ++k) {
        code = code || is_code(lines[k]);
      }
      part = code && after_blank ? Part::code : Part::rows;
      base = indent;
      titled = false;
    }
    if (part == Part::code) {
      out.push_back("    " + std::string(line));
    } else if (part == Part::rows && (base == 0 || indent <= base + 1)) {
      const bool first = out.empty() || out.back().empty();  // a paragraph of its own
      out.push_back((first ? "" : "<br>") + std::string(titled ? "" : "&emsp;") + row(line));
    } else {
      out.push_back(typeset(line));
    }
  }
  return out;
}

/// The lines of a header with blank ones for namespace detail, but for the bases.
void leave_out_detail(std::vector<std::string>& lines) {
  bool detail = false, base = false;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i] == "namespace detail {") {
      detail = true;
    } else if (lines[i] == "}  // namespace detail") {
      detail = false;
    } else if (detail && !base) {
      std::size_t k = i;  // behind the comment and the template's parameters
      while (starts_with(lines[k], "///") || starts_with(lines[k], "template")) ++k;
      base = std::any_of(std::begin(bases), std::end(bases), [&](std::string_view start) {
        return starts_with(lines[k], start) && lines[k].back() == '{';
      });
      if (!base) lines[i].clear();
    } else if (lines[i] == "};") {
      base = false;
    }
  }
}

/// The name before the first parenthesis of a declaration; nothing where there is none.
std::string_view function_name(std::string_view line) {
  const std::size_t end = line.find('(');
  if (end == std::string_view::npos || end == 0) return {};
  std::size_t begin = end;
  while (begin > 0 && line[begin - 1] != ' ') --begin;
  const std::string_view name = line.substr(begin, end - begin);
  const bool calls = begin == indentation(line) && !name.empty() && name[0] >= 'a';  // a statement, not a constructor
  return calls || line.find(" = [") != std::string_view::npos ? std::string_view() : name;
}

/// A function without a comment, in one paragraph with one of its name that has one: the comment is for both.
bool is_overload(const std::vector<std::string>& lines, std::size_t i) {
  const std::size_t indent = indentation(lines[i]);
  if (indent > 2 || lines[i].find("///") != std::string::npos) return false;
  if (i > 0 && (starts_with(without_indentation(lines[i - 1]), "///") ||
                starts_with(without_indentation(lines[i - 1]), "template"))) {
    return false;
  }
  std::size_t declaration = i;
  while (declaration + 1 < lines.size() && starts_with(without_indentation(lines[declaration]), "template"))
    ++declaration;
  const std::string_view name = function_name(lines[declaration]);
  if (name.empty()) return false;
  bool same_name = false;
  for (; i > 0 && !lines[i - 1].empty(); --i) {
    same_name = same_name || (indentation(lines[i - 1]) == indent && function_name(lines[i - 1]) == name);
    if (lines[i - 1].find("///") != std::string::npos && same_name) return true;
  }
  return false;
}

void filter_header(std::istream& in, std::ostream& out) {
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  leave_out_detail(lines);
  const auto slashes = [&](std::size_t i, std::string_view mark) {
    const std::string_view text = without_indentation(lines[i]);
    return starts_with(text, mark) && (text.size() == mark.size() || text[mark.size()] == ' ');
  };
  for (std::size_t i = 0; i < lines.size();) {
    const bool of_file = i == 1 && lines[1] == "//";
    if (of_file) {
      out << "/// @file\n";
      ++i;
    }
    const std::string_view mark = of_file ? "//" : "///";
    std::vector<std::string> block;
    const std::string margin(indentation(lines[i]), ' ');
    for (; i < lines.size() && slashes(i, mark); ++i) {
      const std::string_view text = without_indentation(lines[i]).substr(mark.size());
      block.emplace_back(text.substr(text.empty() ? 0 : 1));
    }
    if (!block.empty()) {
      for (const std::string& line : comment(block))
        out << margin << "///" << (line.empty() ? "" : " ") << line << '\n';
      continue;
    }
    std::string line = lines[i++];
    if (line == " protected:") line = " private:";  // for the layers
    if (line.find("inline namespace HYDRALORA_BUILD") != std::string::npos ||
        line == "}  // namespace HYDRALORA_BUILD") {
      out << '\n';
      continue;
    }
    if (is_overload(lines, i - 1)) line.insert(0, "/** As above. */ ");
    const std::size_t behind = line.find("///<");
    out << (behind == std::string::npos ? line : line.substr(0, behind + 4) + typeset(line.substr(behind + 4))) << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::ifstream in{argc > 1 ? argv[1] : ""};
  if (!in) {
    std::cerr << "usage: api_filter <header>\n";
    return 1;
  }
  filter_header(in, std::cout);
  return 0;
}
