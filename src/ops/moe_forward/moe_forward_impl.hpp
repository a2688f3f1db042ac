// The implementations of moe_forward.
#pragma once
#include "fathom/ops/moe_forward.hpp"
#include "ops/dispatch.hpp"

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

}  // namespace fathom
