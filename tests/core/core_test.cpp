#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>
#include <vector>

#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "ops/dispatch.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(Problem, HasOneSpelling) {
  const RmsNormProblem problem{.tokens = 4, .dim = 128, .x = DType::bf16};
  EXPECT_EQ(problem_string(problem), "rms_norm:tokens=4,dim=128,x=bf16,weight=bf16,out=f32");
  EXPECT_EQ(parse_problem<RmsNormProblem>(problem_string(problem)), problem);
  EXPECT_ERROR(InvalidArgument, "a problem has no 'heads'; it has tokens, dim",
               parse_problem<RmsNormProblem>("rms_norm:heads=3"));
  EXPECT_ERROR(InvalidArgument, "'dim' cannot be '12x'", parse_problem<RmsNormProblem>("rms_norm:dim=12x"));
  EXPECT_ERROR(InvalidArgument, "expected rms_norm:key=value", parse_problem<RmsNormProblem>("rms_norm:dim"));
  EXPECT_ERROR(InvalidArgument, "rms_norm: 'dim' is given twice",
               parse_problem<RmsNormProblem>("rms_norm:dim=1,tokens=2,dim=1"));
  EXPECT_EQ(parse_problem<SiluMulProblem>("silu_mul:clamp=1").clamp, true);
  for (const char* value : {"2", "-1", "yes", ""})
    EXPECT_ERROR(InvalidArgument, "'clamp' cannot be '",
                 parse_problem<SiluMulProblem>("silu_mul:clamp=" + std::string(value)));
}

// Every code of e4m3 comes back, and every float rounds to a nearest code.
TEST(Float8, RoundsToNearestEven) {
  for (int code = 0; code < 256; ++code) {
    const float value = f8e4m3_to_float(static_cast<std::uint8_t>(code));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_f8e4m3(value), code);
  }
  for (int code = 0; code < 0x7e; ++code) {
    const float low = f8e4m3_to_float(static_cast<std::uint8_t>(code));
    const float high = f8e4m3_to_float(static_cast<std::uint8_t>(code + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(float_to_f8e4m3(middle), code + (code & 1)) << middle;
    EXPECT_EQ(float_to_f8e4m3(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(float_to_f8e4m3(std::nextafter(middle, 1e9f)), code + 1);
  }
  EXPECT_EQ(float_to_f8e4m3(1e9f), 0x7e);
  EXPECT_EQ(float_to_f8e4m3(-INFINITY), 0xfe);
  EXPECT_EQ(float_to_f8e4m3(NAN), 0x7f);
}

TEST(Context, ForcedImplementationIsObeyedOrFails) {
  EXPECT_ERROR(InvalidArgument, "nothing is named 'cpu:nonsense'",
               Context(ContextOptions{.force_implementation = "cpu:nonsense"}));
  Random random(1);
  const Tensor x = random.normal(DType::f32, {2, 8});
  const Tensor weight = random.normal(DType::f32, {8});
  const Tensor out = poisoned(DType::f32, {2, 8});
  const Context context(ContextOptions{.threads = 1, .force_implementation = "rms_norm=ref:any"});
  rms_norm({.x = x, .weight = weight, .out = out}, context);
  EXPECT_TRUE(std::isfinite(out[0]));
  // A list: the first entry that speaks of an op.
  const Context list(
      ContextOptions{.threads = 1, .force_implementation = "rms_norm=ref:any,layer_norm=cpu:simd,ref:any"});
  std::string name;
  EXPECT_TRUE(detail::forced(list, "layer_norm", name));
  EXPECT_EQ(name, "cpu:simd");
  EXPECT_TRUE(detail::forced(list, "rope", name));
  EXPECT_EQ(name, "ref:any");
  EXPECT_ERROR(InvalidArgument, "nothing is named 'cpu:nonsense'",
               Context(ContextOptions{.force_implementation = "ref:any,cpu:nonsense"}));
}

// Some with fewer pieces than threads, some after a pause in which the threads went away.
TEST(Context, CoversEveryIndexOnce) {
  for (const int threads : {1, 2, 5}) {
    for (const std::int64_t count : {1, 2, 3, 7, 8, 61, 1000}) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
        test_context(threads).parallel_for(count, 7, [&](std::int64_t begin, std::int64_t end) {
          EXPECT_LT(begin, end);
          for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
        });
        for (const auto& hit : hits) ASSERT_EQ(hit, 1);
        if (repeat == 10) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
  }
}

TEST(Context, ParallelForTakesLargeCounts) {
  const std::int64_t count = (std::int64_t{5} << 31) + 3;
  std::atomic<std::int64_t> sum = 0, highest = 0;
  test_context(2).parallel_for(count, 1 << 20, [&](std::int64_t begin, std::int64_t end) {
    sum += end - begin;
    std::int64_t last = highest;
    while (last < end && !highest.compare_exchange_weak(last, end)) {
    }
  });
  EXPECT_EQ(sum, count);
  EXPECT_EQ(highest, count);
}

TEST(Context, AnExceptionReachesTheCallerAndTheThreadsGoOn) {
  const Context& context = test_context(2);
  for (int repeat = 0; repeat < 50; ++repeat) {
    EXPECT_ERROR(InvalidArgument, "piece 77",
                 context.parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) {
                   if (begin <= 77 && 77 < end) throw InvalidArgument("piece 77");
                 }));
    std::atomic<std::int64_t> sum = 0;
    context.parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
    EXPECT_EQ(sum, 100);
  }
}

TEST(Context, LoopsOfSeveralThreadsAndInsideOfLoops) {
  const Context& context = test_context(2);
  std::atomic<std::int64_t> sum = 0;
  const auto many = [&] {
    for (int repeat = 0; repeat < 200; ++repeat) {
      context.parallel_for(8, 1, [&](std::int64_t begin, std::int64_t end) {
        context.parallel_for(end - begin, 1,
                             [&](std::int64_t first, std::int64_t last) { sum += last - first; });
      });
    }
  };
  std::thread other(many);
  many();
  other.join();
  EXPECT_EQ(sum, 2 * 200 * 8);
}

TEST(TensorView, RefusesSizesThatOverflow) {
  EXPECT_ERROR(InvalidArgument, "overflows",
               TensorView::contiguous(nullptr, DType::f32, {1LL << 40, 1LL << 40}));
  EXPECT_ERROR(InvalidArgument, "negative", TensorView::contiguous(nullptr, DType::f32, {-1, 2}));
}

}  // namespace
}  // namespace fathom
