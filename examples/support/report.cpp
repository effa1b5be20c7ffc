// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <iomanip>
#include <sstream>
#include <system_error>

#include <hydralora/analysis/k_means.hpp>
#include <hydralora/io/file.hpp>
#include <nlohmann/json.hpp>

namespace finetune {
namespace {

/// Shortest decimal that reads back as the same double: equal text means equal bits.
std::string exact(double value) { return nlohmann::json(value).dump(); }

std::vector<double> as_vector(const Eigen::VectorXd& v) { return {v.data(), v.data() + v.size()}; }

using Json = nlohmann::ordered_json;

/// What was run on what.
Json about(const Corpus& corpus, MixtureKind kind, const Settings& s) {
  Json json = {
      {"program", "finetune_mlp"}, {"mixture", kind == MixtureKind::tasks ? "tasks" : "domains"}, {"seed", s.seed}};
  for (const Domain& d : corpus.domains) {
    json["text"].push_back({{"name", d.name}, {"bytes", d.text.size()}, {"files", d.files}, {"origin", d.origin}});
  }
  json["settings"] = {{"context", s.context},
                      {"embedding", s.embedding},
                      {"hidden", s.hidden},
                      {"batch", s.batch},
                      {"pretraining_steps", s.pretraining_steps},
                      {"steps", s.steps},
                      {"rank", s.rank},
                      {"heads", s.heads},
                      {"dropout", s.dropout},
                      {"base_precision", s.base_precision}};
  return json;
}

/// File names may hold any bytes, JSON only UTF-8: what is not becomes U+FFFD.
std::string dump(const Json& json, int indent) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

/// Wide enough for every part's name.
int column_width(const Mixture& mixture, int least) {
  std::size_t width = static_cast<std::size_t>(least);
  for (const Part& part : mixture.parts()) width = std::max(width, part.name.size() + 2);
  return static_cast<int>(width);
}

/// f(number of the layer, from 1, name of the part, PartRouting) for every layer and part, where the method routes.
template <class Function>
void for_routing(const Mixture& mixture, const Result& result, Function&& f) {
  for (std::size_t layer = 0; layer < result.routing.size(); ++layer) {
    for (std::size_t part = 0; part < result.routing[layer].size(); ++part) {
      f(std::to_string(layer + 1), mixture.parts()[part].name, result.routing[layer][part]);
    }
  }
}

void print_routing(std::ostream& out, const Mixture& mixture, const Result& result) {
  const int name_width = column_width(mixture, 10) + 2;
  out << "\n"
      << result.name << ": mean weight of each head, and the gate's normalised entropy (1 = all heads alike)\n"
      << std::setprecision(2);
  std::string shown;
  for_routing(mixture, result, [&](const std::string& layer, const std::string& part, const PartRouting& routing) {
    if (layer != shown) {
      out << std::left << std::setw(name_width) << "layer " + layer << std::right;
      for (Index h = 1; h <= routing.usage.size(); ++h) out << std::setw(8) << "head " + std::to_string(h);
      out << std::setw(10) << "entropy" << '\n';
      shown = layer;
    }
    out << std::left << std::setw(name_width) << "  " + part << std::right;
    for (const double usage : as_vector(routing.usage)) out << std::setw(8) << usage;
    out << std::setw(10) << routing.normalized_entropy << '\n';
  });
}

}  // namespace

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressLine::operator()(const std::string& name, Index step, Index steps, Index tokens_per_step, double bits,
                              double tokens_per_second) {
  if (!terminal_ || (step != steps && step % 10 != 1)) return;
  const double left = static_cast<double>((steps - step) * tokens_per_step) / std::max(1.0, tokens_per_second);
  std::array<char, 160> text;
  std::snprintf(text.data(), text.size(), "%-16s step %ld/%ld  %.3f bits/byte  %.0f tokens/s  %.0f s left",
                name.c_str(), static_cast<long>(step), static_cast<long>(steps), bits, tokens_per_second, left);
  show(text.data());
}

void ProgressLine::show(const std::string& text) {
  if (!terminal_) return;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  shown_ = true;
}

void ProgressLine::clear() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  shown_ = false;
}

void print_results(std::ostream& out, const Mixture& mixture, const std::vector<Result>& results) {
  constexpr int name_width = 18;
  const int width = column_width(mixture, 10);
  std::ostringstream text;  // so that the caller's stream keeps its format
  text << std::fixed << std::left << std::setw(name_width) << "bits/byte" << std::right << std::setw(10) << "trained"
       << std::setw(10) << "ms/step";
  for (const Part& part : mixture.parts()) text << std::setw(width) << part.name;
  text << std::setw(10) << "mean" << '\n';
  for (const Result& r : results) {
    text << std::left << std::setw(name_width) << r.name << std::right << std::setw(10) << r.parameters << std::setw(10)
         << std::setprecision(1) << r.milliseconds_per_step << std::setprecision(3);
    for (const double b : r.bits_per_byte) text << std::setw(width) << b;
    text << std::setw(10) << r.mean << '\n';
  }
  for (const Result& r : results) {
    if (!r.routing.empty()) print_routing(text, mixture, r);
  }
  out << text.str();
}

