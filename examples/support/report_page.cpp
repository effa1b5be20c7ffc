// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>

#include "html_page.hpp"
#include "report.hpp"

namespace finetune {
namespace {

using support::HtmlPage;

std::string bits(double value) { return HtmlPage::number(value); }

std::string summary(const std::vector<Result>& results) {
  const auto better = [](const Result& a, const Result& b) { return a.mean < b.mean; };
  const auto best = std::min_element(results.begin() + 1, results.end(), better);
  if (best == results.end()) return "No method was trained.";
  std::string text = "The frozen base has " + bits(results[0].mean) + " bits per byte on held-out text. " + best->name +
                     " is best with " + bits(best->mean) + " and " + std::to_string(best->parameters) +
                     " trained parameters.";
  const auto routed = std::min_element(results.begin() + 1, results.end(), [&](const Result& a, const Result& b) {
    return std::pair(a.routing.empty(), a.mean) < std::pair(b.routing.empty(), b.mean);
  });
  const auto lora = std::find_if(results.begin(), results.end(),
                                 [](const Result& r) { return r.name.find("LoRA same size") != std::string::npos; });
  if (routed->routing.empty() || lora == results.end()) return text;
  const double gain = lora->mean - routed->mean;
  return text + " With a gate, " + routed->name + " is " + bits(std::abs(gain)) + " bits " +
         (gain > 0 ? "ahead of" : "behind") + " a LoRA of its size. One seed says little about small differences.";
}

}  // namespace

std::string report_html(const Corpus& corpus, const Settings& settings, double seconds, const Mixture& mixture,
                        const std::vector<Result>& curves, const std::vector<Result>& results) {
  HtmlPage page("Fine-tuning a byte-level model");
  page.paragraph(summary(results));
  std::vector<std::string> header = {"bits per byte", "trained", "ms a step"};
  for (const Part& part : mixture.parts()) header.push_back(part.name);
  header.emplace_back("mean");
  std::vector<std::vector<std::string>> rows;
  for (const Result& r : results) {
    rows.push_back({r.name, std::to_string(r.parameters), HtmlPage::number(r.milliseconds_per_step, 3)});
    for (const double value : r.bits_per_byte) rows.back().push_back(bits(value));
    rows.back().push_back(bits(r.mean));
  }
  page.heading("Results");
  page.table("Of held-out text.", header, rows);

  page.heading("Training");
  std::vector<support::Curve> lines;
  for (std::size_t i = 1; i < curves.size(); ++i) {  // the first is the base's
    lines.push_back({curves[i].name, {}});
    for (const CurvePoint& p : curves[i].curve) lines.back().points.emplace_back(p.step, p.validation);
  }
  page.curves("Validation bits per byte", "step", lines);

  page.heading("Routing");
  for (const Result& r : results) {
    std::vector<std::string> cells, columns;
    std::vector<double> values;
    for (std::size_t layer = 0; layer < r.routing.size(); ++layer) {
      for (std::size_t part = 0; part < r.routing[layer].size(); ++part) {
        const PartRouting& routing = r.routing[layer][part];
        cells.push_back("layer " + std::to_string(layer + 1) + ", " + mixture.parts()[part].name);
        values.insert(values.end(), routing.usage.begin(), routing.usage.end());
        values.push_back(routing.normalized_entropy);
      }
    }
    if (cells.empty()) continue;
    for (Index h = 1; h <= r.routing[0][0].usage.size(); ++h) columns.push_back("head " + std::to_string(h));
    columns.emplace_back("entropy");
    page.heat_map(r.name + ": mean weight of each head. Entropy 1: all heads alike.", cells, columns, values);
  }

  page.heading("What ran");
  std::vector<std::pair<std::string, std::string>> facts;
  for (const Domain& d : corpus.domains) {
    facts.emplace_back("text " + d.name, std::to_string(d.text.size()) + " bytes of " + std::to_string(d.files) +
                                             " files: " + d.origin + ", FNV-1a " +
                                             std::to_string(hydralora::fnv1a(d.text.data(), d.text.size())));
  }
  facts.emplace_back("steps", std::to_string(settings.pretraining_steps) + " and " + std::to_string(settings.steps) +
                                  " of " + std::to_string(settings.batch) + " bytes");
  facts.emplace_back("seed", std::to_string(settings.seed));
  facts.emplace_back("seconds", HtmlPage::number(seconds, 3));
  for (const auto& fact : support::machine_and_version()) facts.push_back(fact);
  page.facts(facts);
  return page.content();
}

}  // namespace finetune
