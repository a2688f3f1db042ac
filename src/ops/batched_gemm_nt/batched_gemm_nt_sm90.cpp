#include "cuda/device_context.hpp"
#include "layout/sm90_batched_gemm.cuh"
#include "ops/batched_gemm_nt/batched_gemm_nt_impl.hpp"
#include "ops/simt_kernel.hpp"
#include "ops/sm90.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t fp8;  // of the weights
};

jit::Source source(const Plan& plan) {
  return simt_source({.name = plan.fp8 != 0 ? "batched_gemm.sm90_f8e4m3" : "batched_gemm.sm90_bf16",
                      .header = "sm90/batched_gemm.cuh",
                      .function = plan.fp8 != 0 ? "sm90_batched_gemm<true>" : "sm90_batched_gemm<false>",
                      .args = "Sm90BatchedGemmArgs",
                      .args_bytes = sizeof(Sm90BatchedGemmArgs),
                      .threads = kSm90BatchedThreads,
                      .blocks = 2});
}

std::int64_t column_tiles(const BatchedGemmNtProblem& problem) {
  return ceil_div(problem.n, kSm90BatchedColumns);
}
std::int64_t token_parts(const BatchedGemmNtProblem& problem) {
  return ceil_div(problem.tokens, std::int64_t{kSm90BatchedTokens} * kSm90BatchedTiles);
}

Verdict verdict(const BatchedGemmNtProblem& problem, const cuda::DeviceInfo& device) {
  if (Verdict other = needs_sm90(device)) return other;
  if (problem.x != DType::bf16) return decline("needs x in bf16, got f32");
  const std::int64_t unit = problem.w == DType::f8e4m3 ? 16 : 8;  // 16 bytes of w
  if (problem.k == 0 || problem.k > kSm90BatchedMostK || problem.k % unit != 0) {
    return decline("needs a k up to " + std::to_string(kSm90BatchedMostK) + " in multiples of " +
                   std::to_string(unit) + ", got " + std::to_string(problem.k));
  }
  if (!problem.aligned) return decline("needs rows of x and w at multiples of 16 bytes, got others");
  if (Verdict large = needs_small_sizes({problem.tokens, problem.n, problem.groups})) return large;
  return needs_small_sizes({problem.groups * column_tiles(problem) * token_parts(problem)});
}

}  // namespace

Verdict batched_gemm_nt_sm90_can_run(const BatchedGemmNtProblem& problem, const Context& context) {
  return verdict(problem, cuda::device_context(context).info());
}

void batched_gemm_nt_sm90(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                          const Context& context) {
  if (problem.tokens == 0 || problem.groups == 0 || problem.n == 0) return;
  const Sm90BatchedGemmArgs kernel{.product = batched_gemm_nt_kernel(problem, args),
                                   .column_tiles = static_cast<int>(column_tiles(problem)),
                                   .token_parts = static_cast<int>(token_parts(problem))};
  const std::int64_t blocks = problem.groups * kernel.column_tiles * kernel.token_parts;
  jit::launch(jit::kernel(context, source, Plan{problem.w == DType::f8e4m3}),
              {.grid = {static_cast<unsigned>(blocks)},
               .block = {kSm90BatchedThreads},
               .shared_bytes = sm90_batched_shared(problem.k)},
              context, kernel);
}

std::vector<jit::Source> batched_gemm_nt_sm90_kernels(const BatchedGemmNtProblem& problem,
                                                      const cuda::DeviceInfo& device) {
  if (verdict(problem, device)) return {};
  return {source({problem.w == DType::f8e4m3})};
}

}  // namespace fathom
