#include "layout/cache.cuh"
#include "ops/kernels.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

static_assert(kScheduleSplitKeys == kPagedMqaSplitKeys);

jit::Source source(const OneForm&) {
  return simt_source({.name = "paged_mqa_schedule.simt",
                      .header = "simt/cache.cuh",
                      .function = "simt::paged_mqa_schedule",
                      .args = "PagedMqaScheduleKernel",
                      .args_bytes = sizeof(PagedMqaScheduleKernel)});
}

}  // namespace

void paged_mqa_schedule_simt(const PagedMqaScheduleProblem& problem, const PagedMqaScheduleArgs& args,
                             const Context& context) {
  const PagedMqaScheduleKernel kernel{.context_lens = args.context_lens.as<const int>(),
                                      .lens_row = args.context_lens.step(0),
                                      .lens_step = args.context_lens.step(1),
                                      .schedule = args.schedule.as<int>(),
                                      .batch = problem.batch,
                                      .next_n = problem.next_n,
                                      .workers = problem.workers};
  launch_simt(source, {.grid = {1}, .block = {kRowThreads}}, context, kernel);
}

KernelSources paged_mqa_schedule_kernels;
std::vector<jit::Source> paged_mqa_schedule_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<PagedMqaScheduleProblem>(problem, source);
}

}  // namespace fathom
