// dsa_metadata on CUDA: one launch.
#include "layout/dsa_metadata.cuh"
#include "ops/cache_kernels.hpp"
#include "ops/dsa_metadata/dsa_metadata_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "dsa_metadata.simt",
                      .header = "simt/dsa_metadata.cuh",
                      .function = "simt::dsa_metadata",
                      .args = "DsaMetadataKernel",
                      .args_bytes = sizeof(DsaMetadataKernel)});
}

}  // namespace

void dsa_metadata_simt(const DsaMetadataProblem& problem, const DsaMetadataArgs& args,
                       const Context& context) {
  const DsaMetadata& out = args.out;
  const DsaMetadataKernel kernel{.prefix_lens = simt_integers(args.prefix_lens),
                                 .extend_lens = simt_integers(args.extend_lens),
                                 .request_ids = simt_integers(args.request_ids),
                                 .page_table = block_table_view(args.page_table),
                                 .cache_seqlens = out.cache_seqlens.as<int>(),
                                 .cu_seqlens_q = out.cu_seqlens_q.as<int>(),
                                 .cu_seqlens_k = out.cu_seqlens_k.as<int>(),
                                 .positions = out.positions.as<int>(),
                                 .slots = out.slots.as<int>(),
                                 .requests = out.requests.as<int>(),
                                 .seqlens_expanded = out.seqlens_expanded.as<int>(),
                                 .topk_lens = out.topk_lens.as<int>(),
                                 .cu_topk_lens = out.cu_topk_lens.as<int>(),
                                 .ks = out.ks.as<int>(),
                                 .ke = out.ke.as<int>(),
                                 .score_ends = out.score_ends.as<int>(),
                                 .block_table = out.block_table.as<int>(),
                                 .row_block_table = out.row_block_table.as<int>(),
                                 .schedule = out.schedule.as<int>(),
                                 .batch = problem.batch,
                                 .rows = problem.rows,
                                 .next_n = problem.next_n(),
                                 .paged_batch = problem.paged_batch(),
                                 .max_pages = problem.max_pages,
                                 .page_tokens = problem.page_tokens,
                                 .index_topk = problem.index_topk,
                                 .workers = problem.workers,
                                 .extend = problem.mode == ForwardMode::extend};
  const unsigned blocks = problem.tables ? 1 + simt_blocks(problem.batch + 1) : 1;
  launch_simt(source, {.grid = {blocks}, .block = {kRowThreads}}, context, kernel);
}

KernelSources dsa_metadata_kernels;
std::vector<jit::Source> dsa_metadata_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<DsaMetadataProblem>(problem, source);
}

}  // namespace fathom
