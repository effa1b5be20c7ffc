// SPDX-License-Identifier: MIT
#include "corpus.hpp"

#include <glob.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iomanip>
#include <memory>
#include <sstream>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "hydralora/core/expects.hpp"
#include "hydralora/core/random.hpp"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using hydralora::CounterRandom;
using hydralora::expects;

// Streams of the seed: what is drawn for one purpose says nothing about another.
constexpr std::uint64_t split_stream = 101, chunk_stream = 102;

InputError unreadable(const std::string& path, std::error_code reason) {
  return InputError("cannot read " + path + ": " + reason.message());
}

/// At most `limit` bytes from the start of a file; nothing if there is a NUL byte among them, which no text has. Does
/// not trust the file's size: files in /proc have none.
std::string read_text(const std::string& path, std::size_t limit) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) throw unreadable(path, {errno, std::generic_category()});
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (text.size() < limit) {
    const std::size_t got = std::fread(buffer.data(), 1, std::min(buffer.size(), limit - text.size()), file.get());
    if (std::ferror(file.get()) != 0) throw unreadable(path, {errno, std::generic_category()});
    if (got == 0) break;
    if (std::memchr(buffer.data(), '\0', got) != nullptr) return {};
    text.append(buffer.data(), got);
  }
  return text;
}

/// Adds `path` if it is a file, every file below it if it is a folder. Folders are entered by their own name only,
/// never through a link, so there is no way into a cycle.
void add_files(const fs::path& path, bool skip_unreadable, std::vector<std::string>& files) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) files.push_back(path.string());
  if (!fs::is_directory(path, error)) return;
  fs::directory_iterator entry(path, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::error_code ignored;  // an entry that cannot be asked is neither a file nor a folder
    if (entry->symlink_status(ignored).type() == fs::file_type::directory) {
      add_files(entry->path(), skip_unreadable, files);
    } else if (entry->is_regular_file(ignored)) {
      files.push_back(entry->path().string());
    }
  }
  if (error && !skip_unreadable) throw unreadable(path.string(), error);
}

std::vector<std::string> expand(const std::string& pattern, bool skip_unreadable) {
  glob_t matches{};
  const std::unique_ptr<glob_t, void (*)(glob_t*)> owner(&matches, &globfree);
  // A missing folder is only no match; one that is there and cannot be read may hide some.
  const auto gives_up = [](const char*, int error) { return error == ENOENT || error == ENOTDIR ? 0 : 1; };
  const int result = glob(pattern.c_str(), 0, skip_unreadable ? nullptr : +gives_up, &matches);
  if (result == GLOB_ABORTED) throw InputError("cannot read every folder that matches " + pattern);
  if (result == GLOB_NOSPACE) throw InputError("too many files match " + pattern);
  return {matches.gl_pathv, matches.gl_pathv + matches.gl_pathc};
}

/// The even sample that load_domain() promises. read(path, limit) returns nothing for a file that is not to be used.
Domain sample_domain(const std::string& name, const std::string& where, std::vector<std::string> paths,
                     std::size_t max_bytes, const std::function<std::string(const std::string&, std::size_t)>& read) {
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::vector<std::string> texts(paths.size());
  std::size_t power = 1, total = 0, used = 0;
  while (power < paths.size()) power *= 2;
  for (std::size_t i = 0, reversed = 0; i < power && total < max_bytes; ++i) {
    if (reversed < paths.size()) {
      texts[reversed] = read(paths[reversed], max_bytes - total);
      total += texts[reversed].size();
      used += texts[reversed].empty() ? 0 : 1;
    }
    std::size_t bit = power / 2;  // add one to the bit-reversed counter
    for (; (reversed & bit) != 0; bit /= 2) reversed ^= bit;
    reversed |= bit;
  }
  Domain domain{name, "", used,
                where + " (" + std::to_string(used) + " of " + std::to_string(paths.size()) + " files)"};
  domain.text.reserve(total);
  for (const std::string& text : texts) domain.text += text;
  return domain;
}

