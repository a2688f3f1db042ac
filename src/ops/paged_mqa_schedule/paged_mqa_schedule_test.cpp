#include "fathom/ops/paged_mqa_schedule.hpp"

#include "ops/op_test.hpp"

namespace fathom {
namespace {

std::vector<std::pair<int, int>> schedule_of(const TensorView& lens, std::int64_t workers) {
  const Tensor schedule = poisoned(DType::i32, {workers + 1, 2});
  paged_mqa_schedule({.context_lens = lens, .schedule = schedule}, test_context());
  std::vector<std::pair<int, int>> rows;
  for (std::int64_t w = 0; w <= workers; ++w) {
    rows.emplace_back(schedule.as<std::int32_t>()[2 * w], schedule.as<std::int32_t>()[2 * w + 1]);
  }
  return rows;
}

TEST(PagedMqaSchedule, HandComputed) {
  using Rows = std::vector<std::pair<int, int>>;
  // 1 + 0 + 4 + 2 splits on 3 workers: 3, 2, 2. The longest query of a request counts.
  const Tensor lens = tensor_of<int>(DType::i32, {4, 2}, {256, 1, 0, -7, 700, 1000, 257, 0});
  EXPECT_EQ(schedule_of(lens, 3), (Rows{{0, 0}, {2, 2}, {3, 0}, {4, 0}}));
  EXPECT_EQ(schedule_of(tensor_of<int>(DType::i32, {2, 1}, {0, 0}), 2), (Rows{{2, 0}, {2, 0}, {2, 0}}));
  EXPECT_EQ(schedule_of(tensor_of<int>(DType::i32, {1, 1}, {5}), 3), (Rows{{0, 0}, {1, 0}, {1, 0}, {1, 0}}));
  EXPECT_EQ(schedule_of(poisoned(DType::i32, {0, 1}), 1), (Rows{{0, 0}, {0, 0}}));
}

TEST(PagedMqaSchedule, SharesAreEqualAndCoverEverySplit) {
  Random random(3);
  for (int round = 0; round < 50; ++round) {
    const std::int64_t batch = random.integer(1, 20);
    const std::int64_t workers = random.integer(1, 40);
    Tensor lens(DType::i32, {batch, 1});
    std::vector<std::pair<int, int>> all;
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t len = random.integer(0, 3000);
      lens.set(b, static_cast<double>(len));
      for (int s = 0; s < (len + kPagedMqaSplitKeys - 1) / kPagedMqaSplitKeys; ++s)
        all.emplace_back(static_cast<int>(b), s);
    }
    const auto rows = schedule_of(lens, workers);
    all.emplace_back(static_cast<int>(batch), 0);
    std::size_t at = 0;
    for (std::int64_t w = 0; w < workers; ++w) {
      EXPECT_EQ(rows[static_cast<std::size_t>(w)], all[at]);
      const auto share = (static_cast<std::int64_t>(all.size()) - 1 + workers - 1 - w) / workers;
      at += static_cast<std::size_t>(share);
    }
    EXPECT_EQ(at + 1, all.size());
    EXPECT_EQ(rows.back(), all.back());
  }
}

TEST(PagedMqaSchedule, RejectsBadArguments) {
  const Tensor lens = tensor_of<int>(DType::i32, {2, 1}, {1, 2});
  EXPECT_ERROR(
      InvalidArgument, "paged_mqa_schedule: 'schedule' must have shape [*,2], got [3,3]",
      paged_mqa_schedule({.context_lens = lens, .schedule = poisoned(DType::i32, {3, 3})}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "'workers' must be at least 1, got 0",
      paged_mqa_schedule({.context_lens = lens, .schedule = poisoned(DType::i32, {1, 2})}, test_context()));
}

}  // namespace
}  // namespace fathom
