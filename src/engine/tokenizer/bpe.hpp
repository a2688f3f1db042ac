// Byte-pair encoding: the merges of a vocabulary applied to the bytes of one piece of text.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/tokenizer/token_table.hpp"

namespace fathom::text {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <class T>
using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

/// What a pair of neighbouring tokens becomes, and how early (a lower rank goes first).
struct Merge {
  std::uint32_t rank;
  std::int32_t token;
};

/// Pairs of tokens to merges: open addressing, as this is the inner loop of encoding.
class MergeTable {
 public:
  explicit MergeTable(std::size_t expected);
  /// A later merge of the same pair replaces the earlier one.
  void insert(std::int32_t left, std::int32_t right, Merge merge);
  const Merge* find(std::int32_t left, std::int32_t right) const;

 private:
  struct Slot {
    std::uint64_t pair = kEmpty;
    Merge merge{};
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  std::size_t start(std::uint64_t pair) const { return (pair * 0x9e3779b97f4a7c15u) >> shift_; }
  void grow();

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
  int shift_;
};

/// The tokens of pieces already seen during one encode() call: words repeat.
class PieceCache {
 public:
  /// Appends the piece's tokens to `out`; false if it is not known.
  bool find(std::string_view piece, std::vector<std::int32_t>& out) const;
  void insert(std::string_view piece, const std::int32_t* tokens, std::size_t count);

 private:
  struct Range {
    std::size_t begin;
    std::size_t count;
  };
  StringMap<Range> pieces_;
  std::vector<std::int32_t> tokens_;
};

struct Bpe {
  std::array<std::int32_t, 256> byte_tokens;  // -1: the byte has no token of its own
  MergeTable merges{0};
  std::optional<std::int32_t> unknown;  // what such a byte gives; without one it cannot occur
  bool fuse_unknown = false;            // neighbouring unknowns become one
  TokenTable whole_pieces;              // pieces that are tokens at once (ignore_merges)

  /// Appends the tokens of one piece. Time grows as n log n with its length.
  void encode(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& out) const;

 private:
  void encode_bytes(std::string_view piece, std::vector<std::int32_t>& out) const;
};

}  // namespace fathom::text
