// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>

#include "../support/html_page.hpp"
#include "commands.hpp"
#include "evaluation.hpp"
#include "hydralora/analysis/router_stats.hpp"
#include "hydralora/io/peft_directory.hpp"
#include "recorder.hpp"
#include "sha256.hpp"

namespace finetune_lm {
namespace {

using hydralora::RouterStats;
using nlohmann::json;
using support::HtmlPage;

std::string percent(double share) { return HtmlPage::number(std::round(1000 * share) / 10) + " %"; }

/// Wilson's 95 % interval of a share.
std::pair<double, double> wilson(double right, double count) {
  constexpr double z = 1.96;
  const double p = right / count, middle = (p + z * z / (2 * count)) / (1 + z * z / count);
  const double half = z / (1 + z * z / count) * std::sqrt(p * (1 - p) / count + z * z / (4 * count * count));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}
std::string share_text(const GroupResult& r) {
  if (r.answers == 0) return "–";
  const auto [low, high] = wilson(r.right, r.answers);
  return percent(r.right / r.answers) + " (" + percent(low) + " to " + percent(high) + ")";
}
/// The mean over examples of a difference between two evaluations of them, and half of its 95 % interval.
std::pair<double, double> paired_difference(const std::vector<double>& before, const std::vector<double>& after) {
  const auto n = static_cast<double>(before.size());
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    sum += after[i] - before[i];
    squares += (after[i] - before[i]) * (after[i] - before[i]);
  }
  const double mean = sum / n, variance = n > 1 ? std::max(0.0, squares - n * mean * mean) / (n - 1) : 0;
  return {mean, 1.96 * std::sqrt(variance / n)};
}

std::string file_text(const std::string& path) {
  const std::string content = hydralora::read_text(path);
  const auto* const bytes = reinterpret_cast<const unsigned char*>(content.data());
  return path + ", " + std::to_string(content.size()) + " bytes, SHA-256 " + sha256(bytes, content.size());
}

std::string command_of(const json& settings) {
  std::string all = "finetune_lm train";
  const auto add = [&](const std::string& name, const json& value) {
    if (value.is_null() || value == "" || value == false || (value.is_array() && value.empty())) return;
    all += " --" + name;
    if (value.is_array()) {
      for (const json& one : value) all += ' ' + (one.is_string() ? one.get<std::string>() : one.dump());
    } else if (value != true) {
      all += ' ' + (value.is_string() ? value.get<std::string>() : value.dump());
    }
  };
  add("data", settings.value("data", json()));
  add("validation", settings.value("validation", json()));
  const json options = settings.value("settings", json::object());
  for (const auto& [name, value] : options.items()) {
    if (name != "data" && name != "validation") add(name, value);  // hashes
  }
  return all;
}

/// Loss and validation loss by the step.
std::vector<support::Curve> read_curves(const std::filesystem::path& run) {
  std::vector<support::Curve> curves = {{"loss", {}}, {"validation loss", {}}};
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const json metrics = json::parse(line, nullptr, false);
    if (!metrics.is_object()) continue;
    for (const auto& [i, key] : {std::pair(0, "loss"), std::pair(1, "validation_loss")}) {
      const json value = metrics.value(key, json()), step = metrics.value("step", json());
      if (value.is_number() && step.is_number()) curves[static_cast<std::size_t>(i)].points.emplace_back(step, value);
    }
  }
  if (curves[1].points.empty()) curves.pop_back();
  return curves;
}

/// The weights that the gates of each block give the heads, by group.
class Routing {
 public:
  Routing(lm::Decoder<float>& model, const hydralora::PeftDirectory& adapter) {
    model.for_each_linear([&](lm::Linear<float>& linear) {
      if (!linear.adapter) return;
      const auto& module = adapter.module(linear.name);
      if (!is_routed(module)) return;
      heads_ = module.heads;
      const std::string layers = "layers.";
      const int block = std::stoi(linear.name.substr(linear.name.find(layers) + layers.size()));
      record_inputs(linear, [this, block](hydralora::ConstTokens<float>, const hydralora::AdapterCache<float>& cache) {
        if (group) stats_.try_emplace({block, *group}, heads_).first->second.add(cache.weights());
      });
    });
  }

  bool records() const { return heads_ > 0; }
  const int* group = nullptr;  ///< whose tokens come next; null: nobody's

  void draw(HtmlPage& page, const std::vector<std::string>& groups) const {
    if (stats_.empty()) return;
    page.heading("Routing");
    for (std::size_t g = 0; g < groups.size(); ++g) {
      std::vector<std::string> rows, columns;
      for (Index head = 0; head < heads_; ++head) columns.push_back("head " + std::to_string(head));
      columns.emplace_back("entropy");
      std::vector<double> values;
      for (const auto& [key, stats] : stats_) {
        if (key.second != static_cast<int>(g)) continue;
        rows.push_back("block " + std::to_string(key.first));
        const Eigen::VectorXd usage = stats.usage();
        values.insert(values.end(), usage.begin(), usage.end());
        values.push_back(stats.normalized_entropy());
      }
      const std::string name = groups[g].empty() ? "all examples" : groups[g];
      if (!rows.empty())
        page.heat_map("Mean weight of each head, " + name + ". Entropy 1: all heads alike.", rows, columns, values);
    }
  }
  json numbers(const std::vector<std::string>& groups) const {
    json all = json::array();
    for (const auto& [key, stats] : stats_) {
      const Eigen::VectorXd usage = stats.usage();
      all.push_back({{"block", key.first},
                     {"group", groups[static_cast<std::size_t>(key.second)]},
                     {"weights", std::vector<double>(usage.begin(), usage.end())},
                     {"entropy", stats.normalized_entropy()}});
    }
    return all;
  }

