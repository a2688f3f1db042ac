#include "layout/top_k.cuh"
#include "ops/cache_kernels.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t threads;
  std::int32_t page;  // 0: no pages
};

// Few rows: as many threads as possible for each. Many: several rows share a multiprocessor, and one waits
// for memory while another one selects. With pages 64 registers a thread are too few.
Plan plan_top_k(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  const bool paged = problem.transform == TopKTransform::paged;
  return {problem.rows <= device.num_sms && !paged ? 1024 : 512,
          paged ? static_cast<std::int32_t>(problem.page) : 0};
}

jit::Source source(const Plan& plan) {
  const std::string threads = std::to_string(plan.threads);
  const std::string page = std::to_string(plan.page);
  return simt_source({.name = "top_k.simt_t" + threads + (plan.page != 0 ? "_p" + page : ""),
                      .header = "simt/top_k.cuh",
                      .function = "simt::top_k<" + threads + ", " + page + ">",
                      .args = "TopKKernel",
                      .args_bytes = sizeof(TopKKernel),
                      .threads = plan.threads,
                      .blocks = plan.page != 0 ? 1 : 1024 / plan.threads});
}

TopKKind kind_of(TopKTransform transform) {
  return transform == TopKTransform::paged    ? TopKKind::paged
         : transform == TopKTransform::ragged ? TopKKind::ragged
                                              : TopKKind::plain;
}

}  // namespace

TopKKernel top_k_kernel(const TopKProblem& problem, const TopKArgs& args) {
  const std::int64_t requests = args.block_table.given() ? args.block_table.size(0) : 0;
  return {.scores = args.scores.as<const float>(),
          .scores_row = args.scores.step(0),
          .lengths = simt_integers(args.lengths),
          .starts = simt_integers(args.starts),
          .requests = simt_integers(args.requests),
          .offsets = simt_integers(args.offsets),
          .block_table = block_table_view(args.block_table),
          .out = args.out.as<int>(),
          .out_row = args.out.step(0),
          .rows = problem.rows,
          .n = problem.n,
          .k = problem.k,
          .rows_per_request = std::max<std::int64_t>(problem.rows / std::max<std::int64_t>(requests, 1), 1),
          .kind = kind_of(problem.transform)};
}

void top_k_simt(const TopKProblem& problem, const TopKArgs& args, const Context& context) {
  if (problem.rows == 0) return;
  const TopKKernel kernel = top_k_kernel(problem, args);
  const Plan plan = plan_top_k(problem, cuda::device_context(context).info());
  jit::launch(jit::kernel(context, source, plan),
              {.grid = {simt_blocks(problem.rows)},
               .block = {static_cast<unsigned>(plan.threads)},
               .shared_bytes = top_k_shared_bytes(problem.n)},
              context, kernel);
}

KernelSources top_k_kernels;
std::vector<jit::Source> top_k_kernels(std::string_view problem, const cuda::DeviceInfo& device) {
  const auto parsed = parse_problem<TopKProblem>(problem);
  std::vector<jit::Source> sources = top_k_sm90_kernels(parsed, device);
  sources.push_back(source(plan_top_k(parsed, device)));
  return sources;
}

}  // namespace fathom
