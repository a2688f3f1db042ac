#include "ops/kernels.hpp"
#include "ops/rms_norm/rms_norm_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "rms_norm.simt",
                      .header = "simt/norm.cuh",
                      .function = "simt::rms_norm",
                      .args = "NormKernel",
                      .args_bytes = sizeof(NormKernel)});
}

}  // namespace

void rms_norm_simt(const RmsNormProblem& problem, const RmsNormArgs& args, const Context& context) {
  if (problem.tokens == 0) return;
  const NormKernel kernel{.x = simt_rows(args.x),
                          .out = simt_rows(args.out),
                          .weight = simt_rows(args.weight),
                          .bias = {},
                          .rows = problem.tokens,
                          .dim = problem.dim,
                          .epsilon = args.epsilon};
  launch_simt(source, {.grid = {simt_blocks(problem.tokens)}, .block = {kRowThreads}}, context, kernel);
}

KernelSources rms_norm_kernels;
std::vector<jit::Source> rms_norm_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<RmsNormProblem>(problem, source);
}

}  // namespace fathom
