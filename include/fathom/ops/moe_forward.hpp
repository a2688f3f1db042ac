// A whole mixture of experts in FP8: from hidden states and the router's choice to their output.
#pragma once
#include <optional>
#include <span>

#include "fathom/core/context.hpp"
#include "fathom/ops/grouped.hpp"

namespace fathom {

struct MoeForwardProblem {
  static constexpr std::string_view op = "moe_forward";
  std::int64_t tokens = 1;
  std::int64_t top_k = 8;
  std::int64_t experts = 256;
  std::int64_t hidden = 7168;
  std::int64_t intermediate = 2048;
  std::int64_t shared = 2048;  // intermediate size of the shared expert; 0: none
  GroupLayout layout = GroupLayout::offsets;
  DType x = DType::bf16;
  DType inner = DType::bf16;
  DType out = DType::bf16;
  bool accumulate = false;
  bool decode = false;
  bool common = false;
  bool aligned = true;  // a tensor map reaches all of gate_up, on a device; no part of the problem string

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("top_k", top_k);
    visit("experts", experts);
    visit("hidden", hidden);
    visit("intermediate", intermediate);
    visit("shared", shared);
    visit("layout", layout);
    visit("x", x);
    visit("inner", inner);
    visit("out", out);
    visit("accumulate", accumulate);
    visit("decode", decode);
    visit("common", common);
  }
  bool operator==(const MoeForwardProblem&) const = default;
};

/// [2 * width, hidden] (gate first) and [hidden, width], f8e4m3 with f32 scales for blocks of 128 x 128.
struct SharedExpert {
  TensorView gate_up, gate_up_scale;
  TensorView down, down_scale;
};

struct MoeForwardArgs {
  TensorView x;                               // [tokens, hidden]
  TensorView ids;                             // [tokens, top_k]
  TensorView weights;                         // [tokens, top_k]
  std::span<const TensorView> gate_up;        // experts of [2 * intermediate, hidden], gate first
  std::span<const TensorView> gate_up_scale;  // experts of [ceil(2 * intermediate/128), ceil(hidden/128)]
  std::span<const TensorView> down;           // experts of [hidden, intermediate]
  std::span<const TensorView> down_scale;     // experts of [ceil(hidden/128), ceil(intermediate/128)]
  SharedExpert shared{};                      // optional
  TensorView out;                             // [tokens, hidden], written
  TensorView workspace;                       // u8, at least moe_forward_workspace() of the problem
  DType inner = DType::bf16;                  // of the products between the steps
  bool accumulate = false;
  bool decode = false;                  // the class of the shared expert's products: see fp8_gemm_nt
  bool common = false;                  // every token's last id is the last expert; only plans ask
  std::optional<GroupLayout> layout{};  // none: moe_forward_layout() of the tokens
};

/// For every token t, with q(v) = quantize_groups(v) by the rule per_token_group and W * v in FP8 as
/// fp8_gemm_nt:
///
///   mlp(W, v) = W.down * silu_mul_quant(inner(W.gate_up * v)),  rounded to inner
///   out[t]    = sum over slots s with ids[t, s] >= 0 of weights[t, s] * mlp(expert ids[t, s], q(x[t]))
///               + mlp(shared, q(x[t])), + out[t] with accumulate
///
///   x          f32 or bf16
///   ids        i32, distinct within a token; -1: this expert is not here
///   weights    f32
///   gate_up .. f8e4m3 with f32 scales: one view per expert, see split_groups
///   out        f32 or bf16; accumulate needs f32
///   workspace  contiguous, on 256 bytes; may hold anything, also NaN, and holds nothing of use afterwards
///
/// The chain of quantize_groups, moe_permute, m_grouped_fp8_gemm_nt, silu_mul_quant and moe_combine, whose
/// contracts fix the order of every sum: slots ascending in f32, after the shared expert (whose output is
/// rounded to the dtype of out before they are added) and what out held. A token's bytes depend neither on
/// the other tokens nor on the layout. On a device nothing is allocated, copied or waited for, so that a call
/// can be recorded in a graph, which follows ids and weights; there are at most 8191 experts there. Throws
/// InvalidArgument if a shape, dtype or the workspace's size is wrong or, on the host, an id is no expert's;
/// nothing is written then.
///
/// A shared expert as wide as the others may instead be the last of the experts, whose id stands in the last
/// column of ids with the weight 1: the grouped products then take it along, without launches of its own.
/// With inner and out of one dtype, and without `decode`, the bytes are the same.
void moe_forward(const MoeForwardArgs& args, const Context& context);

/// Bytes of the workspace of a problem.
std::int64_t moe_forward_workspace(const MoeForwardProblem& problem);
/// The layout for so many tokens.
GroupLayout moe_forward_layout(std::int64_t tokens);

}  // namespace fathom