std::string curves_csv(const std::vector<Result>& results) {
  std::string text = "method,step,training_bits_per_byte,validation_bits_per_byte\n";
  for (const Result& r : results) {
    for (const CurvePoint& p : r.curve) {
      text += r.name + ',' + std::to_string(p.step) + ',' + exact(p.training) + ',' + exact(p.validation) + '\n';
    }
  }
  return text;
}

std::string routing_csv(const Mixture& mixture, const std::vector<Result>& results) {
  std::string text = "method,layer,part";
  std::size_t heads = 0;
  for (const Result& r : results) {
    if (!r.routing.empty()) heads = std::max(heads, as_vector(r.routing[0][0].usage).size());
  }
  for (std::size_t head = 1; head <= heads; ++head) text += ",head " + std::to_string(head);
  text += '\n';
  for (const Result& r : results) {
    for_routing(mixture, r, [&](const std::string& layer, std::string part, const PartRouting& routing) {
      std::replace(part.begin(), part.end(), ',', ';');
      text += r.name + ',' + layer + ',' + part;
      for (const double usage : as_vector(routing.usage)) text += ',' + exact(usage);
      text += '\n';
    });
  }
  return text;
}

std::string identity(const Corpus& corpus, MixtureKind kind, const Settings& settings) {
  Json json = about(corpus, kind, settings);
  json["learning_rate"] = settings.learning_rate;
  json["evaluation_examples"] = settings.evaluation_examples;
  for (const Domain& d : corpus.domains) json["hashes"].push_back(hydralora::fnv1a(d.text.data(), d.text.size()));
  return dump(json, -1);
}

std::string state_text(const Result& result) {
  nlohmann::json state = {
      {"loss", result.loss_since_point}, {"start", result.last_point}, {"curve", nlohmann::json::array()}};
  for (const CurvePoint& p : result.curve) state["curve"].push_back({p.step, p.training, p.validation});
  return state.dump();
}

void read_state(const std::string& text, Result& result) {
  const nlohmann::json state = nlohmann::json::parse(text);
  result.loss_since_point = state.at("loss").get<double>();
  result.last_point = state.at("start").get<Index>();
  result.curve.clear();
  for (const auto& p : state.at("curve")) {
    result.curve.push_back({p.at(0).get<Index>(), p.at(1).get<double>(), p.at(2).get<double>()});
  }
}

std::string results_json(const Corpus& corpus, MixtureKind kind, const Settings& settings, double seconds,
                         const Mixture& mixture, const std::vector<Result>& results) {
  Json json = about(corpus, kind, settings);
  json["seconds"] = seconds;
  for (const Result& r : results) {
    Json entry = {{"method", r.name},
                  {"trainable_parameters", r.parameters},
                  {"learning_rate", r.learning_rate},
                  {"milliseconds_per_step", r.milliseconds_per_step},
                  {"validation_bits_per_byte", r.validation},
                  {"mean_bits_per_byte", r.mean}};
    for (std::size_t part = 0; part < r.bits_per_byte.size(); ++part) {
      entry["bits_per_byte"][mixture.parts()[part].name] = r.bits_per_byte[part];
    }
    for_routing(mixture, r, [&](const std::string& layer, const std::string& part, const PartRouting& routing) {
      entry["routing"]["layer " + layer][part] = {{"usage", as_vector(routing.usage)},
                                                  {"top1_share", as_vector(routing.top1_share)},
                                                  {"normalized_entropy", routing.normalized_entropy}};
    });
    json["results"].push_back(std::move(entry));
  }
  return dump(json, 2) + '\n';
}

void print_texts(std::ostream& out, const Corpus& corpus) {
  out << "text\n";
  for (const Domain& d : corpus.domains) {
    out << "  " << std::left << std::setw(12) << d.name << std::right << std::setw(10) << size_text(d.text.size())
        << " from " << d.files << " files: " << d.origin << '\n';
  }
}

Index heads_from_data(const std::vector<Part>& parts, std::uint64_t seed, std::ostream& out) {
  hydralora::KMeansConfig config;
  config.seed = seed;
  const std::vector<double> sse = hydralora::sse_curve(chunk_features(parts, seed), most_heads_from_data, config);
  const Index heads = hydralora::elbow(sse);
  out << "heads from the data: SSE(k) for k = 1 to " << most_heads_from_data << ":" << std::fixed
      << std::setprecision(1);
  for (const double s : sse) out << ' ' << s;
  out << "; the elbow is at " << heads << "\n";
  return heads;
}

OutputFolder::OutputFolder(std::filesystem::path folder) : folder_(std::move(folder)) {
  if (folder_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (!error && access(folder_.c_str(), W_OK | X_OK) != 0) error = std::error_code(errno, std::generic_category());
  if (error) throw InputError("--out " + folder_.string() + ": " + error.message());
}

std::string OutputFolder::write(const std::string& name, const std::string& content) const {
  const std::filesystem::path target = folder_ / name;
  try {
    hydralora::write_file_atomically(target, content.data(), content.size());
  } catch (const hydralora::FileError&) {
    throw InputError("--out " + folder_.string() + ": cannot write " + name);
  }
  return target.string();
}

}  // namespace finetune
