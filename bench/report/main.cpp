// SPDX-License-Identifier: MIT
//
//   bench_page compact <google-benchmark.json> <compile-times.json> <compact.json>
//   bench_page render <compact.json> <page.md> [<folder for plot data>]
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>

#include "page.hpp"
#include "plots.hpp"

namespace {

report::Json read(const std::string& path) {
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path + " cannot be read");
  std::string text(std::istreambuf_iterator<char>(stream), {});
  // Google Benchmark writes the coefficient of variation of a counter that is always zero as NaN, which is not JSON.
  for (std::size_t at = 0; (at = text.find(": NaN", at)) != std::string::npos;) text.replace(at, 5, ": null");
  return report::Json::parse(text);
}

std::ofstream write(const std::string& path) {
  std::ofstream stream(path);
  if (!stream) throw std::runtime_error(path + " cannot be written");
  return stream;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 4 && arguments[0] == "compact") {
    const report::Json compact = report::compact(read(arguments[1]), read(arguments[2]));
    std::ofstream stream = write(arguments[3]);
    // One run a line: short, and a diff still shows which changed.
    stream << "{\n\"context\": " << compact["context"].dump()
           << ",\n\"compile_times\": " << compact["compile_times"].dump() << ",\n\"runs\": [";
    for (std::size_t i = 0; i < compact["runs"].size(); ++i)
      stream << (i == 0 ? "\n" : ",\n") << compact["runs"][i].dump();
    stream << "\n]\n}\n";
    return 0;
  }
  if ((arguments.size() == 3 || arguments.size() == 4) && arguments[0] == "render") {
    const report::Results results(read(arguments[1]));
    std::ofstream page = write(arguments[2]);
    report::write_page(page, results, arguments.size() == 4);
    if (arguments.size() == 4) report::write_plot_data(arguments[3], results);
    return 0;
  }
  std::cerr << "bench_page compact <google-benchmark.json> <compile-times.json> <compact.json>\n"
               "bench_page render <compact.json> <page.md> [<folder for plot data>]\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "bench_page: " << error.what() << '\n';
    return 1;
  }
}
