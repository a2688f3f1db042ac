#include "ops/kernels.hpp"
#include "ops/rope/rope_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "rope.simt",
                      .header = "simt/rows.cuh",
                      .function = "simt::rope",
                      .args = "RopeKernel",
                      .args_bytes = sizeof(RopeKernel)});
}

}  // namespace

void rope_simt(const RopeProblem& problem, const RopeArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.heads == 0 || problem.rope_dim == 0) return;
  const RopeKernel kernel{.x = simt_rows(args.x),
                          .rotation = simt_rotation(args.positions, args.cos_sin, problem.offset,
                                                    problem.style == RopeStyle::interleaved),
                          .tokens = problem.tokens,
                          .heads = problem.heads};
  launch_simt(source,
              {.grid = {simt_blocks(problem.tokens, kRowWarps), simt_blocks(problem.heads, 1, kGridAxis)},
               .block = {kRowThreads}},
              context, kernel);
}

KernelSources rope_kernels;
std::vector<jit::Source> rope_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<RopeProblem>(problem, source);
}

}  // namespace fathom
