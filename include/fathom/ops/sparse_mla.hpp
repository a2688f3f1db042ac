// Multi-head latent attention of every token over its own list of cache slots.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct SparseMlaProblem {
  static constexpr std::string_view op = "sparse_mla";
  std::int64_t tokens = 1;
  std::int64_t heads = 128;
  std::int64_t lora = 512;
  std::int64_t rope_dim = 64;
  std::int64_t top_k = 2048;
  DType q = DType::f32;
  DType cache = DType::u8;
  DType out = DType::f32;
  bool decode = false;
  bool aligned = true;  // the cache, to 16 bytes on a device; no part of the problem string

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("heads", heads);
    visit("lora", lora);
    visit("rope_dim", rope_dim);
    visit("top_k", top_k);
    visit("q", q);
    visit("cache", cache);
    visit("out", out);
    visit("decode", decode);
  }
  bool operator==(const SparseMlaProblem&) const = default;
};

struct SparseMlaArgs {
  TensorView q;        // [tokens, heads, lora + rope_dim]
  TensorView cache;    // [slots, width]
  TensorView indices;  // [tokens, top_k]
  float softmax_scale = 0;
  TensorView out;       // [tokens, heads, lora], written
  TensorView lengths;   // [tokens], may be left out, as may
  TensorView sink;      // [heads] and
  TensorView lse;       // [tokens, heads], written
  bool decode = false;  // the class of the call
};

/// Attention in the absorbed form: one key-value vector a slot for all heads.
///
///   score[j]     = softmax_scale * dot(q[t, h, :], kv[j, :])
///   lse[t, h]    = log(sum_j exp(score[j]))
///   out[t, h, :] = sum_j exp(score[j]) * kv[j, :lora] / (exp(sink[h]) + sum_j exp(score[j]))
///
/// over the entries j of indices[t, :lengths[t]] that are not -1, with kv[j] the cache entry at that slot.
///
///   q        [tokens, heads, lora + rope_dim]  f32 or bf16
///   cache    [slots, width]                    f32 or bf16 (width = lora + rope_dim), or u8 as
///                                              mla_cache_store writes it
///   indices  [tokens, top_k]                   i32 slots; -1, anywhere, is no entry; any top_k
///   out      [tokens, heads, lora]             f32 or bf16; `lora` is out's width
///   lengths  [tokens]                          i32, 0 to top_k; left out: top_k each
///   sink     [heads]                           f32, also infinite; left out: -inf, to the same bytes
///   lse      [tokens, heads]                   f32, natural logarithm, without the sink
///
/// On CUDA lora + rope_dim is at most 736.
///
/// A row without any entry gives zeros, and -inf as lse: parts of a list are merged by their lse. A sink of
/// +inf gives zeros. What stands behind a row's length may be anything. With an f32 cache everything is f32;
/// with a bf16 or u8 cache q is rounded to bf16, and the softmax weights may be (relative error 2^-8), on
/// tensor cores of a GPU the dequantised entries as well; sums are f32. Entries are summed in list order in
/// blocks of fixed size, so dense attention is this op over slots in ascending position, and a row's bytes
/// depend on its q and its list of valid entries alone: not on the other rows, on padding or on the thread
/// count. Slots that are not listed are never read. `decode` is for launches of few tokens: a GPU may then
/// sum parts of 384 entries, or 256 with more than 32 heads, apart and join them in order, so the two classes
/// differ in rounding; a Context that is `invariant` runs all calls in the other. Throws InvalidArgument if a
/// shape or dtype differs, softmax_scale is not finite, a length is not in 0 to top_k or an index neither -1
/// nor a slot of the cache; nothing is written then. On a device, where these are not looked at, a length is
/// taken as the nearest of these and such an index is no entry.
void sparse_mla(const SparseMlaArgs& args, const Context& context);

}  // namespace fathom
