#include "layout/cache.cuh"
#include "ops/kernels.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "mla_cache_store.simt",
                      .header = "simt/cache.cuh",
                      .function = "simt::mla_cache_store",
                      .args = "MlaCacheStoreKernel",
                      .args_bytes = sizeof(MlaCacheStoreKernel)});
}

}  // namespace

void mla_cache_store_simt(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args,
                          const Context& context) {
  if (problem.tokens == 0) return;
  const MlaCacheStoreKernel kernel{.latent = simt_rows(args.latent),
                                   .rope = simt_rows(args.rope),
                                   .slots = simt_integers(args.slots),
                                   .cache = args.cache.data,
                                   .cache_row = args.cache.step(0),
                                   .cache_rows = args.cache.size(0),
                                   .tokens = problem.tokens,
                                   .lora = problem.lora,
                                   .rope_dim = problem.rope_dim,
                                   .element = static_cast<int>(size_of(problem.cache))};
  const auto groups = static_cast<unsigned>((problem.lora + 127) / 128);
  launch_simt(source, {.grid = {simt_blocks(problem.tokens, kRowWarps), groups + 1}, .block = {kRowThreads}},
              context, kernel);
}

KernelSources mla_cache_store_kernels;
std::vector<jit::Source> mla_cache_store_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<MlaCacheStoreProblem>(problem, source);
}

}  // namespace fathom
