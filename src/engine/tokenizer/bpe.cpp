#include "engine/tokenizer/bpe.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace fathom::text {
namespace {

constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kShortPiece = 48;   // up to here a scan for the lowest rank beats a queue
constexpr std::size_t kCachedPiece = 64;  // longer pieces hardly repeat
constexpr std::size_t kCachedPieces = 1 << 16;

// The lowest rank first, the leftmost among equals; scans all pairs for each merge.
void merge_short(const MergeTable& merges, std::int32_t* tokens, std::size_t& count) {
  Merge next[kShortPiece];  // of token i with token i + 1
  const auto look = [&](std::size_t i) {
    const Merge* merge = i + 1 < count ? merges.find(tokens[i], tokens[i + 1]) : nullptr;
    next[i] = merge != nullptr ? *merge : Merge{kNever, -1};
  };
  for (std::size_t i = 0; i < count; ++i) look(i);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (next[i].rank < next[best].rank) best = i;
    }
    if (next[best].rank == kNever) break;
    tokens[best] = next[best].token;
    std::copy(tokens + best + 2, tokens + count, tokens + best + 1);
    std::copy(next + best + 2, next + count, next + best + 1);
    --count;
    look(best);
    if (best > 0) look(best - 1);
  }
}

// The same order with a linked list and a queue of (rank, place). An entry is stale if the pair at its place
// has changed since.
void merge_long(const MergeTable& merges, std::vector<std::int32_t>& tokens, std::size_t begin) {
  struct Symbol {
    std::int32_t token;
    std::int32_t left, right;  // places of the neighbours, -1 at the ends
    std::uint32_t rank;        // of the merge with the right neighbour
    std::int32_t merged;       // and what it gives
  };
  const auto count = static_cast<std::int32_t>(tokens.size() - begin);
  std::vector<Symbol> symbols(static_cast<std::size_t>(count));
  const auto symbol = [&](std::int32_t place) -> Symbol& { return symbols[static_cast<std::size_t>(place)]; };
  std::vector<std::uint64_t> queue;
  const auto look = [&](std::int32_t place) {
    Symbol& here = symbol(place);
    const Merge* merge = here.right >= 0 ? merges.find(here.token, symbol(here.right).token) : nullptr;
    here.rank = merge != nullptr ? merge->rank : kNever;
    here.merged = merge != nullptr ? merge->token : -1;
    if (merge == nullptr) return false;
    queue.push_back(std::uint64_t{here.rank} << 32 | static_cast<std::uint32_t>(place));
    return true;
  };
  for (std::int32_t i = 0; i < count; ++i) {
    symbol(i) = {tokens[begin + static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1, kNever, -1};
  }
  for (std::int32_t i = 0; i < count; ++i) look(i);
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const auto rank = static_cast<std::uint32_t>(queue.back() >> 32);
    const auto place = static_cast<std::int32_t>(queue.back() & 0xffffffffu);
    queue.pop_back();
    Symbol& here = symbol(place);
    if (here.rank != rank) continue;
    Symbol& gone = symbol(here.right);
    here.token = here.merged;
    here.right = gone.right;
    gone.rank = kNever;
    if (here.right >= 0) symbol(here.right).left = place;
    if (look(place)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
    if (here.left >= 0 && look(here.left)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
  }
  tokens.resize(begin);
  for (std::int32_t i = 0; i >= 0; i = symbol(i).right) tokens.push_back(symbol(i).token);
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(std::size_t expected) : slots_(std::bit_ceil(expected * 2 + 2)) {
  shift_ = 64 - std::countr_zero(slots_.size());
}

void MergeTable::insert(std::int32_t left, std::int32_t right, Merge merge) {
  if (used_ * 2 >= slots_.size()) grow();
  const std::uint64_t pair = pair_key(left, right);
  for (std::size_t i = start(pair);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].pair != pair && slots_[i].pair != kEmpty) continue;
    used_ += slots_[i].pair == kEmpty;
    slots_[i] = {pair, merge};
    return;
  }
}

const Merge* MergeTable::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_key(left, right);
  for (std::size_t i = start(pair);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].pair == pair) return &slots_[i].merge;
    if (slots_[i].pair == kEmpty) return nullptr;
  }
}

void MergeTable::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  shift_ -= 1;
  used_ = 0;
  for (const Slot& slot : old) {
    if (slot.pair != kEmpty) {
      insert(static_cast<std::int32_t>(slot.pair >> 32), static_cast<std::int32_t>(slot.pair & 0xffffffffu),
             slot.merge);
    }
  }
}

bool PieceCache::find(std::string_view piece, std::vector<std::int32_t>& out) const {
  const auto found = pieces_.find(piece);
  if (found == pieces_.end()) return false;
  const auto begin = tokens_.begin() + static_cast<std::ptrdiff_t>(found->second.begin);
  out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(found->second.count));
  return true;
}

void PieceCache::insert(std::string_view piece, const std::int32_t* tokens, std::size_t count) {
  if (pieces_.size() >= kCachedPieces) return;
  pieces_.emplace(piece, Range{tokens_.size(), count});
  tokens_.insert(tokens_.end(), tokens, tokens + count);
}

void Bpe::encode(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& out) const {
  if (piece.size() == 1 && byte_tokens[static_cast<std::uint8_t>(piece[0])] >= 0) {
    out.push_back(byte_tokens[static_cast<std::uint8_t>(piece[0])]);
    return;
  }
  if (!whole_pieces.empty()) {
    if (const auto found = whole_pieces.find(piece)) {
      out.push_back(*found);
      return;
    }
  }
  if (piece.size() > kCachedPiece) return encode_bytes(piece, out);
  if (cache.find(piece, out)) return;
  const std::size_t begin = out.size();
  encode_bytes(piece, out);
  cache.insert(piece, out.data() + begin, out.size() - begin);
}

void Bpe::encode_bytes(std::string_view piece, std::vector<std::int32_t>& out) const {
  const std::size_t begin = out.size();
  bool after_unknown = false;
  for (const char c : piece) {
    const std::int32_t token = byte_tokens[static_cast<std::uint8_t>(c)];
    if (token < 0 && (!unknown || (fuse_unknown && after_unknown))) continue;
    after_unknown = token < 0;
    out.push_back(after_unknown ? *unknown : token);
  }
  std::size_t count = out.size() - begin;
  if (count > kShortPiece) return merge_long(merges, out, begin);
  merge_short(merges, out.data() + begin, count);
  out.resize(begin + count);
}

}  // namespace fathom::text
