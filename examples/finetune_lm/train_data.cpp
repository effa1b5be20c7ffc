// SPDX-License-Identifier: MIT
#include "train_data.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>

#include "evaluation.hpp"
#include "train_options.hpp"

namespace finetune_lm {

namespace fs = std::filesystem;

/// FNV-1a over the ids and labels: tells other data from the same.
std::uint64_t hash_of(const std::vector<lm::Example>& examples) {
  std::uint64_t hash = 14695981039346656037U;
  const auto add = [&](int number) { hash = (hash ^ static_cast<std::uint32_t>(number)) * 1099511628211U; };
  for (const lm::Example& e : examples) {
    add(static_cast<int>(e.ids.size()));
    for (const int id : e.ids) add(id);
    for (const int label : e.labels) add(label);
    add(e.group);
  }
  return hash;
}

/// The examples of some files; what was left out is printed after `what`.
/// @param groups  those that there may be, or none: any.
lm::ExampleFile read_files(const std::vector<std::string>& files, Text& text, const TrainOptions& o, const char* what,
                           const std::vector<std::string>& groups) {
  lm::ExampleFile all;
  all.groups = groups;
  const lm::TextFunctions functions = text.functions();
  for (const std::string& file : files) all.read(file, functions, o.max_length, o.truncate);
  check_groups(all, groups);
  std::cout << what << ": " << all.examples.size() << " examples";
  if (all.too_long > 0) std::cout << ", " << all.too_long << " longer than " << o.max_length << " tokens left out";
  if (all.unlabelled > 0) std::cout << ", " << all.unlabelled << " without a trained token left out";
  std::cout << std::endl;
  if (all.examples.empty()) {
    throw std::invalid_argument(std::string(what) + ": no example is left of " + (files.empty() ? "" : files[0]));
  }
  return all;
}

/// Text of this machine: its licenses, in pieces.
lm::ExampleFile default_data() {
  lm::ExampleFile all;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator("/usr/share/common-licenses")) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  all.groups = {""};
  for (const fs::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    std::string piece(256, '\0');
    while (file.read(piece.data(), static_cast<std::streamsize>(piece.size()))) {
      lm::Example one;
      for (const char c : piece) one.ids.push_back(static_cast<unsigned char>(c));
      one.labels = one.ids;
      all.examples.push_back(std::move(one));
    }
  }
  if (all.examples.empty()) throw std::invalid_argument("no text under /usr/share/common-licenses: give --data");
  std::cout << "data: " << all.examples.size() << " pieces of the licenses under /usr/share/common-licenses\n";
  return all;
}

void read_data(const TrainOptions& o, Text& text, lm::ExampleFile& data, lm::ExampleFile& validation) {
  const std::vector<std::string> trained = groups_of_adapter(o);
  data = o.data.empty() ? default_data() : read_files(o.data, text, o, "data", trained);
  if (o.validation.empty()) return;
  const bool given = o.gate == "given" || !trained.empty();
  validation = read_files(o.validation, text, o, "validation", given ? data.groups : trained);
}

/// The tokens of another model's tokenizer are found here, not in the middle of training.
void check_ids(const lm::ExampleFile& file, Index vocabulary) {
  for (const lm::Example& e : file.examples) {
    std::vector<int> all = e.ids;
    std::copy_if(e.labels.begin(), e.labels.end(), std::back_inserter(all), [](int i) { return i != lm::not_scored; });
    for (const int id : all) {
      if (id < 0 || id >= vocabulary) {
        throw std::invalid_argument("token " + std::to_string(id) +
                                    " of the data is not in the model's vocabulary of " + std::to_string(vocabulary) +
                                    ": is the tokenizer that of this model?");
      }
    }
  }
}

}  // namespace finetune_lm
