#include "ops/cache_kernels.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const IndexCachePlan& plan) {
  return simt_source({.name = "index_key_store.simt" + plan.suffix(),
                      .header = "simt/cache.cuh",
                      .function = "simt::index_key_store<" + plan.template_arguments() + ">",
                      .args = "IndexKeyStoreKernel",
                      .args_bytes = sizeof(IndexKeyStoreKernel)});
}

IndexCachePlan plan_of(const IndexKeyStoreProblem& problem) {
  return index_cache_plan(problem.page, problem.dim, problem.cache == DType::f32);
}

}  // namespace

void index_key_store_simt(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args,
                          const Context& context) {
  if (problem.tokens == 0) return;
  const IndexKeyStoreKernel kernel{.k = simt_rows(args.k),
                                   .slots = simt_integers(args.slots),
                                   .cache = index_cache_view(args.cache, problem.dim),
                                   .tokens = problem.tokens,
                                   .dim = problem.dim,
                                   .ue8m0 = problem.ue8m0};
  jit::launch(jit::kernel(context, source, plan_of(problem)),
              {.grid = {simt_blocks(problem.tokens, kRowWarps)}, .block = {kRowThreads}}, context, kernel);
}

KernelSources index_key_store_kernels;
std::vector<jit::Source> index_key_store_kernels(std::string_view text, const cuda::DeviceInfo&) {
  return {source(plan_of(parse_problem<IndexKeyStoreProblem>(text)))};
}

}  // namespace fathom
