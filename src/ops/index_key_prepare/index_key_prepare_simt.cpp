#include <cmath>

#include "layout/prepare.cuh"
#include "ops/cache_kernels.hpp"
#include "ops/index_key_prepare/index_key_prepare_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/prepare_kernels.hpp"

namespace fathom {
namespace {

jit::Source source(const PreparePlan& plan) {
  return prepare_source("index_key_prepare", "IndexKeyPrepareKernel", sizeof(IndexKeyPrepareKernel), plan);
}

}  // namespace

Verdict index_key_prepare_simt_can_run(const IndexKeyPrepareProblem& problem, const Context& context) {
  return prepare_can_run(problem, context);
}

void index_key_prepare_simt(const IndexKeyPrepareProblem& problem, const IndexKeyPrepareArgs& args,
                            const Context& context) {
  if (problem.tokens == 0) return;
  const IndexKeyPrepareKernel kernel{
      .k = simt_rows(args.k),
      .weight = simt_rows(args.weight),
      .bias = simt_rows(args.bias),
      .rotation = simt_rotation(args.positions, args.cos_sin, problem.offset,
                                problem.style == RopeStyle::interleaved),
      .slots = simt_integers(args.slots),
      .cache = index_cache_view(args.cache, problem.dim),
      .tokens = problem.tokens,
      .dim = static_cast<int>(problem.dim),
      .hadamard = problem.hadamard,
      .ue8m0 = problem.ue8m0,
      .epsilon = args.epsilon,
      .hadamard_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(problem.dim)))};
  jit::launch(jit::kernel(context, source, prepare_plan(problem.dim, problem.page)),
              {.grid = {simt_blocks(problem.tokens, kRowWarps)}, .block = {kRowThreads}}, context, kernel);
}

KernelSources index_key_prepare_kernels;
std::vector<jit::Source> index_key_prepare_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<IndexKeyPrepareProblem>(text);
  if (problem.dim < 1 || problem.dim > kMostPrepared) return {};
  return {source(prepare_plan(problem.dim, problem.page))};
}

}  // namespace fathom
