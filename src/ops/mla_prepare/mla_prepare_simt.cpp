#include "layout/prepare.cuh"
#include "ops/kernels.hpp"
#include "ops/mla_prepare/mla_prepare_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "mla_prepare.simt",
                      .header = "simt/prepare.cuh",
                      .function = "simt::mla_prepare",
                      .args = "MlaPrepareKernel",
                      .args_bytes = sizeof(MlaPrepareKernel)});
}

}  // namespace

void mla_prepare_simt(const MlaPrepareProblem& problem, const MlaPrepareArgs& args, const Context& context) {
  if (problem.tokens == 0) return;
  const MlaPrepareKernel kernel{.latent = simt_rows(args.latent),
                                .rope = simt_rows(args.rope),
                                .weight = simt_rows(args.weight),
                                .rotation = simt_rotation(args.positions, args.cos_sin, /*offset=*/0,
                                                          problem.style == RopeStyle::interleaved),
                                .slots = simt_integers(args.slots),
                                .cache = args.cache.data,
                                .cache_row = args.cache.step(0),
                                .cache_rows = args.cache.size(0),
                                .q = simt_rows(args.q),
                                .q_out = simt_rows(args.q_out),
                                .tokens = problem.tokens,
                                .lora = problem.lora,
                                .rope_dim = problem.rope_dim,
                                .heads = problem.heads,
                                .element = static_cast<int>(size_of(problem.cache)),
                                .epsilon = args.epsilon};
  const std::int64_t blocks = problem.tokens * mla_blocks(problem.heads, kernel.rotation.half);
  launch_simt(source, {.grid = {simt_blocks(blocks)}, .block = {kRowThreads}}, context, kernel);
}

KernelSources mla_prepare_kernels;
std::vector<jit::Source> mla_prepare_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<MlaPrepareProblem>(problem, source);
}

}  // namespace fathom
