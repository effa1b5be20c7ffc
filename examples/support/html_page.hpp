// SPDX-License-Identifier: MIT
// A report as one HTML file: tables, curves and heat maps as inline SVG, no scripts, nothing from outside. It has light
// and dark colours and prints.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace support {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

class HtmlPage {
 public:
  explicit HtmlPage(std::string title);

  void heading(const std::string& text);
  void paragraph(const std::string& text);
  /// The first column is left-aligned, the others to the right.
  void table(const std::string& caption, const std::vector<std::string>& header,
             const std::vector<std::vector<std::string>>& rows);
  /// Names and values, both left-aligned.
  void facts(const std::vector<std::pair<std::string, std::string>>& rows);
  /// Lines over a common x. Values that are not finite are left out. Up to six curves have colours of their own.
  void curves(const std::string& caption, const std::string& x_name, const std::vector<Curve>& curves);
  /// A cell for every row and column. @param values  0 to 1, row after row.
  void heat_map(const std::string& caption, const std::vector<std::string>& rows,
                const std::vector<std::string>& columns, const std::vector<double>& values);
  /// Texts beside each other, with a label above each.
  void texts(const std::vector<std::pair<std::string, std::string>>& labelled);

  std::string content() const;

  static std::string number(double value, int digits = 4);

 private:
  std::string title_, body_;
};

/// Names and values of this machine and of the library, for facts().
std::vector<std::pair<std::string, std::string>> machine_and_version();

}  // namespace support
