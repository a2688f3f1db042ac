#include "ops/copy_rows/copy_rows_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "copy_rows.simt",
                      .header = "simt/rows.cuh",
                      .function = "simt::copy_rows",
                      .args = "CopyRowsKernel",
                      .args_bytes = sizeof(CopyRowsKernel)});
}

}  // namespace

void copy_rows_simt(const CopyRowsProblem& problem, const CopyRowsArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.heads == 0 || problem.dim == 0) return;
  const CopyRowsKernel kernel{.x = simt_rows(args.x),
                              .out = simt_rows(args.out),
                              .selection = simt_integers(args.rows),
                              .x_rows = args.x.size(0),
                              .tokens = problem.tokens,
                              .heads = problem.heads,
                              .dim = problem.dim,
                              .accumulate = problem.accumulate};
  launch_simt(source,
              {.grid = {simt_blocks(problem.tokens, kRowWarps), simt_blocks(problem.heads, 1, kGridAxis),
                        simt_blocks(problem.dim, kCopyElements, kGridAxis)},
               .block = {kRowThreads}},
              context, kernel);
}

KernelSources copy_rows_kernels;
std::vector<jit::Source> copy_rows_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<CopyRowsProblem>(problem, source);
}

}  // namespace fathom
