#include "ops/cache_kernels.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

static_assert(kIndexPageKeys == kIndexKeyPageTokens && kIndexKeyBytes == kIndexKeyDim);

jit::Source source(const OneForm&) {
  return simt_source({.name = "index_key_store.simt",
                      .header = "simt/cache.cuh",
                      .function = "simt::index_key_store",
                      .args = "IndexKeyStoreKernel",
                      .args_bytes = sizeof(IndexKeyStoreKernel)});
}

}  // namespace

void index_key_store_simt(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args,
                          const Context& context) {
  if (problem.tokens == 0) return;
  const IndexKeyStoreKernel kernel{.k = simt_rows(args.k),
                                   .slots = simt_integers(args.slots),
                                   .cache = index_cache_view(args.cache),
                                   .tokens = problem.tokens,
                                   .dim = problem.dim,
                                   .ue8m0 = problem.ue8m0};
  launch_simt(source, {.grid = {simt_blocks(problem.tokens, kRowWarps)}, .block = {kRowThreads}}, context,
              kernel);
}

KernelSources index_key_store_kernels;
std::vector<jit::Source> index_key_store_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<IndexKeyStoreProblem>(problem, source);
}

}  // namespace fathom
