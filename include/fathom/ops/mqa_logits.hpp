// Scores of the indexer over a ragged batch: prefill.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct MqaLogitsProblem {
  static constexpr std::string_view op = "mqa_logits";
  std::int64_t tokens = 1;
  std::int64_t keys = 4096;
  std::int64_t heads = 64;
  std::int64_t head_dim = 128;
  DType q = DType::f8e4m3;
  bool aligned = true;  // to 16 bytes, on a device; no part of the problem string

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("keys", keys);
    visit("heads", heads);
    visit("head_dim", head_dim);
    visit("q", q);
  }
  bool operator==(const MqaLogitsProblem&) const = default;
};

struct MqaLogitsArgs {
  TensorView q;        // [tokens, heads, head_dim]
  TensorView k;        // [keys, head_dim]
  TensorView k_scale;  // [keys], f8e4m3 only
  TensorView weights;  // [tokens, heads]
  TensorView first;    // [tokens]
  TensorView last;     // [tokens]
  TensorView logits;   // [tokens, keys], written
};

/// Scores every query token against a window of keys (the lightning indexer).
///
///   logits[t, j] = k_scale[j] * sum_h weights[t, h] * max(0, dot(q[t, h, :], k[j, :]))  for first[t] <= j <
///   last[t] logits[t, j] = -infinity                                                            elsewhere
///
///   q        [tokens, heads, head_dim]  f8e4m3 or f32; any number of heads
///   k        [keys, head_dim]           as q
///   k_scale  [keys]                     f32, contiguous; with f32 keys not given (1)
///   weights  [tokens, heads]            f32; they carry the scale of q
///   first    [tokens]                   i32, inclusive; negative counts as 0
///   last     [tokens]                   i32, exclusive; more than `keys` counts as `keys`
///   logits   [tokens, keys]             f32
///
/// Heads are summed in f32 in a fixed order, ascending but for the tensor cores of a GPU. A score depends on
/// its query and its key alone and has the same bytes in paged_mqa_logits by the same implementation. Keys
/// outside of every window are never read. Throws InvalidArgument if a shape or dtype differs.
void mqa_logits(const MqaLogitsArgs& args, const Context& context);

}  // namespace fathom
