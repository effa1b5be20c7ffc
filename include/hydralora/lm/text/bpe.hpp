// SPDX-License-Identifier: MIT
// Byte pair encoding: the vocabulary, the merges, and how a piece of text becomes tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydralora/lm/text/section.hpp"
#include "hydralora/lm/text/unicode.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

/// A token of a piece and how many bytes of the piece it covers.
struct PieceToken {
  int id;
  std::size_t bytes;
};

class BytePairEncoding {
 public:
  /// Reads the key "model".
  /// @throws FileError  if it is not BPE, has a setting that is not supported, or a merge without its tokens.
  explicit BytePairEncoding(const Section& model) {
    if (!model.has("type") && !model.has("merges")) model.refuse("has neither a type nor merges, expected BPE");
    if (model.has("type")) model["type"].choice({"BPE"});
    if (!model["dropout"].is_nothing() && model["dropout"].number() != 0) model["dropout"].refuse("is not 0 or null");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!model[key].is_nothing() && !model[key].text().empty()) model[key].refuse("is not empty or null");
    }
    fuses_unknown_ = model["fuse_unk"].flag(false);
    ignores_merges_ = model["ignore_merges"].flag(false);
    const Section vocabulary = model["vocab"];
    for (const auto& [token, id] : vocabulary.members()) {
      const int value = Section(model.file(), vocabulary.place() + "." + in_quotes(token), id).integer();
      if (!tokens_.emplace(value, token).second) vocabulary.refuse("gives two tokens the id " + std::to_string(value));
      ids_.emplace(token, value);
    }
    if (!model["unk_token"].is_nothing()) {
      unknown_ = id_of(model["unk_token"].text());
      if (unknown_ < 0) model["unk_token"].refuse(in_quotes(model["unk_token"].text()) + " is not in the vocabulary");
    }
    byte_ids_.fill(-1);
    for (std::size_t byte = 0; model["byte_fallback"].flag(false) && byte < 256; ++byte) {
      constexpr const char* digits = "0123456789ABCDEF";
      byte_ids_[byte] = id_of(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">");
    }
    read_merges(model["merges"]);
  }

  const std::unordered_map<int, std::string>& tokens() const { return tokens_; }
  /// -1 where there is none.
  int id_of(const std::string& token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }

  /// The tokens of a piece of valid UTF-8. A character that is not in the vocabulary becomes its bytes, or the unknown
  /// token, or vanishes where there is none. Cost: n log n for n characters.
  std::vector<PieceToken> encode(const std::string& piece) const {
    if (ignores_merges_) {
      const int id = id_of(piece);
      if (id >= 0) return {{id, piece.size()}};
    }
    std::vector<Symbol> symbols = characters(piece);
    merge(symbols);
    std::vector<PieceToken> result;
    for (const Symbol& symbol : symbols) {
      if (symbol.bytes > 0) result.push_back({symbol.id, symbol.bytes});
    }
    return result;
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct Symbol {
    int id;
    std::size_t bytes;  // 0: merged into the one before
    std::size_t previous = none, next = none;
  };
  struct Merge {
    std::size_t rank;
    int id;
  };
  static std::uint64_t pair_key(int left, int right) {
    return (static_cast<std::uint64_t>(left) << 32U) | static_cast<std::uint64_t>(right);
  }
  const Merge* find_merge(int left, int right) const {
    const auto found = merges_.find(pair_key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }

  void read_merges(const Section& merges) {
    std::size_t rank = 0;
    for (const Section& merge : merges.list()) {
      std::string left, right;
      if (merge.is_text()) {
        if (merge.text().rfind("#version", 0) == 0) continue;
        const std::size_t space = merge.text().find(' ');
        if (space == std::string::npos || merge.text().find(' ', space + 1) != std::string::npos) {
          merge.refuse(in_quotes(merge.text()) + " is not two tokens with a space between them");
        }
        left = merge.text().substr(0, space);
        right = merge.text().substr(space + 1);
      } else {
        const std::vector<Section> pair = merge.list();
        if (pair.size() != 2) merge.refuse("is not a pair of tokens");
        left = pair[0].text();
        right = pair[1].text();
      }
      for (const std::string& token : {left, right, left + right}) {
        if (id_of(token) < 0) merge.refuse("needs the token " + in_quotes(token) + ", which is not in the vocabulary");
      }
      merges_[pair_key(id_of(left), id_of(right))] = {rank++, id_of(left + right)};
    }
  }

  std::vector<Symbol> characters(const std::string& piece) const {
    std::vector<Symbol> symbols;
    std::size_t unknown_bytes = 0;  // of the unknown token that is not yet in the list
    const auto add_unknown = [&] {
      if (unknown_bytes > 0) symbols.push_back({unknown_, unknown_bytes});
      unknown_bytes = 0;
    };
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t bytes = character_at(piece, at).bytes;
      const std::size_t end = at + bytes;
      const int id = id_of(piece.substr(at, bytes));
      bool has_bytes = id < 0;
      for (std::size_t i = at; has_bytes && i < end; ++i) has_bytes = byte_id(piece[i]) >= 0;
      if (id >= 0) {
        add_unknown();
        symbols.push_back({id, bytes});
      } else if (has_bytes) {
        for (std::size_t i = at; i < end; ++i) symbols.push_back({byte_id(piece[i]), 1});
      } else if (unknown_ >= 0) {
        if (!fuses_unknown_) add_unknown();
        unknown_bytes += bytes;
      }
      at = end;
    }
    add_unknown();
    for (std::size_t i = 1; i < symbols.size(); ++i) {
      symbols[i].previous = i - 1;
      symbols[i - 1].next = i;
    }
    return symbols;
  }

  /// Merges the pair with the lowest rank, the leftmost of equals, until there is none.
  void merge(std::vector<Symbol>& symbols) const {
    using Candidate = std::tuple<std::size_t, std::size_t, int>;  // rank, left symbol, merged token
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
    const auto consider = [&](std::size_t left) {
      if (left == none || symbols[left].next == none) return;
      const Merge* found = find_merge(symbols[left].id, symbols[symbols[left].next].id);
      if (found != nullptr) candidates.emplace(found->rank, left, found->id);
    };
    for (std::size_t i = 0; i < symbols.size(); ++i) consider(i);
    while (!candidates.empty()) {
      const auto [rank, left, id] = candidates.top();
      candidates.pop();
      Symbol& symbol = symbols[left];
      if (symbol.bytes == 0 || symbol.next == none) continue;
      Symbol& other = symbols[symbol.next];
      const Merge* found = find_merge(symbol.id, other.id);
      if (found == nullptr || found->id != id) continue;  // one of the two has been merged since
      symbol.id = id;
      symbol.bytes += other.bytes;
      other.bytes = 0;
      symbol.next = other.next;
      if (other.next != none) symbols[other.next].previous = left;
      consider(symbol.previous);
      consider(left);
    }
  }

  int byte_id(char byte) const { return byte_ids_[static_cast<unsigned char>(byte)]; }

  std::unordered_map<std::string, int> ids_;
  std::unordered_map<int, std::string> tokens_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<int, 256> byte_ids_{};  // -1 without byte_fallback
  int unknown_ = -1;
  bool fuses_unknown_ = false, ignores_merges_ = false;
};

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
