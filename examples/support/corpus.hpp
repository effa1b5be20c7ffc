// SPDX-License-Identifier: MIT
//
// The text side of the example: domains read from files, a split that leaks no context, features by which domains can
// be told apart, and four byte-to-byte tasks. Everything is a pure function of the files and the seed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "hydralora/core/config.hpp"

namespace finetune {

using hydralora::Index;

/// Something is wrong with what the user gave. what() is one line; main prints it and exits with code 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Text is split block by block, so that neighbouring bytes stay on one side.
constexpr std::size_t block_bytes = 2048;

/// One block each for train, validation and test: the least that split_positions() can divide.
constexpr std::size_t minimum_bytes = 3 * block_bytes;

struct Domain {
  std::string name;
  std::string text;    ///< the bytes of all its files, one after another in the byte order of their paths
  std::size_t files;   ///< how many files the text was taken from
  std::string origin;  ///< where it came from, for a person to read
};

/// Reads the domain NAME=PATH. PATH is a file, a folder (every regular file below it; links to files are followed,
/// links to folders are not) or a glob(3) pattern of files and folders. Files with a NUL byte are binary and skipped.
///
/// If there are more than max_bytes, an even sample is taken: files are visited in van der Corput order of their sorted
/// list (first, middle, quarters, eighths, …), whole, until the budget is full; the last one visited is cut.
///
/// @throws InputError  naming spec, path and reason: not NAME=PATH, nothing there, unreadable, less than minimum_bytes.
Domain load_domain(const std::string& spec, std::size_t max_bytes);

/// Real text that Linux development machines have (licences, c, cpp, cmake, perl, copyright), sampled as in
/// load_domain(), each content taken once per domain. What is missing, unreadable or smaller than minimum_bytes is left
/// out without a word.
std::vector<Domain> system_domains(std::size_t max_bytes_each);

/// tasks: one text under several instructions that contradict each other. domains: several texts under one instruction.
enum class MixtureKind { tasks, domains };

struct TextOptions {
  std::string base;                  ///< NAME=PATH; empty: text of this machine
  std::vector<std::string> domains;  ///< NAME=PATH each
  std::size_t max_bytes = std::size_t{1} << 20U;
};

/// [0] is what the base is pretrained on. @throws InputError
std::vector<Domain> load_texts(MixtureKind kind, const TextOptions& options);

/// "5.1 KiB"
std::string size_text(std::size_t bytes);

/// Positions p of bytes to be predicted from the `context` bytes before them.
struct Split {
  std::vector<std::uint32_t> train, validation, test;  ///< each ascending and never empty
};

/// Every block of block_bytes goes to train, validation or test, 8 : 1 : 1 by a random draw; a part left empty then
/// gets the last block of the largest part. [p - context, p] lies in one block, so no two parts share a byte.
///
/// @throws std::invalid_argument  unless minimum_bytes ≤ text.size() < 2^32 and 0 ≤ context < block_bytes.
Split split_positions(const std::string& text, int context, std::uint64_t seed);

/// Byte n-gram features of random chunks:  f = sqrt(c) / |sqrt(c)|,  where c counts the chunk's single bytes and byte
/// pairs, each hashed into one of `dimensions` buckets. The product of two columns is their Bhattacharyya coefficient.
/// @return (dimensions × chunks); column i is a chunk of text i mod their number.
/// @throws std::invalid_argument  on a size below one, no text, or a text shorter than a chunk.
Eigen::MatrixXd ngram_features(const std::string& text, Index chunks, Index chunk_bytes, Index dimensions,
                               std::uint64_t seed);
Eigen::MatrixXd ngram_features(const std::vector<std::string_view>& texts, Index chunks, Index chunk_bytes,
                               Index dimensions, std::uint64_t seed);

/// A task rewrites text byte by byte. Its marker is a control character that text files do not use.
struct Task {
  const char* name;
  unsigned char marker;
  std::function<unsigned char(unsigned char)> apply;
};

/// plain, upper, rot13, mirror; for mixtures of more tasks also rot6, rot20, swap (of case), vowels.
const std::array<Task, 8>& tasks();

/// One task or domain. Text and split must outlive it.
struct Part {
  std::string name;
  const std::string* text;
  const Split* split;
  Task task;
};

/// The texts of a run, and how they are split.
struct Corpus {
  Corpus(std::vector<Domain> texts, Index context, std::uint64_t seed);

  std::vector<Domain> domains;  ///< [0] is what the base is pretrained on
  std::vector<Split> splits;

  std::vector<Part> base_part() const;                    ///< the base's text as it is
  std::vector<Part> task_parts(std::size_t count) const;  ///< the base's text under the first tasks
  std::vector<Part> domain_parts() const;                 ///< the other texts as they are
  std::vector<Part> parts(MixtureKind kind) const {
    return kind == MixtureKind::tasks ? task_parts(4) : domain_parts();
  }
};

/// Byte n-grams of random chunks of what is to be predicted, for choosing the number of heads.
Eigen::MatrixXd chunk_features(const std::vector<Part>& parts, std::uint64_t seed);

inline constexpr Index most_heads_from_data = 8;

}  // namespace finetune
