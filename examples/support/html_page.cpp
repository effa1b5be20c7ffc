// SPDX-License-Identifier: MIT
#include "html_page.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

#include <hydralora/version.hpp>

namespace support {
namespace {

/// Text for HTML. Control characters, which HTML does not have, become spaces.
std::string escaped(const std::string& text) {
  std::string all;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&') {
      all += "&amp;";
    } else if (c == '<') {
      all += "&lt;";
    } else if (c == '>') {
      all += "&gt;";
    } else if (c == '"') {
      all += "&quot;";
    } else {
      all += byte < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return all;
}
std::string element(const std::string& name, const std::string& text) {
  return "<" + name + ">" + escaped(text) + "</" + name + ">\n";
}
std::string coordinate(double value) { return HtmlPage::number(value, 5); }

/// The largest of 1, 2, 5 times a power of ten that cuts the range into at least three pieces.
double step_of(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 3)));
  for (const double times : {5.0, 2.0}) {
    if (times * power <= range / 3) return times * power;
  }
  return power;
}

constexpr const char* style = R"(<style>
:root { color-scheme: light dark; --text: #1c1c1c; --back: #fff; --faint: #767676; --line: #d8d8d8; --heat: 20 90 170;
  --c0: #0b62b4; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --c4: #a16207; --c5: #be185d; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --back: #161616; --faint: #9a9a9a; --line: #3a3a3a;
  --heat: 110 175 250; --c0: #6cb0f5; --c1: #fb923c; --c2: #4ade80; --c3: #c084fc; --c4: #facc15; --c5: #f472b6; } }
@media print { :root { --text: #000; --back: #fff; --line: #bbb; --heat: 20 90 170; }
  figure, table { break-inside: avoid; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figcaption, .caption { color: var(--faint); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .facts td, .facts th { text-align: left; }
.wide td, .wide th { white-space: nowrap; } .plot { min-width: 32rem; }
.facts td { overflow-wrap: anywhere; } .facts th { font-weight: normal; color: var(--faint); white-space: nowrap; }
svg { width: 100%; height: auto; } svg text { fill: var(--text); font-size: 12px; }
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .5rem 1.5rem;
  margin: 1rem 0; }
.texts b { color: var(--faint); font-weight: normal; }
.texts p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
)";

}  // namespace

std::string HtmlPage::number(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.*g", digits, value);
  return text;
}

HtmlPage::HtmlPage(std::string title) : title_(std::move(title)) {}

void HtmlPage::heading(const std::string& text) { body_ += element("h2", text); }
void HtmlPage::paragraph(const std::string& text) { body_ += element("p", text); }

void HtmlPage::table(const std::string& caption, const std::vector<std::string>& header,
                     const std::vector<std::vector<std::string>>& rows) {
  body_ += "<p class=\"caption\">" + escaped(caption) + "</p>\n<div class=\"wide\"><table>\n<tr>";
  for (const std::string& cell : header) body_ += element("th", cell);
  body_ += "</tr>\n";
  for (const auto& row : rows) {
    body_ += "<tr>";
    for (const std::string& cell : row) body_ += element("td", cell);
    body_ += "</tr>\n";
  }
  body_ += "</table></div>\n";
}

void HtmlPage::facts(const std::vector<std::pair<std::string, std::string>>& rows) {
  body_ += "<table class=\"facts\">\n";
  for (const auto& [name, value] : rows) body_ += "<tr>" + element("th", name) + element("td", value) + "</tr>\n";
  body_ += "</table>\n";
}

void HtmlPage::curves(const std::string& caption, const std::string& x_name, const std::vector<Curve>& curves) {
  constexpr double width = 640, height = 300, left = 56, right = 12, top = 12, bottom = 40;
  double low_x = std::numeric_limits<double>::infinity(), high_x = -low_x, low_y = low_x, high_y = -low_x;
  for (const Curve& curve : curves) {
    for (const auto& [x, y] : curve.points) {
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      low_x = std::min(low_x, x), high_x = std::max(high_x, x), low_y = std::min(low_y, y),
      high_y = std::max(high_y, y);
    }
  }
  if (low_x > high_x) return paragraph(caption + ": there is nothing to draw.");
  if (high_x == low_x) high_x = low_x + 1;
  if (high_y == low_y) high_y = low_y + 1;
  const auto place_x = [&](double x) { return left + (x - low_x) / (high_x - low_x) * (width - left - right); };
  const auto place_y = [&](double y) {
    return height - bottom - (y - low_y) / (high_y - low_y) * (height - top - bottom);
  };
  std::string svg = "<div class=\"wide\"><svg class=\"plot\" viewBox=\"0 0 640 300\" role=\"img\" aria-label=\"" +
                    escaped(caption) + "\">\n";
  const double step_y = step_of(high_y - low_y), step_x = step_of(high_x - low_x);
  for (double y = std::ceil(low_y / step_y) * step_y; y <= high_y; y += step_y) {
    const std::string at = coordinate(place_y(y));
    svg += "<line x1=\"56\" x2=\"628\" y1=\"" + at + "\" y2=\"" + at +
           "\" stroke=\"var(--line)\"/><text x=\"50\" y=\"" + coordinate(place_y(y) + 4) + "\" text-anchor=\"end\">" +
           number(std::abs(y) < step_y / 1e6 ? 0 : y) + "</text>\n";
  }
  for (double x = std::ceil(low_x / step_x) * step_x; x <= high_x; x += step_x) {
    svg += "<text x=\"" + coordinate(place_x(x)) + "\" y=\"276\" text-anchor=\"middle\">" + number(x) + "</text>\n";
  }
  svg += "<text x=\"342\" y=\"294\" text-anchor=\"middle\">" + escaped(x_name) + "</text>\n";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const std::string colour = "var(--c" + std::to_string(i % 6) + ")";
    std::string points;
    for (const auto& [x, y] : curves[i].points) {
      if (std::isfinite(x) && std::isfinite(y)) points += coordinate(place_x(x)) + "," + coordinate(place_y(y)) + " ";
    }
    svg += "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + colour + "\" points=\"" + points + "\"/>\n";
    svg += "<text x=\"620\" y=\"" + std::to_string(28 + 16 * i) + "\" text-anchor=\"end\" style=\"fill:" + colour +
           "\">" + escaped(curves[i].name) + "</text>\n";
  }
  body_ += "<figure>" + svg + "</svg></div>" + element("figcaption", caption) + "</figure>\n";
}

void HtmlPage::heat_map(const std::string& caption, const std::vector<std::string>& rows,
                        const std::vector<std::string>& columns, const std::vector<double>& values) {
  constexpr int left = 150, cell = 46, height = 18, top = 22;
  const int width = left + cell * static_cast<int>(columns.size()), all = top + height * static_cast<int>(rows.size());
  std::string svg = "<svg style=\"max-width:" + std::to_string(width) + "px\" viewBox=\"0 0 " + std::to_string(width) +
                    " " + std::to_string(all) + "\" role=\"img\" aria-label=\"" + escaped(caption) + "\">\n";
  for (std::size_t j = 0; j < columns.size(); ++j) {
    svg += "<text x=\"" + std::to_string(left + cell * static_cast<int>(j) + cell / 2) +
           "\" y=\"14\" text-anchor=\"middle\">" + escaped(columns[j]) + "</text>\n";
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int y = top + height * static_cast<int>(i);
    svg += "<text x=\"" + std::to_string(left - 8) + "\" y=\"" + std::to_string(y + 13) + "\" text-anchor=\"end\">" +
           escaped(rows[i]) + "</text>\n";
    for (std::size_t j = 0; j < columns.size(); ++j) {
      const double value = std::clamp(values[i * columns.size() + j], 0.0, 1.0);
      const std::string x = std::to_string(left + cell * static_cast<int>(j));
      constexpr double deepest = 0.75;  // text stays readable
      svg += "<rect x=\"" + x + "\" y=\"" + std::to_string(y) +
             "\" width=\"45\" height=\"17\" fill=\"rgb(var(--heat) / " + number(deepest * value, 3) +
             ")\"/><text x=\"" + std::to_string(left + cell * static_cast<int>(j) + cell / 2) + "\" y=\"" +
             std::to_string(y + 13) + "\" text-anchor=\"middle\">" + number(std::round(100 * value) / 100) +
             "</text>\n";
    }
  }
  body_ += "<figure class=\"wide\">" + svg + "</svg>" + element("figcaption", caption) + "</figure>\n";
}

void HtmlPage::texts(const std::vector<std::pair<std::string, std::string>>& labelled) {
  body_ += "<div class=\"texts\">\n";
  for (const auto& [label, text] : labelled) body_ += "<div>" + element("b", label) + element("p", text) + "</div>\n";
  body_ += "</div>\n";
}

std::string HtmlPage::content() const {
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n" +
         element("title", title_) + style + "</head><body>\n" + element("h1", title_) + body_ + "</body></html>\n";
}

std::vector<std::pair<std::string, std::string>> machine_and_version() {
  utsname system{};
  uname(&system);
  std::ifstream cpu("/proc/cpuinfo");
  std::string line, model = system.machine;
  while (std::getline(cpu, line)) {
    if (line.rfind("model name", 0) == 0) model = line.substr(line.find(':') + 2);
  }
  return {{"this page was made on", model + ", " + system.sysname + ' ' + system.release},
          {"hydralora", std::to_string(HYDRALORA_VERSION_MAJOR) + '.' + std::to_string(HYDRALORA_VERSION_MINOR) + '.' +
                            std::to_string(HYDRALORA_VERSION_PATCH)}};
}

}  // namespace support
