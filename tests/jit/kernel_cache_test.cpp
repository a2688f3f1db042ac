// Kernels in a device's memory, on a driver that is none: loads, modes, failures, threads.
#include "jit/kernel_cache.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "cuda/fake_driver.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"
#include "ops/op_test.hpp"

namespace fathom::jit {
namespace {

struct Plan {
  std::int32_t add;
  std::int32_t times;
};

std::atomic<int> texts{0};  // how often a source was written

Source source_of(const Plan& plan) {
  ++texts;
  return {"test.add" + std::to_string(plan.add),
          "extern \"C\" __global__ void fathom_kernel(int* x) { *x = *x * " + std::to_string(plan.times) +
              " + " + std::to_string(plan.add) + "; }"};
}

struct KernelCacheTest : testing::Test {
  KernelCacheTest() {
    nvrtc();  // the one that the tests use is the one that dlopen() finds from now on
    options.cache_dir = scratch / "cache";
  }
  Context context() { return cuda::make_context(fake.table(), 0, options); }

  Scratch scratch;
  cuda::FakeDriver fake;
  ContextOptions options;
};

TEST_F(KernelCacheTest, LoadsOnceAndFindsByPlan) {
  const Context ctx = context();
  const int before = texts;
  const Kernel& first = kernel(ctx, source_of, Plan{1, 2});
  EXPECT_EQ(first.name(), "test.add1");
  EXPECT_NE(first.function(), nullptr);
  EXPECT_EQ(&kernel(ctx, source_of, Plan{1, 2}), &first);
  EXPECT_EQ(texts, before + 1) << "a known plan writes no source";
  EXPECT_NE(&kernel(ctx, source_of, Plan{2, 1}), &first);
  EXPECT_EQ(&kernel_cache(ctx).get(source_of({1, 2}), CompileMode::run), &first) << "found by its text, too";
  EXPECT_EQ(fake.calls("cuModuleLoadData"), 2);
  EXPECT_EQ(fake.calls("cuFuncSetAttribute"), 4) << "shared memory and cluster size of each";
}

TEST_F(KernelCacheTest, ASecondContextReadsTheDisk) {
  kernel(context(), source_of, Plan{3, 1});
  options.compile_mode = CompileMode::cached_only;
  EXPECT_EQ(kernel(context(), source_of, Plan{3, 1}).name(), "test.add3");
}

TEST_F(KernelCacheTest, CompileOnlyLoadsAndLaunchesNothing) {
  Context ctx = context();
  ctx.set_compile_mode(CompileMode::compile_only);
  EXPECT_EQ(ctx.compile_mode(), CompileMode::compile_only);
  const Kernel& loaded = kernel(ctx, source_of, Plan{4, 1});
  launch(loaded, {}, ctx, static_cast<int*>(nullptr));
  EXPECT_EQ(fake.calls("cuModuleLoadData"), 1);
  EXPECT_EQ(fake.calls("cuLaunchKernelEx"), 0);
  ctx.set_compile_mode(CompileMode::run);
  launch(kernel(ctx, source_of, Plan{4, 1}), {}, ctx, static_cast<int*>(nullptr));
  EXPECT_EQ(fake.calls("cuModuleLoadData"), 1);
  EXPECT_EQ(fake.calls("cuLaunchKernelEx"), 1);
}

TEST_F(KernelCacheTest, CachedOnlyCompilesNothing) {
  options.compile_mode = CompileMode::cached_only;
  Context ctx = context();
  EXPECT_ERROR(EnvironmentError, "kernel test.add5 for sm_90a is neither in",
               kernel(ctx, source_of, Plan{5, 1}));
  EXPECT_ERROR(EnvironmentError, options.cache_dir, kernel(ctx, source_of, Plan{5, 1}));
  ctx.set_compile_mode(CompileMode::run);
  EXPECT_EQ(kernel(ctx, source_of, Plan{5, 1}).name(), "test.add5") << "an error is not remembered";
  ctx.set_compile_mode(CompileMode::cached_only);
  EXPECT_EQ(kernel(ctx, source_of, Plan{5, 1}).name(), "test.add5");
}

TEST_F(KernelCacheTest, TheDeviceSaysTheArchitecture) {
  fake.devices[0].sm_major = 8;
  options.compile_mode = CompileMode::cached_only;
  EXPECT_ERROR(EnvironmentError, "for sm_80", kernel(context(), source_of, Plan{6, 1}));
}

TEST_F(KernelCacheTest, DriverFailuresNameTheKernelAndLeaveNothing) {
  for (const char* call :
       {"cuModuleLoadData", "cuModuleGetFunction", "cuFuncGetAttribute", "cuFuncSetAttribute"}) {
    const Context ctx = context();
    kernel_cache(ctx);
    const int handles = fake.live_handles();
    fake.fail(call);
    EXPECT_ERROR(CudaError, std::string(call) + ": CUDA_ERROR_UNKNOWN", kernel(ctx, source_of, Plan{7, 1}));
    EXPECT_EQ(fake.live_handles(), handles) << call;
    EXPECT_EQ(kernel(ctx, source_of, Plan{7, 1}).name(), "test.add7") << "the next call tries again";
  }
  EXPECT_EQ(fake.live_handles(), 0) << "kernels go with their context";
}

TEST_F(KernelCacheTest, ManyThreadsLoadItOnce) {
  const Context ctx = context();
  std::vector<const Kernel*> got(8);
  std::vector<std::thread> threads;
  for (const Kernel*& slot : got)
    threads.emplace_back([&ctx, &slot] { slot = &kernel(ctx, source_of, Plan{8, 1}); });
  for (std::thread& thread : threads) thread.join();
  for (const Kernel* slot : got) EXPECT_EQ(slot, got[0]);
  EXPECT_EQ(fake.calls("cuModuleLoadData"), 1);
}

TEST_F(KernelCacheTest, PlansThatShareABucketAreKeptApart) {
  const Context ctx = context();
  const Kernel& one = kernel_cache(ctx).get(source_of({9, 1}), CompileMode::run);
  const int maker = 0;
  KernelCache& cache = kernel_cache(ctx);
  for (std::int32_t i = 0; i < 2000; ++i) cache.remember(&maker, &i, sizeof(i), one);
  for (std::int32_t i = 0; i < 2000; ++i) EXPECT_EQ(cache.find(&maker, &i, sizeof(i)), &one);
  const std::int32_t other = 2000;
  EXPECT_EQ(cache.find(&maker, &other, sizeof(other)), nullptr);
  const std::int64_t longer = 5;
  EXPECT_EQ(cache.find(&maker, &longer, sizeof(longer)), nullptr);
}

TEST_F(KernelCacheTest, AHostContextHasNone) {
  EXPECT_ERROR(InvalidArgument, "CUDA device", kernel_cache(Context(ContextOptions{})));
}

}  // namespace
}  // namespace fathom::jit
