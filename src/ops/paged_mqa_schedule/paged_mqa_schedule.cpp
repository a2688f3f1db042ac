#include "fathom/ops/paged_mqa_schedule.hpp"

#include "ops/dispatch.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<PagedMqaScheduleProblem, PagedMqaScheduleArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", always, paged_mqa_schedule_simt, /*fallback=*/false, DeviceKind::cuda},
    {"ref:any", always, paged_mqa_schedule_ref},  // a few hundred integers: no other form is worth having
};

PagedMqaScheduleProblem validate(const PagedMqaScheduleArgs& args, Device device) {
  const Expect expect{PagedMqaScheduleProblem::op, device};
  expect.rank("context_lens", args.context_lens, 2);
  expect.rank("schedule", args.schedule, 2);
  const PagedMqaScheduleProblem problem{.batch = args.context_lens.size(0),
                                        .next_n = args.context_lens.size(1),
                                        .workers = args.schedule.size(0) - 1};
  expect.tensor("context_lens", args.context_lens, {DType::i32}, {-1, -1});
  expect.tensor("schedule", args.schedule, {DType::i32}, {-1, 2});
  expect.contiguous("schedule", args.schedule);
  expect.at_least("workers", problem.workers, 1);
  return problem;
}

}  // namespace

extern const OpInfo paged_mqa_schedule_info;
const OpInfo paged_mqa_schedule_info = make_op_info("splits the work of paged_mqa_logits among workers",
                                                    PagedMqaScheduleProblem{}, kImplementations);

void paged_mqa_schedule(const PagedMqaScheduleArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
