// SPDX-License-Identifier: MIT
#include "experiment.hpp"

#include <iomanip>
#include <sstream>
#include <string_view>
#include <utility>

#include "hydralora/core/expects.hpp"

namespace finetune {
namespace {

/// Real text of this machine as one base text.
Domain joined(const std::vector<Domain>& domains, const std::string& name) {
  Domain all{name, "", 0, ""};
  for (const Domain& d : domains) {
    all.text += d.text;
    all.files += d.files;
    all.origin += (all.origin.empty() ? "" : ", ") + d.name + ' ' + size_text(d.text.size());
  }
  return all;
}

}  // namespace

std::string size_text(std::size_t bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(bytes < 100000 ? 1 : 0) << static_cast<double>(bytes) / 1024 << " KiB";
  return text.str();
}

std::vector<Domain> load_texts(MixtureKind kind, const TextOptions& options) {
  std::vector<Domain> texts;
  const bool tasks = kind == MixtureKind::tasks;
  if (tasks && !options.domains.empty())
    throw InputError("--domain belongs to --mixture domains; the tasks mixture has one text, --base");
  if (!tasks && options.domains.empty() && !options.base.empty())
    throw InputError("--base without --domain: name at least one domain to fine-tune on, --domain NAME=PATH");

  std::vector<Domain> found;
  if (options.base.empty() || (!tasks && options.domains.empty())) {
    found = system_domains(options.max_bytes);
    if (found.empty()) throw InputError("no text found on this machine; name one: --base NAME=PATH");
  }
  if (!options.base.empty()) {
    texts.push_back(load_domain(options.base, options.max_bytes));
  } else if (tasks || !options.domains.empty()) {
    texts.push_back(joined(found, "system"));
  } else {  // C++ and copyright files are what the base knows; the other kinds of text are the domains
    std::vector<Domain> base;
    for (const Domain& d : found) (d.name == "cpp" || d.name == "copyright" ? base : texts).push_back(d);
    if (base.empty() || texts.empty())
      throw InputError("this machine has too few kinds of text; name some: --base NAME=PATH --domain NAME=PATH …");
    texts.insert(texts.begin(), joined(base, "system"));
  }
  for (const std::string& spec : options.domains) {
    texts.push_back(load_domain(spec, options.max_bytes));
    for (std::size_t i = 1; i + 1 < texts.size(); ++i) {
      if (texts[i].name == texts.back().name) throw InputError("--domain " + spec + ": the name is given twice");
    }
  }
  return texts;
}

Corpus::Corpus(std::vector<Domain> texts, Index context, std::uint64_t seed) : domains(std::move(texts)) {
  for (const Domain& d : domains) splits.push_back(split_positions(d.text, static_cast<int>(context), seed));
}

std::vector<Part> Corpus::base_part() const { return {{domains[0].name, &domains[0].text, &splits[0], tasks()[0]}}; }

std::vector<Part> Corpus::task_parts(std::size_t count) const {
  hydralora::expects(count >= 1 && count <= tasks().size(), "task_parts: ", count, " of ", tasks().size(), " tasks");
  std::vector<Part> parts;
  for (std::size_t i = 0; i < count; ++i) {
    parts.push_back({tasks()[i].name, &domains[0].text, &splits[0], tasks()[i]});
  }
  return parts;
}

std::vector<Part> Corpus::domain_parts() const {
  std::vector<Part> parts;
  for (std::size_t i = 1; i < domains.size(); ++i) {
    parts.push_back({domains[i].name, &domains[i].text, &splits[i], tasks()[0]});
  }
  return parts;
}

std::vector<Part> Corpus::parts(MixtureKind kind) const {
  return kind == MixtureKind::tasks ? task_parts(default_tasks) : domain_parts();
}

Eigen::MatrixXd chunk_features(const std::vector<Part>& parts, std::uint64_t seed) {
  std::vector<std::string> texts;
  for (const Part& part : parts) {
    texts.push_back(*part.text);
    for (char& c : texts.back()) c = static_cast<char>(part.rewrite(static_cast<unsigned char>(c)));
  }
  constexpr Index chunks = 600, chunk_bytes = 1024, dimensions = 256;
  return ngram_features(std::vector<std::string_view>(texts.begin(), texts.end()), chunks, chunk_bytes, dimensions,
                        seed);
}

}  // namespace finetune