Domain load(const std::string& name, const std::string& path, std::size_t max_bytes) {
  const std::string needed = ", at least " + std::to_string(minimum_bytes) + " are needed";
  if (max_bytes < minimum_bytes) {
    throw InputError("at most " + std::to_string(max_bytes) + " bytes of " + path + " may be used" + needed);
  }
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  std::vector<std::string> files;
  if (fs::is_regular_file(status) || fs::is_directory(status)) {
    add_files(path, false, files);
  } else if (fs::exists(status)) {
    throw InputError(path + " is neither a file nor a folder");
  } else if (path.find_first_of("*?[") != std::string::npos) {
    const std::vector<std::string> matches = expand(path, false);
    if (matches.empty()) throw InputError("no file matches " + path);
    for (const std::string& match : matches) add_files(match, false, files);
  } else {
    throw unreadable(path, error);
  }
  Domain domain = sample_domain(name, path, std::move(files), max_bytes, read_text);
  if (domain.text.size() < minimum_bytes) {
    throw InputError("found " + std::to_string(domain.text.size()) + " bytes of text in " + domain.origin + needed +
                     "; files with a NUL byte are binary and do not count");
  }
  return domain;
}

bool is_cpp(const std::string& path, const std::string& text) {
  const auto starts = {"\nnamespace ", "\ninline namespace ", "\ntemplate <", "\ntemplate<", "\nclass "};
  return path.find("/c++/") != std::string::npos ||
         std::any_of(starts.begin(), starts.end(), [&](auto start) { return text.find(start) != std::string::npos; });
}

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

Domain load_domain(const std::string& spec, std::size_t max_bytes) {
  const std::size_t equals = spec.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == spec.size()) {
    throw InputError("domain '" + spec + "': expected NAME=PATH, for instance c=/usr/include");
  }
  try {
    return load(spec.substr(0, equals), spec.substr(equals + 1), max_bytes);
  } catch (const InputError& error) {
    throw InputError("domain '" + spec + "': " + error.what());
  }
}

std::vector<Domain> system_domains(std::size_t max_bytes_each) {
  struct Source {
    std::string name;
    std::vector<std::string> roots;  // glob patterns
    std::string suffix;
  };
  const std::vector<Source> sources = {
      {"licences", {"/usr/share/common-licenses"}, ""},
      {"c", {"/usr/include"}, ".h"},
      {"cpp", {"/usr/include/c++"}, ""},
      {"cmake", {"/usr/share/cmake-*/Modules"}, ".cmake"},
      {"perl", {"/usr/share/perl", "/usr/share/perl5", "/usr/lib/*/perl-base", "/usr/lib/*/perl"}, ".pm"},
      {"copyright", {"/usr/share/doc/*/copyright"}, ""},
  };
  std::vector<Domain> domains;
  for (const auto& [name, roots, suffix] : sources) {
    std::vector<std::string> found, files;
    std::string origin;
    for (const std::string& root : roots) {
      for (const std::string& match : expand(root, true)) add_files(match, true, found);
      origin += (origin.empty() ? "" : " ") + root;
    }
    for (const std::string& file : found) {
      if (suffix.empty() || fs::path(file).extension() == suffix) files.push_back(file);
    }
    if (!suffix.empty()) origin += ", *" + suffix;
    // Contents are compared by a 64-bit hash: two different files taken for one would only cost a little text.
    std::unordered_set<std::size_t> seen;
    const auto read = [&, c_only = name == "c"](const std::string& path, std::size_t limit) -> std::string {
      try {
        std::string text = read_text(path, limit);
        if ((!c_only || !is_cpp(path, text)) && seen.insert(std::hash<std::string>()(text)).second) return text;
      } catch (const InputError&) {  // left out
      }
      return {};
    };
    Domain domain = sample_domain(name, origin, std::move(files), max_bytes_each, read);
    if (domain.text.size() >= minimum_bytes) domains.push_back(std::move(domain));
  }
  return domains;
}

std::string size_text(std::size_t bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(bytes < 100000 ? 1 : 0) << static_cast<double>(bytes) / 1024 << " KiB";
  return text.str();
}

