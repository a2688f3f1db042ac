// The implementations of index_query_prepare.
#pragma once
#include "fathom/ops/index_query_prepare.hpp"
#include "ops/copy_rows/copy_rows_impl.hpp"
#include "ops/dispatch.hpp"
#include "ops/hadamard/hadamard_impl.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"
#include "ops/rope/rope_impl.hpp"

namespace fathom {

/// One implementation of each op that this one stands for.
struct IndexQuerySteps {
  decltype(&copy_rows_ref) copy;
  decltype(&rope_ref) rope;
  decltype(&hadamard_ref) hadamard;
  decltype(&quantize_groups_ref) quantize;
};
/// These steps for one token; scratch has room for heads * (dim + 1) floats.
void index_query_chain(const IndexQuerySteps& steps, const IndexQueryPrepareProblem& problem,
                       const IndexQueryPrepareArgs& args, const Context& context, std::int64_t token,
                       float* scratch);

void index_query_prepare_ref(const IndexQueryPrepareProblem& problem, const IndexQueryPrepareArgs& args,
                             const Context& context);
void index_query_prepare_cpu(const IndexQueryPrepareProblem& problem, const IndexQueryPrepareArgs& args,
                             const Context& context);
Verdict index_query_prepare_simt_can_run(const IndexQueryPrepareProblem& problem, const Context& context);
void index_query_prepare_simt(const IndexQueryPrepareProblem& problem, const IndexQueryPrepareArgs& args,
                              const Context& context);
}  // namespace fathom
