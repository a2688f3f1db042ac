// The implementations of copy_rows.
#pragma once
#include "fathom/ops/copy_rows.hpp"

namespace fathom {
void copy_rows_ref(const CopyRowsProblem& problem, const CopyRowsArgs& args, const Context& context);
void copy_rows_cpu(const CopyRowsProblem& problem, const CopyRowsArgs& args, const Context& context);
void copy_rows_simt(const CopyRowsProblem& problem, const CopyRowsArgs& args, const Context& context);

/// The row of x that token t takes.
inline std::int64_t copy_rows_source(const CopyRowsArgs& args, std::int64_t t) {
  return args.rows.given() ? args.rows.as<std::int32_t>()[t * args.rows.step(0)] : t;
}
/// Elements from one head to the next; 0 in a tensor without heads.
inline std::int64_t copy_rows_head_step(const TensorView& tensor) {
  return tensor.rank == 3 ? tensor.step(1) : 0;
}
}  // namespace fathom
