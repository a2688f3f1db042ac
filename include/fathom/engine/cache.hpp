// The paged caches of a batch of sequences: latent keys and values for attention, keys for the indexer.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fathom/core/buffer.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// How keys and values are kept: fp8 is the 656-byte entry of mla_cache_store.
enum class KvFormat : std::uint8_t { fp8, bf16, f32 };
std::string_view to_string(KvFormat format);
bool parse_enum(std::string_view text, KvFormat& format);

/// Tokens of one page, in every cache.
inline constexpr std::int64_t kPageTokens = 64;

struct CacheShape {
  std::int64_t layers = 1;  // the MTP layer included
  std::int64_t lora = 512;
  std::int64_t rope_dim = 64;
  std::int64_t index_dim = 128;
  KvFormat kv = KvFormat::fp8;
  bool index_fp8 = true;  // 132 bytes a key; otherwise f32

  std::int64_t kv_bytes_per_token() const;     // of one layer
  std::int64_t index_bytes_per_token() const;  // of one layer
  std::int64_t bytes_per_token() const { return layers * (kv_bytes_per_token() + index_bytes_per_token()); }
  bool operator==(const CacheShape&) const = default;
};

/// Hands out pages 0 .. pages - 1, the one freed last first.
class PageAllocator {
 public:
  explicit PageAllocator(std::int64_t pages);
  /// Throws EnvironmentError if every page is in use.
  std::int32_t allocate();
  /// Throws InvalidArgument if the page is not in use.
  void free(std::int32_t page);
  std::int64_t pages() const { return static_cast<std::int64_t>(used_.size()); }
  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }

 private:
  std::vector<std::int32_t> free_;  // a stack
  std::vector<bool> used_;
};

using SequenceId = std::int32_t;

/// Several sequences share the pages; all layers share one page table. A token's slot is its page times 64
/// plus its offset; positions beyond a sequence's length are never visible to anyone.
class KvCache {
 public:
  /// Throws EnvironmentError if the memory cannot be had. Memory is touched only when pages are first
  /// written.
  KvCache(const CacheShape& shape, std::int64_t pages);

  const CacheShape& shape() const { return shape_; }
  std::int64_t bytes() const { return allocator_.pages() * kPageTokens * shape_.bytes_per_token(); }
  std::int64_t free_pages() const { return allocator_.free_pages(); }

  SequenceId add_sequence();
  void remove_sequence(SequenceId sequence);
  /// Tokens whose entries are valid: committed with set_length.
  std::int64_t length(SequenceId sequence) const;
  /// Makes sure that positions [0, tokens) have pages. Throws EnvironmentError, changing nothing, if there
  /// are not enough.
  void reserve(SequenceId sequence, std::int64_t tokens);
  /// Declares positions [0, tokens) valid and frees the pages that hold none of them.
  void set_length(SequenceId sequence, std::int64_t tokens);
  /// The pages of positions 0, 64, 128, ...
  std::span<const std::int32_t> pages(SequenceId sequence) const;

  TensorView kv(std::int64_t layer) const;          // [slots, width]
  TensorView index_keys(std::int64_t layer) const;  // [pages, 8448] u8 or [pages, 64, index_dim] f32

 private:
  struct Sequence {
    bool used = false;
    std::int64_t length = 0;
    std::vector<std::int32_t> pages;
  };
  const Sequence& at(SequenceId sequence) const;
  Sequence& at(SequenceId sequence);

  CacheShape shape_;
  PageAllocator allocator_;
  std::vector<Sequence> sequences_;
  std::vector<Buffer> kv_;     // one for each layer
  std::vector<Buffer> index_;  // one for each layer
};

}  // namespace fathom
