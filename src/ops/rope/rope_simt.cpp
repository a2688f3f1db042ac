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
                          .positions = simt_integers(args.positions),
                          .cos_sin = args.cos_sin.as<const float>(),
                          .cos_sin_row = args.cos_sin.step(0),
                          .max_positions = args.cos_sin.size(0),
                          .tokens = problem.tokens,
                          .heads = problem.heads,
                          .half = problem.rope_dim / 2,
                          .offset = problem.offset,
                          .interleaved = problem.style == RopeStyle::interleaved};
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
