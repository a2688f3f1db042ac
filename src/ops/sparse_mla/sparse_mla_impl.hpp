// The implementations of sparse_mla.
#pragma once
#include "fathom/ops/sparse_mla.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void sparse_mla_ref(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
void sparse_mla_cpu(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
Verdict sparse_mla_simt_can_run(const SparseMlaProblem& problem, const Context& context);
void sparse_mla_simt(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
}  // namespace fathom
