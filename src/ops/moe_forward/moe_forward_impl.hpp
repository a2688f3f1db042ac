// The implementations of moe_forward.
#pragma once
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/moe_forward.hpp"
#include "ops/dispatch.hpp"
#include "ops/kernels.hpp"

namespace fathom {

/// Where the parts of the workspace begin, in bytes, and how many rows the experts have together.
struct MoeForwardParts {
  explicit MoeForwardParts(const MoeForwardProblem& problem);

  std::int64_t rows;        // masked: of one expert
  std::int64_t all_rows;    // of all experts
  std::int64_t expected_m;  // rows of an expert, about
  std::int64_t x, x_scale;  // the tokens in FP8
  std::int64_t slot_to_row, index;
  std::int64_t h, h_scale;      // the activation in FP8
  std::int64_t a, a_scale;      // the tokens' rows, expert by expert
  std::int64_t gate_up, y;      // y lies on a and gate_up, which are read no more
  std::int64_t shared_gate_up;  // the shared expert goes first, on a
  std::int64_t shared_h, shared_h_scale;
  std::int64_t bytes;
};

void moe_forward_ref(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context& context);
void moe_forward_chain(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context& context);
/// The chain on Hopper with gates and ups activated and quantised in the launch that multiplies them.
Verdict moe_forward_fused_can_run(const MoeForwardProblem& problem, const Context& context);
void moe_forward_fused(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context& context);
/// The kernel of its own that it launches for the problem, if it was measured to be faster than the chain.
std::vector<jit::Source> moe_forward_fused_sources(const MoeForwardProblem& problem,
                                                   const cuda::DeviceInfo& device);
/// What silu_mul_quant makes of that product, to h and h_scale, in one launch.
void moe_gate_up_activated(const MoeForwardProblem& problem, const MGroupedFp8GemmNtArgs& product,
                           const TensorView& h, const TensorView& h_scale, const Context& context);

}  // namespace fathom