std::vector<Domain> load_texts(MixtureKind kind, const TextOptions& options) {
  const bool tasks = kind == MixtureKind::tasks, named = !options.domains.empty();
  if (tasks && named) throw InputError("--domain belongs to --mixture domains; the tasks mixture has one text, --base");
  if (!tasks && !named && !options.base.empty())
    throw InputError("--base without --domain: name at least one domain to fine-tune on, --domain NAME=PATH");

  std::vector<Domain> texts;
  if (!options.base.empty()) {
    texts.push_back(load_domain(options.base, options.max_bytes));
  } else {
    std::vector<Domain> base = system_domains(options.max_bytes);
    if (base.empty()) throw InputError("no text found on this machine; name one: --base NAME=PATH");
    if (!tasks && !named) {  // C++ and copyright files are what the base knows; the other kinds of text are the domains
      const auto known = [](const Domain& d) { return d.name == "cpp" || d.name == "copyright"; };
      const auto others = std::stable_partition(base.begin(), base.end(), known);
      texts.assign(others, base.end());
      base.erase(others, base.end());
      if (base.empty() || texts.empty())
        throw InputError("this machine has too few kinds of text; name some: --base NAME=PATH --domain NAME=PATH …");
    }
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

Split split_positions(const std::string& text, int context, std::uint64_t seed) {
  expects(text.size() >= minimum_bytes, "split_positions: ", text.size(), " bytes, expected at least ", minimum_bytes);
  expects(text.size() >> 32U == 0, "split_positions: ", text.size(), " bytes, expected less than 2^32");
  expects(context >= 0 && static_cast<std::size_t>(context) < block_bytes, "split_positions: context is ", context,
          ", expected 0 to ", block_bytes - 1);
  const std::size_t before = static_cast<std::size_t>(context);
  const CounterRandom random(seed, split_stream);
  std::array<std::vector<std::size_t>, 3> starts;  // the blocks of train, validation and test
  for (std::size_t start = 0; start + before < text.size(); start += block_bytes) {
    const std::uint64_t draw = random.below(10, start / block_bytes);
    starts[draw < 8 ? 0 : draw - 7].push_back(start);
  }
  const auto smaller = [](const auto& a, const auto& b) { return a.size() < b.size(); };
  for (auto& part : starts) {
    if (!part.empty()) continue;  // at least three blocks and an empty part: the largest has two or more
    auto& largest = *std::max_element(starts.begin(), starts.end(), smaller);
    part.push_back(largest.back());
    largest.pop_back();
  }
  Split split;
  const std::array<std::vector<std::uint32_t>*, 3> parts = {&split.train, &split.validation, &split.test};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (const std::size_t start : starts[i]) {
      const std::size_t end = std::min(start + block_bytes, text.size());
      for (std::size_t p = start + before; p < end; ++p) parts[i]->push_back(static_cast<std::uint32_t>(p));
    }
  }
  return split;
}

Eigen::MatrixXd ngram_features(const std::string& text, Index chunks, Index chunk_bytes, Index dimensions,
                               std::uint64_t seed) {
  return ngram_features(std::vector<std::string_view>{text}, chunks, chunk_bytes, dimensions, seed);
}

Eigen::MatrixXd ngram_features(const std::vector<std::string_view>& texts, Index chunks, Index chunk_bytes,
                               Index dimensions, std::uint64_t seed) {
  expects(chunks > 0 && chunk_bytes > 0 && dimensions > 0, "ngram_features: ", chunks, " chunks of ", chunk_bytes,
          " bytes in ", dimensions, " dimensions, expected at least one of each");
  expects(!texts.empty(), "ngram_features: no text");
  const std::size_t length = static_cast<std::size_t>(chunk_bytes);
  for (const std::string_view text : texts) {
    expects(text.size() >= length, "ngram_features: a text of ", text.size(), " bytes, chunks of ", length);
  }
  const CounterRandom random(seed, chunk_stream);
  // Fibonacci hashing: the upper 32 bits of gram · 2^64/φ, scaled to the number of buckets.
  const auto bucket = [&](std::uint64_t gram) {
    const std::uint64_t hash = (gram * 0x9E3779B97F4A7C15U) >> 32U;
    return static_cast<Index>((hash * static_cast<std::uint64_t>(dimensions)) >> 32U);
  };
  Eigen::MatrixXd features = Eigen::MatrixXd::Zero(dimensions, chunks);
  for (Index i = 0; i < chunks; ++i) {
    const std::string_view text = texts[static_cast<std::size_t>(i) % texts.size()];
    const std::size_t start = random.below(text.size() - length + 1, static_cast<std::uint64_t>(i));
    std::uint64_t previous = 0;
    for (std::size_t k = 0; k < length; ++k) {
      const std::uint64_t byte = static_cast<unsigned char>(text[start + k]);
      features(bucket(1 + byte), i) += 1.0;
      if (k > 0) features(bucket(1 + 256 * (1 + previous) + byte), i) += 1.0;
      previous = byte;
    }
  }
  features = features.cwiseSqrt() / std::sqrt(static_cast<double>(2 * length - 1));  // 2·length - 1 grams per chunk
  return features;
}

const std::array<Task, 8>& tasks() {
  using Byte = unsigned char;
  static constexpr auto within = [](Byte c, Byte first, Byte last) { return c >= first && c <= last; };
  static constexpr auto shift = [](Byte c, int by) {
    for (const Byte first : {Byte{'a'}, Byte{'A'}}) {
      if (within(c, first, static_cast<Byte>(first + 25))) return static_cast<Byte>(first + (c - first + by) % 26);
    }
    return c;
  };
  static const std::array<Task, 8> table = {{
      {"plain", 1, [](Byte c) { return c; }},
      {"upper", 2, [](Byte c) { return within(c, 'a', 'z') ? static_cast<Byte>(c - 'a' + 'A') : c; }},
      {"rot13", 3, [](Byte c) { return shift(c, 13); }},
      {"mirror", 4,
       [](Byte c) {
         if (within(c, 'a', 'z')) return static_cast<Byte>('a' + 'z' - c);
         if (within(c, 'A', 'Z')) return static_cast<Byte>('A' + 'Z' - c);
         if (within(c, '0', '9')) return static_cast<Byte>('0' + '9' - c);
         return c;
       }},
      {"rot6", 5, [](Byte c) { return shift(c, 6); }},
      {"rot20", 6, [](Byte c) { return shift(c, 20); }},
      {"swap", 7, [](Byte c) { return within(c, 'a', 'z') || within(c, 'A', 'Z') ? static_cast<Byte>(c ^ 0x20) : c; }},
      {"vowels", 8,
       [](Byte c) {
         constexpr std::string_view vowels = "aeiouaAEIOUA";
         const std::size_t at = vowels.find(static_cast<char>(c));
         return at == std::string_view::npos ? c : static_cast<Byte>(vowels[at + 1]);
       }},
  }};
  return table;
}

Corpus::Corpus(std::vector<Domain> texts, Index context, std::uint64_t seed) : domains(std::move(texts)) {
  for (const Domain& d : domains) splits.push_back(split_positions(d.text, static_cast<int>(context), seed));
}

std::vector<Part> Corpus::base_part() const { return {{domains[0].name, &domains[0].text, &splits[0], tasks()[0]}}; }

std::vector<Part> Corpus::task_parts(std::size_t count) const {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < count; ++i) {
    parts.push_back({tasks().at(i).name, &domains[0].text, &splits[0], tasks()[i]});
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

Eigen::MatrixXd chunk_features(const std::vector<Part>& parts, std::uint64_t seed) {
  std::vector<std::string> texts;
  for (const Part& part : parts) {
    texts.push_back(*part.text);
    for (char& c : texts.back()) c = static_cast<char>(part.task.apply(static_cast<unsigned char>(c)));
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  return ngram_features(views, /*chunks=*/600, /*chunk_bytes=*/1024, /*dimensions=*/256, seed);
}

}  // namespace finetune
