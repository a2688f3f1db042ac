// From the indexer's query projection to what scoring reads, in one step.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/rope.hpp"

namespace fathom {

struct IndexQueryPrepareProblem {
  static constexpr std::string_view op = "index_query_prepare";
  std::int64_t tokens = 1;
  std::int64_t heads = 64;
  std::int64_t dim = 128;
  std::int64_t rope_dim = 64;
  std::int64_t offset = 0;
  RopeStyle style = RopeStyle::half_split;
  bool hadamard = true;
  DType q = DType::f32;
  DType out = DType::f8e4m3;
  bool ue8m0 = false;
  bool scale = true;
  bool gate = false;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("heads", heads);
    visit("dim", dim);
    visit("rope_dim", rope_dim);
    visit("offset", offset);
    visit("style", style);
    visit("hadamard", hadamard);
    visit("q", q);
    visit("out", out);
    visit("ue8m0", ue8m0);
    visit("scale", scale);
    visit("gate", gate);
  }
  bool operator==(const IndexQueryPrepareProblem&) const = default;
};

struct IndexQueryPrepareArgs {
  TensorView q;             // [tokens, heads, dim]
  TensorView positions;     // [tokens]
  TensorView cos_sin;       // [max_positions, rope_dim]
  TensorView out;           // [tokens, heads, dim], written
  TensorView scale;         // [tokens, heads], optional, written
  TensorView gate;          // [tokens, heads], optional, multiplied in place
  std::int64_t offset = 0;  // first rotated element of a head
  RopeStyle style = RopeStyle::half_split;
  bool hadamard = true;
  bool ue8m0 = false;
  float softmax_scale = 1;  // of gate
};

/// Rotates and quantises the index queries, one scale a head:
///
///   out, scale = quantize_groups(hadamard(rope(q)))   rule `indexer`; the bytes of these ops, f32 between
///   them gate      *= heads^-0.5 * softmax_scale * scale   the bytes of head_gate, where gate holds its sums
///
///   q          [tokens, heads, dim]       f32 or bf16; any strides but 1 on the last axis; not written
///   positions  [tokens]                   i32 or i64, within the table
///   cos_sin    [max_positions, rope_dim]  f32, see rope; elements [offset, offset + rope_dim) are rotated
///   out        [tokens, heads, dim]       f8e4m3 with dim up to 128; or f32, then it is hadamard(rope(q)),
///                                         nothing is quantised, and out may be q itself
///   scale      [tokens, heads]            f32, with f8e4m3 only: what head_gate takes as q_scale
///   gate       [tokens, heads]            f32: for a product that ran before this op. With f8e4m3 one of
///   scale and
///                                         gate is given at least
///   hadamard   left out if false: keys and queries of one cache must agree. dim is a power of two if true
///
/// dim is at most 512 on CUDA. A token's bytes depend neither on the other tokens nor on the threads. Throws
/// InvalidArgument if a shape, dtype or stride differs, a position is not in the table or softmax_scale is
/// not finite; nothing is written then. On a device a token whose position is not in the table is not
/// rotated.
void index_query_prepare(const IndexQueryPrepareArgs& args, const Context& context);

}  // namespace fathom
