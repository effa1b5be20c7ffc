// SPDX-License-Identifier: MIT
#include "page.hpp"

#include <algorithm>

#include "goals.hpp"

namespace report {
namespace {

void write_row(std::ostream& out, const std::vector<std::string>& cells) {
  for (const std::string& cell : cells) out << "| " << cell << ' ';
  out << "|\n";
}

void write_header(std::ostream& out, const std::vector<std::string>& cells) {
  write_row(out, cells);
  for (std::size_t i = 0; i < cells.size(); ++i) out << "|---";
  out << "|\n";
}

std::string optional_text(const std::optional<Spread>& spread) { return spread ? text(*spread) : "–"; }

std::string spaced(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

void write_plot(std::ostream& out, bool with_plots, const char* name, const char* title) {
  if (with_plots) out << "\n![" << title << "](benchmarks_" << name << ".svg)\n";
}

void write_machine(std::ostream& out, const Json& context) {
  out << "## Machine\n\n| | |\n|---|---|\n";
  const auto row = [&](const char* label, const std::string& key) {
    if (context.contains(key))
      write_row(out, {label, context[key].is_string() ? context[key].get<std::string>() : context[key].dump()});
  };
  row("processor", "cpu");
  row("cores", "num_cpus");
  if (context.contains("caches")) {
    std::string caches;
    for (const Json& cache : context["caches"]) {
      if (cache["type"] == "Instruction") continue;
      caches += (caches.empty() ? "L" : ", L") + cache["level"].dump() + " " +
                text(cache["size"].get<double>() / 1024) + " KiB";
    }
    write_row(out, {"caches", caches});
  }
  row("instruction set", "instruction_set");
  row("compiler", "compiler");
  row("flags", "flags");
  row("commit", "commit");
  for (const auto& [key, value] : context.items()) {
    if (key.rfind("library:", 0) == 0) write_row(out, {key.substr(8), value.get<std::string>()});
  }
  for (const auto& [key, value] : context.items()) {
    if (key.rfind("peer:", 0) == 0) write_row(out, {"peer " + spaced(key.substr(5)), value.get<std::string>()});
    if (key.rfind("absent:", 0) == 0) {
      write_row(out, {"peer " + spaced(key.substr(7)), "not measured: " + value.get<std::string>()});
    }
  }
  row("energy", "energy");
}

void write_ceilings(std::ostream& out, const Results& results, bool with_plots) {
  out << "\n## Ceilings\n\nMeasured in the same rotation as everything else.\n\n";
  write_header(out, {"ceiling", "one thread", "two threads"});
  for (const auto& [name, unit] : std::vector<std::pair<std::string, std::string>>{{"fma", "GFLOP/s"},
                                                                                   {"cache_read", "GB/s"},
                                                                                   {"cache_update", "GB/s"},
                                                                                   {"memory_read", "GB/s"},
                                                                                   {"memory_update", "GB/s"}}) {
    std::vector<std::string> cells{spaced(name) + ", " + unit};
    for (const int threads : {1, 2}) {
      const Run* run = results.find("ceilings", name, "", "", threads);
      cells.push_back(run == nullptr ? "–" : optional_text(run->counter(unit)));
    }
    write_row(out, cells);
  }
  write_plot(out, with_plots, "roofline", "Roofline of one thread");
}

/// One row for every size that `ours` was measured on: our share of the ceilings, and the others' times over ours.
void write_comparison(std::ostream& out, const Results& results, const std::string& group, const std::string& ours,
                      std::vector<std::string> counters) {
  const auto has_energy = [&](const Run& run) { return run.group == group && run.counters.count("joules") > 0; };
  if (std::any_of(results.runs().begin(), results.runs().end(), has_energy)) counters.push_back("joules");
  const std::vector<std::string> others = results.candidates(group, ours);
  std::vector<std::string> header{"", "size", "threads"};
  for (const std::string& name : counters) header.push_back(spaced(name));
  for (const std::string& name : others) header.push_back(spaced(name));
  write_header(out, header);
  for (const Run& run : results.runs()) {
    if (run.group != group || run.candidate != ours) continue;
    std::vector<std::string> cells{spaced(run.pass), run.readable_sizes(), std::to_string(run.threads)};
    for (const std::string& name : counters) {
      const auto value = run.counter(name);
      cells.push_back(value ? text(value->median) : "–");
    }
    for (const std::string& name : others) cells.push_back(optional_text(results.slower(run, name)));
    write_row(out, cells);
  }
}

void write_errors(std::ostream& out, const Results& results) {
  out << "\nLargest error of any candidate on any of these sizes, and its allocations per warm call:\n\n";
  write_header(out, {"candidate", "largest error", "most allocations"});
  std::vector<std::string> all = results.candidates("peers", "ours");
  all.insert(all.begin(), "ours");
  for (const std::string& candidate : all) {
    double error = 0, allocations = 0;
    for (const Run& run : results.runs()) {
      if (run.group != "peers" || run.candidate != candidate) continue;
      if (const auto value = run.counter("error")) error = std::max(error, value->high);
      if (const auto value = run.counter("allocations")) allocations = std::max(allocations, value->high);
    }
    write_row(out, {spaced(candidate), text(error), text(allocations)});
  }
}

void write_losses(std::ostream& out, const Results& results) {
  struct Loss {
    const Run* run;
    std::string candidate;
    Spread slower;
  };
  std::vector<Loss> losses;
  std::size_t comparisons = 0;
  for (const Run& run : results.runs()) {
    const bool ours =
        (run.group == "peers" && run.candidate == "ours") || (run.group == "kernels" && run.candidate == "simd");
    if (!ours) continue;
    for (const std::string& candidate : results.candidates(run.group, run.candidate)) {
      const auto slower = results.slower(run, candidate);
      if (slower) ++comparisons;
      if (slower && slower->median < 1) losses.push_back({&run, candidate, *slower});
    }
  }
  std::stable_sort(losses.begin(), losses.end(),
                   [](const Loss& a, const Loss& b) { return a.slower.median < b.slower.median; });
  out << "\n## Where we lose\n\nEvery candidate that was faster than ours on the same work: " << losses.size() << " of "
      << comparisons << " comparisons, the worst first.\n\n";
  if (losses.empty()) return;
  write_header(out, {"work", "size", "threads", "faster candidate", "its time over ours"});
  for (const Loss& loss : losses) {
    write_row(out, {spaced(loss.run->pass), loss.run->readable_sizes(), std::to_string(loss.run->threads),
                    spaced(loss.candidate), text(loss.slower)});
  }
}

void write_compile_times(std::ostream& out, const Json& times) {
  if (!times.contains("files")) return;
  out << "\n## Compile time\n\nThe program with one HydraLoRA forward and backward pass, for which the budget is 6 s "
         "and "
         "400 MB; an empty file with `Eigen/Core`, which it cannot be below; and every public header alone. With `"
      << times["flags"].get<std::string>() << "` and the compiler above, one file at a time.\n\n";
  write_header(out, {"file", "seconds", "peak memory, MB", "object, kB"});
  for (const Json& file : times["files"]) {
    write_row(out, {"`" + file["name"].get<std::string>() + "`", text(file["seconds"].get<double>()),
                    text(file["megabytes"].get<double>()), text(file["object_kilobytes"].get<double>())});
  }
}

}  // namespace

void write_page(std::ostream& out, const Results& results, bool with_plots) {
  out << "# Benchmarks\n\n"
         "Rendered from [benchmarks.json](benchmarks.json), which `cmake --workflow --preset bench` writes together "
         "with "
         "this page; nothing here is typed by hand.\n\n"
         "Only the adapter is timed (y += ΔW x, and back); the host's own product with the frozen weight is not in it. "
         "All "
         "candidates run interleaved at random in one process, several times. Unless a column says otherwise a number "
         "is "
         "**the candidate's time over ours**: above 1 ours is faster. It is the median of all ratios between "
         "repetitions, "
         "with the quartiles in parentheses where they differ from it. Shares of peak and roofline are against "
         "ceilings "
         "measured beside every single run. An error is the largest difference from the same layer in double, over the "
         "largest magnitude.\n\n";
  if (results.disturbed() > 0) {
    out << results.disturbed() << " of " << results.repetitions()
        << " repetitions are left out: right before them the multiply-add peak was less than half of the best with as "
           "many "
           "threads, so somebody else had the cores.\n\n";
  }
  write_machine(out, results.context());
  out << "\n## Goals\n\nShares in percent, and times of the others over ours. A dash: not measured in this run.\n\n";
  write_goals(out, results);
  write_ceilings(out, results, with_plots);
  out << "\n## Against other libraries\n\n"
         "The same numbers through the formulas with Eigen's products, through BLAS libraries, through the best of "
         "them for "
         "every single product, and through PyTorch as the layer was released and as one would write it well.\n\n";
  write_comparison(out, results, "peers", "ours", {"percent_of_peak", "percent_of_roofline"});
  write_errors(out, results);
  write_plot(out, with_plots, "peers", "Time of other libraries over ours");
  write_losses(out, results);
  out << "\n## LoRA, SplitLoRA and HydraLoRA\n\n"
         "Times of the other layers over HydraLoRA's: LoRA of the same number of parameters, of the same rank, and of "
         "the "
         "same total rank r·N; SplitLoRA with the same heads and a learned gate. These are different functions, so "
         "what is faster here is not a "
         "loss in the sense above.\n\n";
  write_comparison(out, results, "layers", "HydraLoRA",
                   {"parameters", "bytes_kept", "percent_of_peak", "percent_of_roofline", "allocations", "error"});
  write_plot(out, with_plots, "layers", "LoRA and SplitLoRA against HydraLoRA");
  write_plot(out, with_plots, "heads", "Time against the number of heads");
  write_plot(out, with_plots, "tokens", "Time against the number of tokens");
  out << "\n## Kernels\n\n"
         "Every kernel by itself against the same in Eigen and against the plain loops it is tested with. \"down\" is "
         "the "
         "stack [A; gate], \"up\" is [B_1 … B_N].\n\n";
  write_comparison(out, results, "kernels", "simd", {"percent_of_peak", "percent_of_roofline", "error"});
  write_compile_times(out, results.compile_times());
}

}  // namespace report
