// SPDX-License-Identifier: MIT
//
//   measure_compile_time <times.json> <folder for objects> <name>=<source> … -- <compiler> <flags> …
//
// Compiles every source by itself and writes how long it took, how much memory the compiler had at most, and how large
// the object is. A program of its own because a bare Debian has no /usr/bin/time, and no shell tells the memory.
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

extern char** environ;

namespace {

struct Cost {
  double seconds, megabytes;
};

/// Of the command and everything it starts.
Cost run(std::vector<std::string> command) {
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const auto begin = std::chrono::steady_clock::now();
  pid_t child = 0;
  if (posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0) {
    throw std::runtime_error(command[0] + " cannot be started");
  }
  int status = 0;
  rusage usage{};
  if (wait4(child, &status, 0, &usage) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error("failed: " + command.back());
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  return {elapsed.count(), static_cast<double>(usage.ru_maxrss) / 1024};  // kibibytes on Linux
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
    if (dashes - arguments.begin() < 3 || arguments.end() - dashes < 2) {
      std::cerr << "measure_compile_time <times.json> <folder> <name>=<source> ... -- <compiler> <flags> ...\n";
      return 1;
    }
    const std::vector<std::string> compiler(dashes + 1, arguments.end());
    const std::filesystem::path folder = arguments[1];
    std::filesystem::create_directories(folder);

    nlohmann::ordered_json files = nlohmann::ordered_json::array();
    for (auto argument = arguments.begin() + 2; argument != dashes; ++argument) {
      const std::string name = argument->substr(0, argument->find('=')), source = argument->substr(name.size() + 1);
      const std::filesystem::path object = folder / "object.o";
      std::vector<std::string> command = compiler;
      command.insert(command.end(), {"-c", "-o", object.string(), source});
      const Cost cost = run(command);
      files.push_back(
          {{"name", name},
           {"seconds", std::round(100 * cost.seconds) / 100},
           {"megabytes", std::round(cost.megabytes)},
           {"object_kilobytes", std::round(static_cast<double>(std::filesystem::file_size(object)) / 100) / 10}});
      std::cout << name << ": " << cost.seconds << " s, " << cost.megabytes << " MB\n";
    }
    std::string flags;  // as a reader can repeat it: include paths are this machine's
    for (std::size_t i = 1; i < compiler.size(); ++i) {
      if (compiler[i] == "-isystem") {
        ++i;
      } else if (compiler[i].rfind("-I", 0) != 0) {
        flags += (flags.empty() ? "" : " ") + compiler[i];
      }
    }
    std::ofstream(arguments[0]) << nlohmann::ordered_json{{"flags", flags}, {"files", files}}.dump(1) << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "measure_compile_time: " << error.what() << '\n';
    return 1;
  }
}
