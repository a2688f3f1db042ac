// Writes the indexer's keys into their paged cache.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// The cache of index keys: pages of 16, 32, 64 or 128 tokens. A u8 page holds the tokens' keys of 32, 64 or
/// 128 e4m3 values, then their f32 scales: token o of a page has its key at byte dim * o and its scale at
/// byte page * dim + 4 * o. These are the model's.
inline constexpr std::int64_t kIndexKeyPageTokens = 64;
inline constexpr std::int64_t kIndexKeyDim = 128;
inline constexpr std::int64_t kIndexKeyPageBytes = kIndexKeyPageTokens * (kIndexKeyDim + 4);

struct IndexKeyStoreProblem {
  static constexpr std::string_view op = "index_key_store";
  std::int64_t tokens = 1;
  std::int64_t dim = kIndexKeyDim;
  DType k = DType::f32;
  DType slots = DType::i32;
  DType cache = DType::u8;
  bool ue8m0 = false;
  std::int64_t page = kIndexKeyPageTokens;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("dim", dim);
    visit("k", k);
    visit("slots", slots);
    visit("cache", cache);
    visit("ue8m0", ue8m0);
    visit("page", page);
  }
  bool operator==(const IndexKeyStoreProblem&) const = default;
};

struct IndexKeyStoreArgs {
  TensorView k;        // [tokens, dim]
  TensorView slots;    // [tokens]
  TensorView cache;    // [pages, page * (dim + 4)] u8 or [pages, page, dim] f32, written
  bool ue8m0 = false;  // the checkpoint's scale_fmt is "ue8m0": scales are powers of two
};

/// Stores the index key of every token at its slot: page slot / page, entry slot % page.
///
///   k      [tokens, dim]               f32 or bf16; dim is 32, 64 or 128 with a u8 cache
///   slots  [tokens]                    i32 or i64; -1 skips the token; a slot may not appear twice
///   cache  [pages, page * (dim + 4)]   u8, laid out as above; or
///          [pages, page, dim]          f32, the keys as they are; page is 16, 32, 64 or 128
///
/// A u8 entry is, with amax = max(1e-4, largest magnitude of the key),
///   scale = amax / 448, with ue8m0 rounded up to a power of two, and q = e4m3(x / scale), to nearest even,
/// saturating. Pages may be strided.
///
/// Throws InvalidArgument if a shape or dtype differs, ue8m0 is asked of an f32 cache, or a slot lies outside
/// of the cache; nothing is written then. On a device, where slots are not looked at, such a token is
/// skipped.
void index_key_store(const IndexKeyStoreArgs& args, const Context& context);

}  // namespace fathom
