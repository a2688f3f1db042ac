#include "ops/cache_kernels.hpp"
#include "ops/index_key_gather/index_key_gather_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const IndexCachePlan& plan) {
  return simt_source({.name = "index_key_gather.simt" + plan.suffix(),
                      .header = "simt/cache.cuh",
                      .function = "simt::index_key_gather<" + plan.template_arguments() + ">",
                      .args = "IndexKeyGatherKernel",
                      .args_bytes = sizeof(IndexKeyGatherKernel)});
}

IndexCachePlan plan_of(const IndexKeyGatherProblem& problem) {
  return index_cache_plan(problem.page, problem.dim, problem.cache == DType::f32);
}

}  // namespace

void index_key_gather_simt(const IndexKeyGatherProblem& problem, const IndexKeyGatherArgs& args,
                           const Context& context) {
  if (problem.keys == 0 || problem.batch == 0) return;
  const IndexKeyGatherKernel kernel{.cache = index_cache_view(args.cache, problem.dim),
                                    .block_table = block_table_view(args.block_table),
                                    .lens = simt_integers(args.lens),
                                    .keys = args.keys.data,
                                    .keys_row = args.keys.step(0),
                                    .scales = args.scales.as<float>(),
                                    .batch = problem.batch,
                                    .total = problem.keys,
                                    .dim = problem.dim};
  // Lengths are known to the device alone; blocks go round for what is more than the average.
  const unsigned blocks = simt_blocks(problem.keys / problem.batch + 1, kRowWarps);
  jit::launch(jit::kernel(context, source, plan_of(problem)),
              {.grid = {blocks, simt_blocks(problem.batch, 1, kGridAxis)}, .block = {kRowThreads}}, context,
              kernel);
}

KernelSources index_key_gather_kernels;
std::vector<jit::Source> index_key_gather_kernels(std::string_view text, const cuda::DeviceInfo&) {
  return {source(plan_of(parse_problem<IndexKeyGatherProblem>(text)))};
}

}  // namespace fathom
