#include "fathom/engine/cache.hpp"

#include <algorithm>

#include "fathom/core/error.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/mla_cache_store.hpp"

namespace fathom {
namespace {
std::int64_t pages_of(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
}  // namespace

std::string_view to_string(KvFormat format) {
  switch (format) {
    case KvFormat::fp8:
      return "fp8";
    case KvFormat::bf16:
      return "bf16";
    case KvFormat::f32:
      return "f32";
  }
  __builtin_unreachable();
}

bool parse_enum(std::string_view text, KvFormat& format) {
  for (const KvFormat candidate : {KvFormat::fp8, KvFormat::bf16, KvFormat::f32}) {
    if (text != to_string(candidate)) continue;
    format = candidate;
    return true;
  }
  return false;
}

std::int64_t CacheShape::kv_bytes_per_token() const {
  if (kv == KvFormat::fp8) return mla_cache_entry_bytes(lora, rope_dim);
  return (lora + rope_dim) * (kv == KvFormat::bf16 ? 2 : 4);
}

std::int64_t CacheShape::index_bytes_per_token() const {
  return index_fp8 ? kIndexKeyPageBytes / kIndexKeyPageTokens : index_dim * 4;
}

PageAllocator::PageAllocator(std::int64_t pages) : used_(static_cast<std::size_t>(pages), false) {
  free_.reserve(used_.size());
  for (std::int64_t page = pages; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
}

std::int32_t PageAllocator::allocate() {
  if (free_.empty())
    throw EnvironmentError("cache: all " + std::to_string(pages()) + " pages of 64 tokens are in use");
  const std::int32_t page = free_.back();
  free_.pop_back();
  used_[static_cast<std::size_t>(page)] = true;
  return page;
}

void PageAllocator::free(std::int32_t page) {
  if (page < 0 || page >= pages() || !used_[static_cast<std::size_t>(page)])
    throw InvalidArgument("cache: page " + std::to_string(page) + " is not in use");
  used_[static_cast<std::size_t>(page)] = false;
  free_.push_back(page);
}

KvCache::KvCache(const CacheShape& shape, std::int64_t pages) : shape_(shape), allocator_(pages) {
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    kv_.emplace_back(pages * kPageTokens * shape.kv_bytes_per_token());
    index_.emplace_back(pages * kPageTokens * shape.index_bytes_per_token());
  }
}

const KvCache::Sequence& KvCache::at(SequenceId sequence) const {
  const auto index = static_cast<std::size_t>(sequence);
  if (sequence < 0 || index >= sequences_.size() || !sequences_[index].used)
    throw InvalidArgument("cache: there is no sequence " + std::to_string(sequence));
  return sequences_[index];
}

KvCache::Sequence& KvCache::at(SequenceId sequence) {
  return const_cast<Sequence&>(static_cast<const KvCache&>(*this).at(sequence));
}

SequenceId KvCache::add_sequence() {
  auto found = std::find_if(sequences_.begin(), sequences_.end(), [](const Sequence& s) { return !s.used; });
  if (found == sequences_.end()) found = sequences_.emplace(found);
  found->used = true;
  return static_cast<SequenceId>(found - sequences_.begin());
}

void KvCache::remove_sequence(SequenceId sequence) {
  set_length(sequence, 0);
  at(sequence).used = false;
}

std::int64_t KvCache::length(SequenceId sequence) const { return at(sequence).length; }

void KvCache::reserve(SequenceId sequence, std::int64_t tokens) {
  auto& pages = at(sequence).pages;
  const std::int64_t missing = pages_of(tokens) - static_cast<std::int64_t>(pages.size());
  if (missing > free_pages()) {
    throw EnvironmentError("cache: " + std::to_string(missing) + " more pages of 64 tokens are needed, " +
                           std::to_string(free_pages()) + " of " + std::to_string(allocator_.pages()) +
                           " are free");
  }
  for (std::int64_t page = 0; page < missing; ++page) pages.push_back(allocator_.allocate());
}

void KvCache::set_length(SequenceId sequence, std::int64_t tokens) {
  Sequence& entry = at(sequence);
  const auto needed = static_cast<std::size_t>(pages_of(tokens));
  if (tokens < 0 || needed > entry.pages.size()) {
    throw InvalidArgument("cache: length " + std::to_string(tokens) + " needs " + std::to_string(needed) +
                          " pages, sequence " + std::to_string(sequence) + " has " +
                          std::to_string(entry.pages.size()));
  }
  for (; entry.pages.size() > needed; entry.pages.pop_back()) allocator_.free(entry.pages.back());
  entry.length = tokens;
}

std::span<const std::int32_t> KvCache::pages(SequenceId sequence) const { return at(sequence).pages; }

TensorView KvCache::kv(std::int64_t layer) const {
  const Buffer& buffer = kv_[static_cast<std::size_t>(layer)];
  const std::int64_t slots = allocator_.pages() * kPageTokens;
  if (shape_.kv == KvFormat::fp8) return buffer.view(DType::u8, {slots, shape_.kv_bytes_per_token()});
  return buffer.view(shape_.kv == KvFormat::bf16 ? DType::bf16 : DType::f32,
                     {slots, shape_.lora + shape_.rope_dim});
}

TensorView KvCache::index_keys(std::int64_t layer) const {
  const Buffer& buffer = index_[static_cast<std::size_t>(layer)];
  if (shape_.index_fp8) return buffer.view(DType::u8, {allocator_.pages(), kIndexKeyPageBytes});
  return buffer.view(DType::f32, {allocator_.pages(), kPageTokens, shape_.index_dim});
}

}  // namespace fathom
