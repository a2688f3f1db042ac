// From the projections of latent attention (MLA) to its cache and its rotated queries, in one step.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/rope.hpp"

namespace fathom {

struct MlaPrepareProblem {
  static constexpr std::string_view op = "mla_prepare";
  std::int64_t tokens = 1;
  std::int64_t lora = 512;
  std::int64_t rope_dim = 64;
  std::int64_t heads = 128;  // of q; 0: no queries
  RopeStyle style = RopeStyle::interleaved;
  DType kv = DType::f32;  // of latent and rope
  DType weight = DType::bf16;
  DType slots = DType::i32;
  DType cache = DType::u8;
  DType q = DType::f32;
  DType q_out = DType::bf16;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("lora", lora);
    visit("rope_dim", rope_dim);
    visit("heads", heads);
    visit("style", style);
    visit("kv", kv);
    visit("weight", weight);
    visit("slots", slots);
    visit("cache", cache);
    visit("q", q);
    visit("q_out", q_out);
  }
  bool operator==(const MlaPrepareProblem&) const = default;
};

struct MlaPrepareArgs {
  TensorView latent;     // [tokens, lora]
  TensorView rope;       // [tokens, rope_dim]
  TensorView weight;     // [lora]
  TensorView positions;  // [tokens]
  TensorView cos_sin;    // [max_positions, rope_dim]
  TensorView slots;      // [tokens]
  TensorView cache;      // as mla_cache_store's, written
  TensorView q;          // [tokens, heads, rope_dim], optional
  TensorView q_out;      // [tokens, heads, rope_dim], given with q, written
  RopeStyle style = RopeStyle::interleaved;
  float epsilon = 1e-6f;
};

/// Normalises the latent, rotates the key and stores both; rotates what queries have of it:
///
///   mla_cache_store(rms_norm(latent), rope(rope))   with the bytes of these ops, f32 between them
///   q_out = rope(q)
///
///   latent     [tokens, lora]             f32 or bf16; what the projection gave, not written
///   rope       [tokens, rope_dim]         the dtype of latent; not written
///   weight     [lora]                     f32 or bf16; of the norm
///   positions  [tokens]                   i32 or i64, within the table
///   cos_sin    [max_positions, rope_dim]  f32, see rope
///   slots      [tokens]                   i32 or i64; -1 skips the token; a slot may not appear twice
///   cache      as in mla_cache_store
///   q          [tokens, heads, rope_dim]  f32 or bf16; any strides but 1 on the last axis, so that it may be
///   a part
///                                         of whole heads
///   q_out      [tokens, heads, rope_dim]  f32 or bf16, likewise; may be q itself if the dtypes agree
///
/// A token's bytes depend neither on the other tokens nor on the threads. Throws InvalidArgument where one of
/// the ops would; nothing is written then. On a device a token is skipped whose slot is not in the cache, and
/// one whose position is not in the table is not rotated.
void mla_prepare(const MlaPrepareArgs& args, const Context& context);

}  // namespace fathom
