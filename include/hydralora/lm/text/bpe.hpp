// SPDX-License-Identifier: MIT
// Byte pair encoding: the vocabulary, the merges, and how a piece of text becomes tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydralora/lm/text/aligned_text.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm::detail {

class BytePairEncoding {
 public:
  /// A token of a piece of text. While tokens are merged, they are a list.
  struct Symbol {
    int id;
    std::size_t bytes;  // that it covers; 0: it has been merged into the one before
    std::size_t previous = none, next = none;
  };

  /// Reads the key "model".
  /// @throws FileError  if it is not BPE, has a setting that is not supported, or a merge without its tokens.
  explicit BytePairEncoding(const Section& model) {
    if (model.has("type") || !model.has("merges")) model["type"].choice({"BPE"});
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const Section setting = model[key];
      setting.require(setting.is_nothing() || setting.json() == 0 || setting.json() == "", "null");
    }
    falls_back_ = model["byte_fallback"].flag(false);
    fuses_unknown_ = model["fuse_unk"].flag(false);
    ignores_merges_ = model["ignore_merges"].flag(false);
    const Section vocabulary = model["vocab"];
    vocabulary.require(vocabulary.json().is_object(), "an object");
    for (const auto& [token, id] : vocabulary.json().items()) {
      const int value = Section(model.file(), vocabulary.place() + "." + in_quotes(token), id).integer();
      if (!tokens_.emplace(value, token).second) vocabulary.refuse("gives two tokens the id " + std::to_string(value));
      ids_.emplace(token, value);
    }
    if (const Section unknown = model["unk_token"]; !unknown.is_nothing()) {
      unknown_ = id_of(unknown.text());
      if (unknown_ < 0) unknown.refuse(in_quotes(unknown.text()) + " is not in the vocabulary");
    }
    read_merges(model["merges"]);
  }

  const std::unordered_map<int, std::string>& tokens() const { return tokens_; }
  /// -1 where there is none.
  int id_of(const std::string& token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }

  /// The tokens of a piece of valid UTF-8; those without bytes do not count. A character that is not in the vocabulary
  /// becomes its bytes, or the unknown token, or vanishes where there is none. Cost: n log n for n characters.
  std::vector<Symbol> encode(const std::string& piece) const {
    if (ignores_merges_) {
      const int id = id_of(piece);
      if (id >= 0) return {{id, piece.size()}};
    }
    std::vector<Symbol> symbols = characters(piece);
    merge(symbols);
    return symbols;
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  using Merge = std::pair<std::size_t, int>;  // its rank, the merged token
  static std::uint64_t pair_key(int left, int right) {
    return (static_cast<std::uint64_t>(left) << 32U) | static_cast<std::uint64_t>(right);
  }

  void read_merges(const Section& merges) {
    std::size_t rank = 0;
    for (const Section& merge : merges.list()) {
      std::vector<std::string> pair;
      if (merge.json().is_string()) {
        if (merge.text().rfind("#version", 0) == 0) continue;
        const std::size_t space = merge.text().find(' ');
        if (space != std::string::npos && space == merge.text().rfind(' ')) {
          pair = {merge.text().substr(0, space), merge.text().substr(space + 1)};
        }
      } else {
        for (const Section& token : merge.list()) pair.push_back(token.text());
      }
      merge.require(pair.size() == 2, "two tokens with a space between them");
      const std::string &left = pair[0], &right = pair[1];
      for (const std::string& token : {left, right, left + right}) {
        if (id_of(token) < 0) merge.refuse("needs the token " + in_quotes(token) + ", which is not in the vocabulary");
      }
      merges_[pair_key(id_of(left), id_of(right))] = {rank++, id_of(left + right)};
    }
  }

  /// The characters of a piece as tokens.
  std::vector<Symbol> characters(const std::string& piece) const {
    std::vector<Symbol> symbols;
    std::size_t unknown_bytes = 0;  // of the unknown token that is not yet in the list
    const auto add_unknown = [&] {
      if (unknown_bytes > 0) symbols.push_back({unknown_, unknown_bytes});
      unknown_bytes = 0;
    };
    for (std::size_t at = 0, end = 0; at < piece.size(); at = end) {
      end = at + character_at(piece, at).bytes;
      const int id = id_of(piece.substr(at, end - at));
      const auto has_byte = [&](char byte) { return byte_id(byte) >= 0; };
      if (id >= 0) {
        add_unknown();
        symbols.push_back({id, end - at});
      } else if (falls_back_ && std::all_of(&piece[at], &piece[end], has_byte)) {
        for (std::size_t i = at; i < end; ++i) symbols.push_back({byte_id(piece[i]), 1});
      } else if (unknown_ >= 0) {
        if (!fuses_unknown_) add_unknown();
        unknown_bytes += end - at;
      }
    }
    add_unknown();
    return symbols;
  }

  /// Merges the pair with the lowest rank, the leftmost of equals, until there is none.
  void merge(std::vector<Symbol>& symbols) const {
    using Candidate = std::tuple<std::size_t, std::size_t, int>;  // rank, left symbol, merged token
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
    const auto merge_at = [&](std::size_t left) {
      const std::size_t right = left == none ? none : symbols[left].next;
      if (right == none) return merges_.end();
      return merges_.find(pair_key(symbols[left].id, symbols[right].id));
    };
    const auto consider = [&](std::size_t left) {
      const auto found = merge_at(left);
      if (found != merges_.end()) candidates.emplace(found->second.first, left, found->second.second);
    };
    for (std::size_t i = 1; i < symbols.size(); ++i) {
      symbols[i].previous = i - 1;
      symbols[i - 1].next = i;
      consider(i - 1);
    }
    while (!candidates.empty()) {
      const auto [rank, left, id] = candidates.top();
      candidates.pop();
      const auto found = merge_at(left);
      if (symbols[left].bytes == 0 || found == merges_.end() || found->second.second != id) continue;  // merged since
      Symbol &symbol = symbols[left], &other = symbols[symbol.next];
      symbol.id = id;
      symbol.bytes += other.bytes;
      other.bytes = 0;
      symbol.next = other.next;
      if (other.next != none) symbols[other.next].previous = left;
      consider(symbol.previous);
      consider(left);
    }
  }

  /// The id of <0x0A>, for example; -1 where there is none.
  int byte_id(char byte) const {
    constexpr const char* digits = "0123456789ABCDEF";
    const auto value = static_cast<unsigned char>(byte);
    return id_of(std::string("<0x") + digits[value / 16] + digits[value % 16] + ">");
  }

  std::unordered_map<std::string, int> ids_;
  std::unordered_map<int, std::string> tokens_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  int unknown_ = -1;
  bool falls_back_ = false, fuses_unknown_ = false, ignores_merges_ = false;
};

}  // namespace lm::detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
