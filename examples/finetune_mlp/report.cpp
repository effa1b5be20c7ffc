// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iomanip>
#include <sstream>
#include <system_error>

namespace finetune {
namespace {

/// Shortest decimal that reads back as the same double: equal text means equal bits.
std::string exact(double value) { return nlohmann::json(value).dump(); }

std::vector<double> as_vector(const Eigen::VectorXd& v) { return {v.data(), v.data() + v.size()}; }

}  // namespace

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressLine::operator()(const std::string& name, Index step, Index steps, Index tokens_per_step, double bits,
                              double tokens_per_second) {
  if (!terminal_ || (step != steps && step % 10 != 1)) return;
  const double left = static_cast<double>((steps - step) * tokens_per_step) / std::max(1.0, tokens_per_second);
  std::fprintf(stderr, "\r\033[K%-16s step %ld/%ld  %.3f bits/byte  %.0f tokens/s  %.0f s left", name.c_str(),
               static_cast<long>(step), static_cast<long>(steps), bits, tokens_per_second, left);
  shown_ = true;
}

void ProgressLine::clear() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  shown_ = false;
}

void print_results(std::ostream& out, const Mixture& mixture, const std::vector<Result>& results) {
  constexpr int name_width = 18, width = 10;
  std::ostringstream text;  // so that the caller's stream keeps its format
  text << std::fixed << std::left << std::setw(name_width) << "bits/byte" << std::right << std::setw(width) << "trained"
       << std::setw(width) << "ms/step";
  for (const Part& part : mixture.parts()) text << std::setw(width) << part.name;
  text << std::setw(width) << "mean" << '\n';
  for (const Result& r : results) {
    text << std::left << std::setw(name_width) << r.name << std::right << std::setw(width) << r.parameters
         << std::setw(width) << std::setprecision(1) << r.milliseconds_per_step << std::setprecision(3);
    for (const double b : r.bits_per_byte) text << std::setw(width) << b;
    text << std::setw(width) << r.mean << '\n';
  }
  out << text.str();
}

void print_routing(std::ostream& out, const Mixture& mixture, const Result& result) {
  constexpr int name_width = 12, width = 8;
  std::ostringstream text;
  text << std::fixed << std::setprecision(2);
  for (std::size_t layer = 0; layer < result.routing.size(); ++layer) {
    text << std::left << std::setw(name_width) << ("layer " + std::to_string(layer + 1)) << std::right;
    for (Index head = 0; head < result.routing[layer].front().usage.size(); ++head) {
      text << std::setw(width) << ("head " + std::to_string(head + 1));
    }
    text << std::setw(width + 2) << "entropy" << '\n';
    for (std::size_t part = 0; part < mixture.parts().size(); ++part) {
      const Routing& routing = result.routing[layer][part];
      text << std::left << std::setw(name_width) << ("  " + mixture.parts()[part].name) << std::right;
      for (const double usage : as_vector(routing.usage)) text << std::setw(width) << usage;
      text << std::setw(width + 2) << routing.normalized_entropy << '\n';
    }
  }
  out << text.str();
}

OutputFolder::OutputFolder(std::filesystem::path folder) : folder_(std::move(folder)) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) throw InputError("--out " + folder_.string() + ": " + error.message());
  write_whole(".writable", "");
  std::filesystem::remove(folder_ / ".writable", error);
}

/// Written beside and renamed, so that a reader sees the old file or the new one, never half of it.
void OutputFolder::write_whole(const std::string& name, const std::string& content) const {
  const std::filesystem::path target = folder_ / name, beside = folder_ / ("." + name + ".part");
  std::ofstream file(beside, std::ios::binary);
  file << content;
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(beside, target, error);
  if (!file || error) {
    std::filesystem::remove(beside, error);
    throw InputError("--out " + folder_.string() + ": cannot write " + name);
  }
}

void OutputFolder::write_curves(const std::vector<Result>& results) const {
  std::string text = "method,step,training_bits_per_byte,validation_bits_per_byte\n";
  for (const Result& r : results) {
    for (const CurvePoint& p : r.curve) {
      text +=
          '"' + r.name + "\"," + std::to_string(p.step) + ',' + exact(p.training) + ',' + exact(p.validation) + '\n';
    }
  }
  write_whole("curves.csv", text);
}

void OutputFolder::write_results(nlohmann::ordered_json about, const Mixture& mixture,
                                 const std::vector<Result>& results) const {
  for (const Result& r : results) {
    nlohmann::ordered_json entry = {{"method", r.name},
                                    {"trainable_parameters", r.parameters},
                                    {"learning_rate", r.learning_rate},
                                    {"milliseconds_per_step", r.milliseconds_per_step},
                                    {"validation_bits_per_byte", r.validation},
                                    {"mean_bits_per_byte", r.mean}};
    for (std::size_t part = 0; part < r.bits_per_byte.size(); ++part) {
      entry["bits_per_byte"][mixture.parts()[part].name] = r.bits_per_byte[part];
    }
    for (std::size_t layer = 0; layer < r.routing.size(); ++layer) {
      for (std::size_t part = 0; part < r.routing[layer].size(); ++part) {
        const Routing& routing = r.routing[layer][part];
        entry["routing"]["layer " + std::to_string(layer + 1)][mixture.parts()[part].name] = {
            {"usage", as_vector(routing.usage)},
            {"top1_share", as_vector(routing.top1_share)},
            {"normalized_entropy", routing.normalized_entropy}};
      }
    }
    about["results"].push_back(std::move(entry));
  }
  write_whole("results.json", about.dump(2) + '\n');
}

}  // namespace finetune