 private:
  Index heads_ = 0;
  std::map<std::pair<int, int>, RouterStats> stats_;  // by block and group, over all linears of the block
};

void limit(lm::ExampleFile& file, Index most) {
  std::map<int, Index> counts;
  std::vector<lm::Example> chosen;
  for (lm::Example& e : file.examples) {
    if (counts[e.group]++ < most) chosen.push_back(std::move(e));
  }
  file.examples = std::move(chosen);
}

}  // namespace

void report(ReportOptions o) {
  const std::filesystem::path run = o.model.adapter;
  if (!std::filesystem::exists(run / "metrics.jsonl")) {
    throw std::invalid_argument("report: --adapter names no run: it has no metrics.jsonl");
  }
  const json settings =
      std::filesystem::exists(run / "settings.json") ? read_json(run / "settings.json") : json::object();
  Text text(o.model);
  const auto model = load_model(o.model);
  const hydralora::PeftDirectory adapter = open_adapter(o.model);
  lm::ExampleFile file = read_examples(o.data, text, std::min(o.max_length, model->config.positions), adapter.groups());
  limit(file, o.examples);

  constexpr std::size_t shown = 4;
  std::vector<std::string> said_before, said_after;
  const auto samples = [&](std::vector<std::string>& to) {
    for (std::size_t i = 0; text.decodes() && i < std::min(shown, file.examples.size()); ++i) {
      to.push_back(answer_of(*model, text, file.examples[i], o.max_tokens));
    }
  };
  const auto before = evaluate_examples(*model, text, file, o.max_tokens);
  samples(said_before);
  const auto adapters = load_adapters(*model, o.model);
  const auto after = evaluate_examples(*model, text, file, o.max_tokens);
  samples(said_after);
  Routing routing(*model, adapter);
  for (const lm::Example& e : file.examples) {
    if (!routing.records()) break;
    lm::Batch batch;
    batch.add(e.ids, e.labels, e.group);
    routing.group = &e.group;
    model->loss(batch);
  }

  HtmlPage page("Run " + run.filename().string());
  const GroupResult &all_before = before.at("all"), &all_after = after.at("all");
  const auto [difference, half] = paired_difference(all_before.losses, all_after.losses);
  std::string summary = "On " + std::to_string(file.examples.size()) + " examples, the loss per token is " +
                        HtmlPage::number(all_after.loss / all_after.scored) + " with the adapter and " +
                        HtmlPage::number(all_before.loss / all_before.scored) + " without. ";
  summary += std::abs(difference) <= half ? "The mean difference per example is within its 95 % interval of zero. "
                                          : "The mean difference per example is " + HtmlPage::number(difference, 3) +
                                                " ± " + HtmlPage::number(half, 2) + " (95 %). ";
  if (all_after.answers > 0) {
    summary += "Greedy decoding gives " + percent(all_after.right / all_after.answers) + " of the answers, before " +
               percent(all_before.right / all_before.answers) + ".";
  }
  page.paragraph(summary);

  page.heading("Results");
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, r] : after) {
    if (name.empty()) continue;
    const GroupResult& b = before.at(name);
    const auto [mean, interval] = paired_difference(b.losses, r.losses);
    rows.push_back({name, std::to_string(r.losses.size()), HtmlPage::number(b.loss / b.scored),
                    HtmlPage::number(r.loss / r.scored),
                    HtmlPage::number(mean, 3) + " ± " + HtmlPage::number(interval, 2), share_text(b), share_text(r)});
  }
  page.table(
      "Loss per token; the mean difference per example with its 95 % interval; answers that are right, with "
      "Wilson's 95 % interval.",
      {"group", "examples", "loss before", "after", "difference", "right before", "after"}, rows);

  page.heading("Training");
  page.curves("Loss per labelled token", "step", read_curves(run));
  routing.draw(page, file.groups);

  if (!said_after.empty()) {
    page.heading("Samples");
    for (std::size_t i = 0; i < said_after.size(); ++i) {
      const auto [prompt, answer] = texts_of(text, file.examples[i]);
      page.texts({{"prompt", prompt}, {"right answer", answer}, {"before", said_before[i]}, {"after", said_after[i]}});
    }
  }

  page.heading("What ran");
  std::vector<std::pair<std::string, std::string>> facts = {
      {"model", o.model.folder.empty() ? "a tiny random model" : o.model.folder}};
  const auto& first = adapter.modules().front();
  facts.emplace_back("adapter", std::string(name_of(first.kind)) + " of rank " + std::to_string(first.rank) + ", " +
                                    std::to_string(first.heads) + " heads, on " +
                                    std::to_string(adapter.modules().size()) + " linears" +
                                    (adapter.gate().empty() ? "" : ", gate " + adapter.gate()));
  const json trained = settings.value("data", json::array());
  for (const json& path : trained) {
    if (path.is_string() && std::filesystem::exists(path.get<std::string>()))
      facts.emplace_back("trained on", file_text(path));
  }
  for (const std::string& path : o.data) facts.emplace_back("evaluated on", file_text(path));
  if (!settings.empty()) {
    facts.emplace_back("seed", settings["settings"].value("seed", json()).dump());
    facts.emplace_back("command", command_of(settings));
  }
  for (const auto& fact : support::machine_and_version()) facts.push_back(fact);
  page.facts(facts);
  const auto write = [&](const char* name, const std::string& content) {
    hydralora::write_file_atomically(run / name, content.data(), content.size());
  };
  if (routing.records()) write("routing.json", routing.numbers(file.groups).dump());
  write("report.html", page.content());
  std::cout << (run / "report.html").string() << " is written\n";
}

}  // namespace finetune_lm
