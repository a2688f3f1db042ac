#include <fmt/format.h>

#include "cuda/device_context.hpp"
#include "layout/sm90_sparse_mla.cuh"
#include "ops/simt_kernel.hpp"
#include "ops/sm90.hpp"
#include "ops/sm90_gemm.hpp"
#include "ops/sm90_mqa.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

struct Form {
  std::int32_t heads;  // of a block
  std::int32_t folds;  // a block has several parts
  std::int32_t codes;  // of a quantised cache are multiplied as they are
};
Form form_of(const SparseMlaProblem& problem) {
  const bool codes = problem.cache == DType::u8 && problem.heads <= 16;
  return {sm90_mla_heads(problem.heads, codes), 0, codes};
}
int threads_of(const Form& form) { return form.codes != 0 ? kSm90MlaCodesThreads : kSm90MlaThreads; }
jit::Source source(const Form& form) {
  return simt_source(
      {.name = fmt::format("sparse_mla.sm90_h{}{}{}", form.heads, form.folds != 0 ? "_folds" : "",
                           form.codes != 0 ? "_codes" : ""),
       .header = "sm90/sparse_mla.cuh",
       .function = fmt::format("sm90_sparse_mla<{}, {}, {}>", form.heads, form.folds != 0, form.codes != 0),
       .args = "Sm90MlaKernel",
       .args_bytes = sizeof(Sm90MlaKernel),
       .threads = threads_of(form),
       .blocks = 1});
}

Verdict verdict(const SparseMlaProblem& problem, const cuda::DeviceInfo& device) {
  if (Verdict other = needs_sm90(device)) return other;
  if (problem.lora != 512 || problem.rope_dim != 64) {
    return decline("needs lora 512 and rope_dim 64, got " + std::to_string(problem.lora) + " and " +
                   std::to_string(problem.rope_dim));
  }
  if (problem.cache == DType::f32) return decline("needs a u8 or bf16 cache, got f32");
  if (problem.top_k > kSm90MlaTopK) {
    return decline("needs a top_k up to " + std::to_string(kSm90MlaTopK) + ", got " +
                   std::to_string(problem.top_k));
  }
  if (!problem.aligned) return decline("needs entries of the cache at multiples of 16 bytes, got others");
  return accept;
}

/// Whether blocks of 64 heads take all parts of a list themselves. By rounds of the launch, which last as
/// long as a block's tiles and, in tenths of a tile, what was measured beside them: for the list, the queries
/// and the joining of parts, or for adding a part to those before. An H200 has room for 15 clusters of eight.
bool folds(std::int64_t items, std::int64_t parts, int num_sms) {
  const std::int64_t tiles = 10 * sm90_mla_part(64) / kSm90MlaEntries;
  const std::int64_t spread = ceil_div(items * parts, num_sms - num_sms / 11) * (tiles + 40);
  const std::int64_t folded = ceil_div(items, num_sms) * (parts * (tiles + 12) + 10);
  return parts > 1 && folded < spread;
}

}  // namespace

Verdict sparse_mla_sm90_can_run(const SparseMlaProblem& problem, const Context& context) {
  return verdict(problem, cuda::device_context(context).info());
}

void sparse_mla_sm90(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.heads == 0) return;
  Form form = form_of(problem);
  const int heads = form.heads;
  const int num_sms = cuda::device_context(context).info().num_sms;
  std::int64_t items = problem.tokens * ceil_div(problem.heads, heads);
  // Lists that fit one part have no use for a cluster, and the same sums without.
  int span = in_decode_class(problem.decode, context) ? sm90_mla_part(heads) : kSm90MlaTopK;
  int blocks = std::max(1, static_cast<int>(ceil_div(problem.top_k, span)));
  form.folds = heads == 64 && folds(items, blocks, num_sms);
  if (form.folds != 0) span = kSm90MlaTopK, blocks = 1;
  const Sm90MlaKernel kernel{.mla = sparse_mla_kernel(problem, args),
                             .aligned_q = suits_bulk_copies(args.q),
                             .aligned_out = suits_bulk_copies(args.out),
                             .blocks = blocks,
                             .span = span};
  const auto cluster = static_cast<unsigned>(blocks);
  // Blocks of 64 heads that write their rows themselves stay for several items: the next one's start hides
  // behind the last one's end.
  if (heads == 64 && blocks == 1 && kernel.aligned_out && kernel.mla.out.bf16) {
    items = std::min<std::int64_t>(items, num_sms);
  }
  jit::launch(jit::kernel(context, source, form),
              {.grid = {static_cast<unsigned>(items) * cluster},
               .block = {static_cast<unsigned>(threads_of(form))},
               .cluster = {cluster},
               .shared_bytes = sm90_mla_shared(heads, form.codes != 0)},
              context, kernel);
}

std::vector<jit::Source> sparse_mla_sm90_kernels(const SparseMlaProblem& problem,
                                                 const cuda::DeviceInfo& device) {
  if (verdict(problem, device)) return {};
  Form form = form_of(problem);
  std::vector<jit::Source> sources = {source(form)};
  if (problem.decode && form.heads == 64) form.folds = 1, sources.push_back(source(form));
  return sources;
}

}  // namespace fathom
