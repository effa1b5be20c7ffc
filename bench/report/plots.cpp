// SPDX-License-Identifier: MIT
#include "plots.hpp"

#include <fstream>

namespace report {
namespace {

double milliseconds(const Run& run) { return 1e-3 * spread_of(run.microseconds).median; }

const char* const layers[] = {"HydraLoRA", "LoRA_equal_parameters", "LoRA_equal_total_rank"};

/// Lines of: layer, size, milliseconds; in blocks by layer. All other sizes are the centre's.
void write_against(std::ostream& out, const Results& results, const std::string& letter) {
  for (const char* layer : layers) {
    out << '"' << layer << "\"\n";
    for (const Run& run : results.runs()) {
      if (run.group != "layers" || run.candidate != layer || run.pass != "forward_backward" || run.threads != 1)
        continue;
      const bool on_axis = run.size("d") == 4096 && run.size("r") == 8 && (letter == "T" || run.size("T") == 512) &&
                           (letter == "N" || run.size("N") == 8) && run.sizes.find('x') == std::string::npos;
      if (on_axis) out << run.size(letter) << '\t' << milliseconds(run) << '\n';
    }
    out << "\n\n";
  }
}

void write_roofline(std::ostream& ceilings, std::ostream& points, const Results& results) {
  const auto ceiling = [&results](const char* name, const char* unit) {
    const Run* run = results.find("ceilings", name, "", "", 1);
    const auto value = run == nullptr ? std::nullopt : run->counter(unit);
    return value ? value->median : 0;
  };
  ceilings << ceiling("fma", "GFLOP/s") << '\t' << ceiling("memory_read", "GB/s") << '\t'
           << ceiling("cache_read", "GB/s") << '\n';
  for (const char* candidate : {"ours", "best"}) {
    points << '"' << (candidate == std::string("ours") ? "this library" : "best composition") << "\"\n";
    for (const Run& run : results.runs()) {
      const auto intensity = run.counter("intensity"), speed = run.counter("GFLOP/s");
      if (run.group == "peers" && run.candidate == candidate && run.threads == 1 && intensity && speed) {
        points << intensity->median << '\t' << speed->median << '\n';
      }
    }
    points << "\n\n";
  }
}

/// Lines of: pass, then the time of every layer over HydraLoRA's.
void write_layers(std::ostream& out, const Results& results) {
  const std::vector<std::string> others = results.candidates("layers", "HydraLoRA");
  out << "pass\tHydraLoRA";
  for (const std::string& layer : others) out << '\t' << layer;
  out << '\n';
  for (const char* pass : {"forward", "forward_backward", "training_step"}) {
    const Run* ours = results.find("layers", "HydraLoRA", pass, "T:512/d:4096/r:8/N:8", 1);
    if (ours == nullptr) continue;
    out << pass << "\t1";
    for (const std::string& layer : others) {
      const auto slower = results.slower(*ours, layer);
      out << '\t' << (slower ? text(slower->median) : "nan");
    }
    out << '\n';
  }
}

/// Lines of: peer, its time over ours forward, and forward and backward.
void write_peers(std::ostream& out, const Results& results) {
  out << "peer\tforward\tforward_backward\n";
  for (const std::string& peer : results.candidates("peers", "ours")) {
    out << peer;
    for (const char* pass : {"HydraLoRA_forward", "HydraLoRA_forward_backward"}) {
      const Run* ours = results.find("peers", "ours", pass, "T:512/d:4096/r:8/N:8", 1);
      const auto slower = ours == nullptr ? std::nullopt : results.slower(*ours, peer);
      out << '\t' << (slower ? text(slower->median) : "nan");
    }
    out << '\n';
  }
}

}  // namespace

void write_plot_data(const std::filesystem::path& folder, const Results& results) {
  std::filesystem::create_directories(folder);
  std::ofstream tokens(folder / "tokens.tsv"), heads(folder / "heads.tsv"), ceilings(folder / "ceilings.tsv"),
      points(folder / "roofline.tsv"), layer_bars(folder / "layers.tsv"), peer_bars(folder / "peers.tsv");
  write_against(tokens, results, "T");
  write_against(heads, results, "N");
  write_roofline(ceilings, points, results);
  write_layers(layer_bars, results);
  write_peers(peer_bars, results);
}

}  // namespace report
