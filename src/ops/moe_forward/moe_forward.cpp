// moe_forward: checks, and the workspace.
#include "fathom/ops/moe_forward.hpp"

#include <algorithm>

#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/quantization.hpp"
#include "ops/dispatch.hpp"
#include "ops/grouped.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MoeForwardProblem, MoeForwardArgs>;

// Best first for each device. The reference takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:activated", moe_forward_fused_can_run, moe_forward_fused, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:chain", always, moe_forward_chain, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:chain", always, moe_forward_chain},
    {"ref:any", always, moe_forward_ref, /*fallback=*/true},
};

constexpr std::int64_t kAlignment = 256;            // of every part of the workspace
constexpr std::int64_t kContiguousAlignment = 128;  // of a group's first row in the contiguous layout

void check_matrix(const Expect& expect, std::string_view name, const TensorView& values,
                  std::string_view scale_name, const TensorView& scale, std::int64_t n, std::int64_t k) {
  expect.tensor(name, values, {DType::f8e4m3}, {n, k});
  expect.tensor(scale_name, scale, {DType::f32}, {scale_groups(n), scale_groups(k)});
}

MoeForwardProblem validate(const MoeForwardArgs& args, Device device) {
  const Expect expect{MoeForwardProblem::op, device};
  expect.rank("x", args.x, 2);
  expect.rank("ids", args.ids, 2);
  for (const auto& [name, list] : {std::pair("gate_up", args.gate_up), {"down", args.down}}) {
    expect.that(!list.empty(), name, "have at least 1 expert", "0");
    expect.rank(name, list[0], 2);
  }
  const bool shared = args.shared.gate_up.given();
  if (shared) expect.rank("shared.down", args.shared.down, 2);
  MoeForwardProblem problem{.tokens = args.x.size(0),
                            .top_k = args.ids.size(1),
                            .experts = static_cast<std::int64_t>(args.gate_up.size()),
                            .hidden = args.x.size(1),
                            .intermediate = args.down[0].size(1),
                            .shared = shared ? args.shared.down.size(1) : 0,
                            .layout = args.layout.value_or(moe_forward_layout(args.x.size(0))),
                            .x = args.x.dtype,
                            .inner = args.inner,
                            .out = args.out.dtype,
                            .accumulate = args.accumulate,
                            .decode = args.decode,
                            .common = args.common};
  const auto [tokens, top_k, experts, hidden, width] =
      std::tuple(problem.tokens, problem.top_k, problem.experts, problem.hidden, problem.intermediate);
  expect.at_least("hidden", hidden, 1);
  expect.at_least("intermediate", width, 1);
  expect.at_least("top_k", top_k, 1);
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  expect.tensor("ids", args.ids, {DType::i32}, {tokens, -1});
  expect.tensor("weights", args.weights, {DType::f32}, {tokens, top_k});
  check_group_matrices(expect, "gate_up", args.gate_up, {DType::f8e4m3}, experts, 2 * width, hidden);
  check_group_matrices(expect, "gate_up_scale", args.gate_up_scale, {DType::f32}, experts,
                       scale_groups(2 * width), scale_groups(hidden));
  check_group_matrices(expect, "down", args.down, {DType::f8e4m3}, experts, hidden, width);
  check_group_matrices(expect, "down_scale", args.down_scale, {DType::f32}, experts, scale_groups(hidden),
                       scale_groups(width));
  if (shared) {
    check_matrix(expect, "shared.gate_up", args.shared.gate_up, "shared.gate_up_scale",
                 args.shared.gate_up_scale, 2 * problem.shared, hidden);
    check_matrix(expect, "shared.down", args.shared.down, "shared.down_scale", args.shared.down_scale, hidden,
                 problem.shared);
  }
  if (args.accumulate) {
    expect.tensor("out", args.out, {DType::f32}, {tokens, hidden});
  } else {
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {tokens, hidden});
  }
  if (args.inner != DType::f32 && args.inner != DType::bf16)
    expect.fail("inner", "be f32 or bf16", to_string(args.inner));
  const std::int64_t bytes = moe_forward_workspace(problem);
  expect.tensor("workspace", args.workspace, {DType::u8}, {-1});
  expect.that(args.workspace.size(0) >= bytes, "workspace",
              "have at least " + std::to_string(bytes) + " bytes", args.workspace.size(0));
  expect.that(reinterpret_cast<std::uintptr_t>(args.workspace.data) % kAlignment == 0, "workspace",
              "begin on 256 bytes", "another address");
  problem.aligned = on_host(device) || grouped_weights_suit_tma(args.gate_up, args.gate_up_scale);
  // Before anything is written: the steps would find it only after the shared expert.
  if (on_host(device)) check_expert_ids(expect, args.ids, experts);
  return problem;
}

}  // namespace

MoeForwardParts::MoeForwardParts(const MoeForwardProblem& p) {
  const bool masked = p.layout == GroupLayout::masked;
  const std::int64_t slots = p.tokens * p.top_k;
  rows = masked ? (p.tokens + 7) / 8 * 8
         : p.layout == GroupLayout::contiguous
             ? moe_permute_rows(p.tokens, p.top_k, p.experts, kContiguousAlignment)
             : slots;
  all_rows = masked ? p.experts * rows : rows;
  const std::int64_t others = std::max<std::int64_t>(1, p.experts - (p.common ? 1 : 0));
  expected_m = (slots - (p.common ? p.tokens : 0) + others - 1) / others;
  bytes = 0;
  const auto take = [this](std::int64_t size) {
    const std::int64_t begin = bytes;
    bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  const std::int64_t inner = size_of(p.inner);
  const std::int64_t scale = size_of(DType::f32);
  x = take(p.tokens * p.hidden);
  x_scale = take(p.tokens * scale_groups(p.hidden) * scale);
  slot_to_row = take(slots * size_of(DType::i32));
  index = take(std::max(rows, p.experts + 1) * size_of(DType::i32));
  h = take(all_rows * p.intermediate);
  h_scale = take(all_rows * scale_groups(p.intermediate) * scale);
  const std::int64_t common = bytes;  // three stages share what follows
  shared_gate_up = take(p.tokens * 2 * p.shared * inner);
  shared_h = take(p.tokens * p.shared);
  shared_h_scale = take(p.tokens * scale_groups(p.shared) * scale);
  std::int64_t most = bytes;
  bytes = common;
  a = take(all_rows * p.hidden);
  a_scale = take(all_rows * scale_groups(p.hidden) * scale);
  gate_up = take(all_rows * 2 * p.intermediate * inner);
  most = std::max(most, bytes);
  bytes = common;
  y = take(all_rows * p.hidden * inner);
  bytes = std::max(most, bytes);
}

std::int64_t moe_forward_workspace(const MoeForwardProblem& problem) {
  return MoeForwardParts(problem).bytes;
}

GroupLayout moe_forward_layout(std::int64_t) { return GroupLayout::offsets; }

extern const OpInfo moe_forward_info;
const OpInfo moe_forward_info = make_op_info("a mixture of experts in FP8, from hidden states to output",
                                             MoeForwardProblem{}, kImplementations);

void moe_forward(const MoeForwardArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
