#include "ops/kernels.hpp"
#include "ops/layer_norm/layer_norm_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "layer_norm.simt",
                      .header = "simt/norm.cuh",
                      .function = "simt::layer_norm",
                      .args = "NormKernel",
                      .args_bytes = sizeof(NormKernel)});
}

}  // namespace

void layer_norm_simt(const LayerNormProblem& problem, const LayerNormArgs& args, const Context& context) {
  if (problem.tokens == 0) return;
  const NormKernel kernel{.x = simt_rows(args.x),
                          .out = simt_rows(args.out),
                          .weight = simt_rows(args.weight),
                          .bias = simt_rows(args.bias),
                          .rows = problem.tokens,
                          .dim = problem.dim,
                          .epsilon = args.epsilon};
  launch_simt(source, {.grid = {simt_blocks(problem.tokens)}, .block = {kRowThreads}}, context, kernel);
}

KernelSources layer_norm_kernels;
std::vector<jit::Source> layer_norm_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<LayerNormProblem>(problem, source);
}

}  // namespace fathom
