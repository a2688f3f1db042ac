// moe_forward as a chain of ops. Each of them chooses its implementation for the context's device, so that
// the chain is the same on host and device.
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"

namespace fathom {
namespace {

class Chain {
 public:
  // `fused`: gates and ups are activated where they are multiplied.
  Chain(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context& context, bool fused)
      : p_(problem), args_(args), context_(context), fused_(fused), parts_(problem) {}

  void run() const {
    quantize_groups({.x = args_.x, .q = x(), .scale = x_scale(), .rule = QuantRule::per_token_group},
                    context_);
    if (p_.shared > 0) shared_expert();
    const TensorView slot_to_row = part(parts_.slot_to_row, DType::i32, {p_.tokens, p_.top_k});
    experts(permuted(slot_to_row));
    moe_combine({.y = part(parts_.y, p_.inner, {parts_.all_rows, p_.hidden}),
                 .slot_to_row = slot_to_row,
                 .weights = args_.weights,
                 .out = args_.out,
                 .accumulate = args_.accumulate || p_.shared > 0},
                context_);
  }

 private:
  TensorView part(std::int64_t begin, DType dtype, std::initializer_list<std::int64_t> shape) const {
    return TensorView::contiguous(args_.workspace.as<std::byte>() + begin, dtype, shape, context_.device());
  }
  TensorView rows(std::int64_t begin, DType dtype, std::int64_t width) const {
    if (p_.layout == GroupLayout::masked) return part(begin, dtype, {p_.experts, parts_.rows, width});
    return part(begin, dtype, {parts_.rows, width});
  }
  TensorView x() const { return part(parts_.x, DType::f8e4m3, {p_.tokens, p_.hidden}); }
  TensorView x_scale() const {
    return part(parts_.x_scale, DType::f32, {p_.tokens, scale_groups(p_.hidden)});
  }

  // Brings the tokens' rows together; returns whose they are.
  GroupedRows permuted(const TensorView& slot_to_row) const {
    GroupedRows index{.expected_m = parts_.expected_m};
    MoePermuteArgs permute{.ids = args_.ids,
                           .x = x(),
                           .x_scale = x_scale(),
                           .groups = p_.experts,
                           .out = rows(parts_.a, DType::f8e4m3, p_.hidden),
                           .out_scale = rows(parts_.a_scale, DType::f32, scale_groups(p_.hidden)),
                           .slot_to_row = slot_to_row};
    switch (p_.layout) {
      case GroupLayout::contiguous:
        index.row_to_group = permute.row_to_group = part(parts_.index, DType::i32, {parts_.rows});
        permute.alignment = 128;
        break;
      case GroupLayout::offsets:
        index.offsets = permute.offsets = part(parts_.index, DType::i32, {p_.experts + 1});
        break;
      case GroupLayout::masked:
        index.masked_m = permute.masked_m = part(parts_.index, DType::i32, {p_.experts});
        break;
    }
    moe_permute(permute, context_);
    return index;
  }

  void experts(const GroupedRows& index) const {
    const TensorView h = rows(parts_.h, DType::f8e4m3, p_.intermediate);
    const TensorView h_scale = rows(parts_.h_scale, DType::f32, scale_groups(p_.intermediate));
    MGroupedFp8GemmNtArgs gate_up{.a = rows(parts_.a, DType::f8e4m3, p_.hidden),
                                  .a_scale = rows(parts_.a_scale, DType::f32, scale_groups(p_.hidden)),
                                  .b = args_.gate_up,
                                  .b_scale = args_.gate_up_scale,
                                  .rows = index,
                                  .out = rows(parts_.gate_up, p_.inner, 2 * p_.intermediate)};
    if (fused_) {
      moe_gate_up_activated(p_, gate_up, h, h_scale, context_);
    } else {
      m_grouped_fp8_gemm_nt(gate_up, context_);
      silu_mul_quant({.gate_up = gate_up.out, .q = h, .scale = h_scale, .masked_m = index.masked_m},
                     context_);
    }
    m_grouped_fp8_gemm_nt({.a = h,
                           .a_scale = h_scale,
                           .b = args_.down,
                           .b_scale = args_.down_scale,
                           .rows = index,
                           .out = rows(parts_.y, p_.inner, p_.hidden)},
                          context_);
  }

  void shared_expert() const {
    const TensorView gate_up = part(parts_.shared_gate_up, p_.inner, {p_.tokens, 2 * p_.shared});
    const TensorView h = part(parts_.shared_h, DType::f8e4m3, {p_.tokens, p_.shared});
    const TensorView h_scale = part(parts_.shared_h_scale, DType::f32, {p_.tokens, scale_groups(p_.shared)});
    fp8_gemm_nt({.a = x(),
                 .a_scale = x_scale(),
                 .b = args_.shared.gate_up,
                 .b_scale = args_.shared.gate_up_scale,
                 .out = gate_up,
                 .decode = p_.decode},
                context_);
    silu_mul_quant({.gate_up = gate_up, .q = h, .scale = h_scale}, context_);
    fp8_gemm_nt({.a = h,
                 .a_scale = h_scale,
                 .b = args_.shared.down,
                 .b_scale = args_.shared.down_scale,
                 .out = args_.out,
                 .accumulate = args_.accumulate,
                 .decode = p_.decode},
                context_);
  }

  const MoeForwardProblem& p_;
  const MoeForwardArgs& args_;
  const Context& context_;
  bool fused_;
  MoeForwardParts parts_;
};

}  // namespace

void moe_forward_chain(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context& context) {
  if (problem.tokens > 0) Chain(problem, args, context, false).run();
}

void moe_forward_fused(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context& context) {
  if (problem.tokens > 0) Chain(problem, args, context, true).run();
}

}  // namespace fathom
