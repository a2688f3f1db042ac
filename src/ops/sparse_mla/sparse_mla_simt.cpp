#include "layout/sparse_mla.cuh"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "sparse_mla.simt",
                      .header = "simt/sparse_mla.cuh",
                      .function = "simt::sparse_mla",
                      .args = "SparseMlaKernel",
                      .args_bytes = sizeof(SparseMlaKernel),
                      .blocks = 2});
}

// Of q and of an entry: 92 KB of shared memory, of which a device from compute capability 8.0 gives a block
// 99 KB at least.
constexpr std::int64_t kMostColumns = 736;
static_assert(mla_shared_bytes(kMostColumns) <= 96 << 10);

}  // namespace

SparseMlaKernel sparse_mla_kernel(const SparseMlaProblem& problem, const SparseMlaArgs& args) {
  return {.q = simt_rows(args.q),
          .out = simt_rows(args.out),
          .cache = args.cache.data,
          .cache_row = args.cache.step(0) * size_of(problem.cache),
          .slots = args.cache.size(0),
          .indices = args.indices.as<const int>(),
          .indices_row = args.indices.step(0),
          .tokens = problem.tokens,
          .heads = static_cast<int>(problem.heads),
          .lora = static_cast<int>(problem.lora),
          .rope_dim = static_cast<int>(problem.rope_dim),
          .top_k = static_cast<int>(problem.top_k),
          .element = static_cast<int>(size_of(problem.cache)),
          .softmax_scale = args.softmax_scale,
          .lengths = args.lengths.given() ? args.lengths.as<const int>() : nullptr,
          .lengths_step = args.lengths.given() ? args.lengths.step(0) : 0,
          .sink = args.sink.given() ? args.sink.as<const float>() : nullptr,
          .lse = args.lse.given() ? args.lse.as<float>() : nullptr,
          .lse_row = args.lse.given() ? args.lse.step(0) : 0};
}

Verdict sparse_mla_simt_can_run(const SparseMlaProblem& problem, const Context&) {
  const std::int64_t width = problem.lora + problem.rope_dim;
  if (width <= kMostColumns) return accept;
  return decline("needs q of up to " + std::to_string(kMostColumns) + " columns, got " +
                 std::to_string(width));
}

void sparse_mla_simt(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.heads == 0) return;
  const SparseMlaKernel kernel = sparse_mla_kernel(problem, args);
  const auto parts = [](std::int64_t size, int each) {
    return static_cast<unsigned>((size + each - 1) / each);
  };
  launch_simt(source,
              {.grid = {simt_blocks(problem.tokens), parts(problem.heads, kMlaHeads),
                        parts(problem.lora, kMlaColumns)},
               .block = {kRowThreads},
               .shared_bytes = mla_shared_bytes(kernel.lora + kernel.rope_dim)},
              context, kernel);
}

KernelSources sparse_mla_kernels;
std::vector<jit::Source> sparse_mla_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  std::vector<jit::Source> sources = sparse_mla_sm90_kernels(parse_problem<SparseMlaProblem>(text), device);
  sources.push_back(source({}));
  return sources;
}

}  // namespace fathom
