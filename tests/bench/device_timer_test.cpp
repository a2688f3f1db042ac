// Kernel times out of CUPTI's records, events in their place, and tensors on a device: without a GPU.
#include "device_timer.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "accuracy.hpp"
#include "cuda/device_context.hpp"
#include "cuda/fake_cublaslt.hpp"
#include "cuda/fake_driver.hpp"
#include "cuda/launch.hpp"
#include "device_bench.hpp"
#include "fake_cupti.hpp"
#include "fathom/core/op_info.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

using cuda::Activity;
using cuda::ActivityTrace;
using cuda::FakeCupti;
using cuda::FakeDriver;

constexpr std::uint64_t kFlush = 1'000'000;

class OnFakeDevice : public ::testing::Test {
 protected:
  FakeDriver driver_;
  Context context_ = cuda::make_context(driver_.table());
};

TEST(ActivityTrace, ReadsRecordsOfSeveralBuffersInTheOrderOfTheirStarts) {
  FakeCupti cupti;
  ActivityTrace trace(cupti.table());
  EXPECT_EQ(cupti.enabled, (std::vector<int>{cuda::kCuptiConcurrentKernel, cuda::kCuptiMemset}));
  cupti.kernel("_Z6secondi", 300, 450);
  cupti.other(77);  // a kind of another version
  cupti.memset(kFlush, 100);
  cupti.kernel("first", 200, 260);
  cupti.other(cuda::kCuptiConcurrentKernel + 1);
  const std::vector<Activity> all = trace.take();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_TRUE(all[0].memset);
  EXPECT_EQ(all[0].memset_bytes, kFlush);
  EXPECT_EQ(all[1].name, "first");
  EXPECT_EQ(all[1].end_ns - all[1].start_ns, 60u);
  EXPECT_EQ(all[2].name, "second(int)");
  EXPECT_TRUE(trace.take().empty());
}

TEST(ActivityTrace, LostAndUnreadableRecordsAreErrors) {
  FakeCupti cupti;
  ActivityTrace trace(cupti.table());
  cupti.dropped = 3;
  cupti.kernel("k", 1, 2);
  EXPECT_ERROR(CudaError, "CUPTI has dropped 3 records", (void)trace.take());
  cupti.kernel("k", 1, 2);
  EXPECT_EQ(trace.take().size(), 1u);
  cupti.kernel("k", 1, 2);
  cupti.end_of_buffer = 7;
  EXPECT_ERROR(CudaError, "records cannot be read: cuptiActivityGetNextRecord: status 7", (void)trace.take());
  cupti.failures["cuptiActivityFlushAll"] = 35;
  EXPECT_ERROR(CudaError, "cuptiActivityFlushAll: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES", (void)trace.take());
}

TEST(ActivityTrace, ThereIsOneAtATimeAndARefusalLeavesNone) {
  FakeCupti cupti;
  cupti.failures["cuptiActivityEnable"] = 35;
  EXPECT_ERROR(CudaError, "INSUFFICIENT_PRIVILEGES", (void)ActivityTrace(cupti.table()));
  cupti.failures.clear();
  {
    const ActivityTrace trace(cupti.table());
    EXPECT_ERROR(InvalidArgument, "there is one already", (void)ActivityTrace(cupti.table()));
  }
  EXPECT_EQ(cupti.disabled.back(), cuda::kCuptiConcurrentKernel);
  const ActivityTrace again(cupti.table());
}

TEST(FindCupti, SaysWhatItCouldNotOpen) {
  const cuda::CuptiProbe none = cuda::find_cupti("/nowhere/libcupti.so");
  EXPECT_EQ(none.library, nullptr);
  EXPECT_NE(none.detail.find("/nowhere/libcupti.so"), std::string::npos);
  const cuda::CuptiProbe other = cuda::find_cupti("libm.so.6");
  EXPECT_EQ(other.library, nullptr);
  EXPECT_NE(other.detail.find("lacks cuptiGetVersion"), std::string::npos);
}

Activity flush_at(std::uint64_t start) {
  Activity activity;
  activity.memset = true;
  activity.memset_value = detail::kFlushValue;
  activity.memset_bytes = kFlush;
  activity.start_ns = start;
  activity.end_ns = start + 50;
  return activity;
}

Activity kernel_at(std::string name, std::uint64_t start, std::uint64_t ns) {
  Activity activity;
  activity.name = std::move(name);
  activity.start_ns = start;
  activity.end_ns = start + ns;
  return activity;
}

TEST(TimingOf, SumsTheKernelsBetweenTheFlushes) {
  Activity own = flush_at(60);  // a memset of the op: part of its time
  own.memset_value = 0;
  const Timing timing = detail::timing_of(
      {kernel_at("before", 0, 5), flush_at(10), flush_at(20), kernel_at("a", 30, 4000), own,
       kernel_at("b", 70, 1000), flush_at(100), kernel_at("a", 110, 6000), kernel_at("b", 120, 1000)},
      2);
  EXPECT_EQ(timing.method, "cupti");
  ASSERT_EQ(timing.us.size(), 2u);
  EXPECT_DOUBLE_EQ(timing.us[0], 5.05);
  EXPECT_DOUBLE_EQ(timing.us[1], 7.0);
  EXPECT_EQ(timing.kernels, (std::vector<std::string>{"a", "memset", "b"}));
  EXPECT_EQ(timing.note, "the runs had different kernels");
  EXPECT_TRUE(timing.kernel_us.empty());
}

TEST(TimingOf, GivesTheMeanOfEveryKernel) {
  const Timing timing =
      detail::timing_of({flush_at(10), kernel_at("a", 30, 4000), kernel_at("b", 70, 1000), flush_at(100),
                         kernel_at("a", 110, 6000), kernel_at("b", 120, 2000)},
                        2);
  EXPECT_EQ(timing.kernel_us, (std::vector<double>{5, 1.5}));
  EXPECT_EQ(timing.us, (std::vector<double>{5, 8}));
}

TEST(TimingOf, RefusesATraceThatLacksRuns) {
  EXPECT_ERROR(CudaError, "recorded 1 of 2 runs",
               (void)detail::timing_of({flush_at(1), kernel_at("a", 2, 1)}, 2));
  EXPECT_ERROR(CudaError, "recorded 1 of 1 runs, some without a kernel",
               (void)detail::timing_of({flush_at(1), flush_at(2)}, 1));
  EXPECT_ERROR(CudaError, "recorded 0 of 1 runs", (void)detail::timing_of({kernel_at("a", 2, 1)}, 1));
}

TEST(NameKernels, OursGetTheNamesOfTheirLaunches) {
  std::vector<std::string> kernels{"fathom_kernel", "memset", "fathom_kernel"};
  detail::name_kernels(kernels, {"a"});
  EXPECT_EQ(kernels.front(), "fathom_kernel") << "one name for two kernels names none";
  detail::name_kernels(kernels, {"a", "b"});
  EXPECT_EQ(kernels, (std::vector<std::string>{"a", "memset", "b"}));
}

TEST_F(OnFakeDevice, LaunchNamesAreThoseOfThisThreadWhileItLives) {
  const auto launch = [&](const char* name) { cuda::launch(nullptr, name, {}, context_); };
  launch("before");
  {
    const cuda::LaunchNames names;
    launch("a");
    launch("b");
    EXPECT_EQ(names.names(), (std::vector<std::string>{"a", "b"}));
  }
  launch("after");
}

TEST(Timing, MeanMedianAndLeast) {
  Timing timing;
  EXPECT_EQ(timing.mean(), 0);
  EXPECT_EQ(timing.median(), 0);
  timing.us = {4, 1, 10, 3};
  EXPECT_DOUBLE_EQ(timing.mean(), 4.5);
  EXPECT_DOUBLE_EQ(timing.median(), 3.5);
  EXPECT_DOUBLE_EQ(timing.least(), 1);
  timing.us.push_back(2);
  EXPECT_DOUBLE_EQ(timing.median(), 3);
}

TEST_F(OnFakeDevice, TimerTakesCuptisTimes) {
  FakeCupti cupti;
  DeviceTimer timer(context_, cupti.table(), "", {.flush_bytes = kFlush, .runs = 3, .warm_up = 2});
  std::vector<std::int64_t> calls;
  const Timing timing = timer.time([&](std::int64_t run) {
    calls.push_back(run);
    if (calls.size() <= 2) return;  // the timer drops what the warm-up left
    cupti.memset(kFlush, 1000 * calls.size());
    cupti.kernel("k", 1000 * calls.size() + 100, 1000 * calls.size() + 600);
  });
  EXPECT_EQ(calls, (std::vector<std::int64_t>{0, 1, 0, 1, 2}));
  EXPECT_EQ(driver_.calls("cuMemsetD8Async"), 3);
  EXPECT_TRUE(timing.kernel_time());
  EXPECT_EQ(timing.us, (std::vector<double>{0.5, 0.5, 0.5}));
  EXPECT_FALSE(timing.hot);
  EXPECT_EQ(timer.reason(), "");
}

TEST_F(OnFakeDevice, TimerFallsBackToEventsAndSaysWhy) {
  const auto check = [&](DeviceTimer& timer, const std::string& why) {
    const Timing timing = timer.time([](std::int64_t) {});
    EXPECT_EQ(timing.method, "events");
    EXPECT_FALSE(timing.kernel_time());
    EXPECT_EQ(timing.us, (std::vector<double>{1000, 1000}));  // the fake's events are 1 ms apart
    EXPECT_NE(timing.note.find(why), std::string::npos) << timing.note;
  };
  DeviceTimer hot(context_, nullptr, "", {.flush_bytes = 0, .runs = 2});
  EXPECT_TRUE(hot.time([](std::int64_t) {}).hot);
  DeviceTimer none(context_, nullptr, "no library", {.flush_bytes = kFlush, .runs = 2});
  check(none, "no library");
  FakeCupti cupti;
  {
    DeviceTimer silent(context_, cupti.table(), "", {.flush_bytes = kFlush, .runs = 2});
    check(silent, "recorded 0 of 2 runs");
  }
  cupti.failures["cuptiActivityRegisterCallbacks"] = 35;
  DeviceTimer refused(context_, cupti.table(), "", {.flush_bytes = kFlush, .runs = 2});
  check(refused, "INSUFFICIENT_PRIVILEGES");
}

TEST_F(OnFakeDevice, HostCostDoesNotWaitForTheDevice) {
  int calls = 0;
  const int before = driver_.calls("cuStreamSynchronize");
  EXPECT_GT(host_cost_us(context_, [&](std::int64_t) { ++calls; }), 0);
  EXPECT_GE(calls, 100);
  EXPECT_LE(driver_.calls("cuStreamSynchronize") - before, calls / 50);
}

// The driver's queue holds about 1024 launches: with it full, a call takes as long as the device.
TEST_F(OnFakeDevice, HostCostNeverFillsTheDriversQueue) {
  for (const int kernels : {1, 4, 12, 5000}) {
    int queued = 0;
    int most = 0;
    int synchronized = driver_.calls("cuStreamSynchronize");
    (void)host_cost_us(context_, [&](std::int64_t) {
      if (driver_.calls("cuStreamSynchronize") !=
          std::exchange(synchronized, driver_.calls("cuStreamSynchronize")))
        queued = 0;
      for (int i = 0; i < kernels; ++i) cuda::launch(nullptr, "k", {}, context_);
      most = std::max(most, queued += kernels);
    });
    EXPECT_LE(most, std::max(512, kernels)) << kernels;
    EXPECT_GE(most, std::max(100, kernels)) << kernels;
  }
}

TEST_F(OnFakeDevice, BuffersAreOnTheContextsDevice) {
  const detail::BenchContext made_for(context_);
  const auto normal = bench_normal(DType::bf16, {1000, 700});
  const TensorView view = normal->view(DType::bf16, {1000, 700});
  EXPECT_EQ(view.device, context_.device());
  // The fake's memory is the host's: the device has what data() brings back.
  EXPECT_EQ(std::memcmp(view.data, normal->data(), static_cast<std::size_t>(normal->size())), 0);
  EXPECT_NE(view.data, static_cast<void*>(normal->data()));

  const auto numbers = bench_buffer(8);
  reinterpret_cast<std::int32_t*>(numbers->data())[1] = 5;
  EXPECT_EQ(numbers->view(DType::i32, {2}).as<std::int32_t>()[1], 5);
  reinterpret_cast<std::int32_t*>(numbers->data())[1] = 6;  // later contents arrive, too
  EXPECT_EQ(numbers->view(DType::i32, {2}).as<std::int32_t>()[1], 6);
  const TensorView placed = numbers->place(TensorView::contiguous(nullptr, DType::i32, {2}));
  EXPECT_EQ(placed.device, context_.device());
  EXPECT_EQ(placed.as<std::int32_t>()[1], 6);
  EXPECT_EQ(cold_copies(1), 1);

  const auto zeros = bench_zeros(100'001);
  const auto* bytes = zeros->view(DType::u8, {100'001}).as<std::uint8_t>();
  EXPECT_EQ(std::count(bytes, bytes + 100'001, 0), 100'001);
}

TEST(BenchBuffer, TheSameValuesOnEveryDevice) {
  const auto host = bench_normal(DType::f32, {600'000});
  FakeDriver driver;
  const Context context = cuda::make_context(driver.table());
  const detail::BenchContext made_for(context);
  const auto device = bench_normal(DType::f32, {600'000});
  EXPECT_EQ(std::memcmp(host->data(), device->data(), static_cast<std::size_t>(host->size())), 0);
}

// What a bench makes is what the op takes on a device: it gets as far as its kernels, of which there are
// none.
TEST(EveryBench, HandsTheOpTensorsOfTheDevice) {
  FakeDriver driver;
  ContextOptions options;
  options.compile_mode = CompileMode::cached_only;
  options.cache_dir = ::testing::TempDir() + "fathom_bench_no_kernels";
  const Context context = cuda::make_context(driver.table(), 0, options);
  for (const ListedProblem& problem : read_problems(FATHOM_SOURCE_DIR "/bench/problems/smoke.txt")) {
    const BenchCase work = make_bench(problem.canonical, context);
    try {
      work.run(0);
    } catch (const InvalidArgument& error) {
      ADD_FAILURE() << problem.text << ": " << error.what();
    } catch (const Error&) {  // no implementation for devices, or no kernel
    }
  }
}

// Whatever a problem asks for is made and run, or refused: one value at a time is one that few ops take.
TEST(EveryBench, RunsOrRefuses) {
  use_hot_weights();
  const Context context(ContextOptions{.threads = 1});
  int refused = 0, ran = 0;
  for (const ListedProblem& listed : read_problems(FATHOM_SOURCE_DIR "/bench/problems/smoke.txt")) {
    const std::string& problem = listed.canonical;
    for (std::size_t at = problem.find('='); at != problem.npos; at = problem.find('=', at + 1)) {
      const std::size_t end = std::min(problem.find(',', at), problem.size());
      const bool number = problem.find_first_not_of("0123456789", at + 1) >= end;
      for (const char* value :
           {number ? "0" : "u8", number ? "-1" : "f16", number ? "4611686018427387904" : "i64"}) {
        std::string other = problem;
        other.replace(at + 1, end - at - 1, value);
        SCOPED_TRACE(other);
        try {
          make_bench(other, context).run(0);
          ++ran;
        } catch (const Error&) {
          ++refused;
        }
      }
    }
  }
  EXPECT_GT(ran, 50);
  EXPECT_GT(refused, 300);
  EXPECT_ERROR(InvalidArgument, "bench: 'page' of paged_mqa_logits must be at least 1, got 0",
               make_bench("paged_mqa_logits:page=0", context));
  EXPECT_ERROR(InvalidArgument, "bench: 'rows' of scale must be from 0 to 1099511627776, got -1",
               make_bench("scale:rows=-1", context));
  EXPECT_ERROR(InvalidArgument, "bench: random tensors are f32, bf16 or f8e4m3, not u8",
               make_bench("scale:dtype=u8", context));
}

// Every op compiles and loads what it would launch, and launches and copies nothing.
TEST(EveryBench, OnlyCompiles) {
  jit::nvrtc();  // the one that dlopen() finds from now on
  const jit::Scratch scratch;
  FakeDriver driver;
  ContextOptions options;
  options.compile_mode = CompileMode::compile_only;
  options.cache_dir = scratch / "cache";
  const Context context = cuda::make_context(driver.table(), 0, options);
  const auto touched = [&] {
    int calls = 0;
    // A bench's own tensors get there by cuMemcpyHtoDAsync.
    for (const char* name : {"cuLaunchKernelEx", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2",
                             "cuMemsetD8Async", "cuMemsetD32Async"})
      calls += driver.calls(name);
    return calls;
  };
  int loaders = 0, hosts = 0;
  for (const ListedProblem& problem : read_problems(FATHOM_SOURCE_DIR "/bench/problems/smoke.txt")) {
    SCOPED_TRACE(problem.text);
    const BenchCase work = make_bench(problem.canonical, context);
    const int before = touched();
    const int modules = driver.calls("cuModuleLoadData");
    try {
      work.run(0);
      loaders += driver.calls("cuModuleLoadData") > modules ? 1 : 0;
    } catch (const NoImplementation&) {  // for devices
      ++hosts;
    }
    EXPECT_EQ(touched(), before);
  }
  EXPECT_GT(loaders, 25) << "the others share kernels with those before them, or have none";
  EXPECT_LT(hosts, 12);
}

// Every key of a problem reaches the op: the bench's own spelling is what ran.
TEST_F(OnFakeDevice, BenchesPassEveryFieldOn) {
  for (const std::string problem :
       {"fp8_gemm_nt:m=3,n=256,k=256,packed_a_scale=0,row_b_scale=1,packed_b_scale=0,out=f32,accumulate=1,"
        "decode=1,aligned=0",
        "bf16_gemm_nt:m=3,n=256,k=256,out=f32,accumulate=1,decode=1,aligned=0",
        "linear_bf16_fp32:m=3,n=256,k=256,decode=1,aligned=0"}) {
    EXPECT_EQ(make_bench(problem, context_).problem, problem);
  }
}

// What one run moves and multiplies, by hand.
TEST_F(OnFakeDevice, BenchesStateTheirWork) {
  const auto work = [&](const std::string& problem) { return make_bench(problem, context_); };
  // Queries, 1000 + 700 keys with a scale each, weights, whole rows of logits.
  EXPECT_DOUBLE_EQ(work("paged_mqa_logits:batch=2,next_n=1,heads=8,head_dim=128,max_len=1000,q=f8e4m3").bytes,
                   2 * 8 * 128 + 1700 * 132 + 2 * 8 * 4 + 2 * 1000 * 4);
  EXPECT_DOUBLE_EQ(work("mqa_logits:tokens=2,keys=1000,heads=8,head_dim=128,q=f8e4m3").bytes,
                   2 * 8 * 128 + 1000 * 132 + 2 * 8 * 4 + 2 * 1000 * 4);
  EXPECT_DOUBLE_EQ(work("mqa_logits:tokens=2,keys=1000,heads=8,head_dim=128,q=f32").bytes,
                   4 * (2 * 8 * 128 + 1000 * 128 + 2 * 8 + 2 * 1000));
  // Two experts and a shared one, three matrices of 256 x 128 with two scales each; x, ids, weights and out.
  const BenchCase moe =
      work("moe_forward:tokens=1,top_k=2,experts=2,hidden=256,intermediate=128,shared=128,x=bf16,out=bf16");
  EXPECT_DOUBLE_EQ(moe.bytes, 3 * 3 * (256 * 128 + 2 * 4) + 256 * 2 + 2 * 4 + 2 * 4 + 256 * 2);
  EXPECT_DOUBLE_EQ(moe.flops, 2 * 3 * 3 * 256 * 128);
  EXPECT_EQ(moe.arithmetic, DType::f8e4m3);
  for (const auto& [problem, arithmetic] :
       {std::pair("fp8_linear:m=1,n=128,k=128", DType::f8e4m3),
        {"fp8_gemm_nt:m=1,n=128,k=128", DType::f8e4m3},
        {"bf16_gemm_nt:m=1,n=128,k=128", DType::bf16},
        {"m_grouped_fp8_gemm_nt:groups=2,rows=4,n=128,k=128", DType::f8e4m3},
        {"m_grouped_bf16_gemm_nt:groups=2,rows=4,n=128,k=128", DType::bf16},
        {"mqa_logits:tokens=1,keys=8,heads=8,q=f8e4m3", DType::f8e4m3},
        {"paged_mqa_logits:heads=8,max_len=64,q=f8e4m3", DType::f8e4m3}}) {
    EXPECT_EQ(work(problem).arithmetic, arithmetic) << problem;
  }
}

// The device's result is made by hand: exact but for one element.
TEST_F(OnFakeDevice, AccuracyFindsTheLargestError) {
  BenchCase work = make_bench("fp8_gemm_nt:m=20,n=300,k=256,out=f32", context_);
  ASSERT_TRUE(work.product.has_value());
  const BenchProduct& product = *work.product;
  double worst_magnitude = 0;
  for (std::int64_t i = 0; i < 20; ++i) {
    for (std::int64_t j = 0; j < 300; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (std::int64_t k = 0; k < 256; ++k) {
        const double term = static_cast<double>(f8e4m3_to_float(product.a.as<std::uint8_t>()[i * 256 + k])) *
                            static_cast<double>(product.a_scale.as<float>()[i * 2 + k / 128]) *
                            static_cast<double>(f8e4m3_to_float(product.b.as<std::uint8_t>()[j * 256 + k])) *
                            static_cast<double>(product.b_scale.as<float>()[j / 128 * 2 + k / 128]);
        sum += term;
        magnitude += std::abs(term);
      }
      if (i == 19 && j == 299) {
        sum += magnitude / 8;
        worst_magnitude = magnitude;
      }
      product.out.as<float>()[i * 300 + j] = static_cast<float>(sum);
    }
  }
  ASSERT_GT(worst_magnitude, 0);
  const Accuracy accuracy = check_product(product, context_);
  EXPECT_EQ(accuracy.rows, 8);
  EXPECT_EQ(accuracy.columns, 300);
  EXPECT_NEAR(accuracy.bound, 0.125, 1e-6);
  EXPECT_GT(accuracy.calc_diff, 0);
  EXPECT_LT(accuracy.calc_diff, 1e-2);
  product.out.as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isinf(check_product(product, context_).bound));
  EXPECT_TRUE(std::isnan(check_product(product, context_).calc_diff));
  product.out.as<float>()[0] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(check_product(product, context_).calc_diff));
}

TEST_F(OnFakeDevice, ControlRunsAProductOfTheSameSize) {
  cuda::FakeCublasLt library;
  const BenchCase work = make_bench("fp8_gemm_nt:m=3,n=256,k=256", context_);
  {
    const Control fp8(library.table(), ControlKind::fp8, *work.product, context_);
    const int attributes = library.calls["cublasLtMatmulDescSetAttribute"];
    fp8.run();
    fp8.run();
    EXPECT_EQ(library.calls["cublasLtMatmul"], 2);
    const Control bf16(library.table(), ControlKind::bf16, *work.product, context_);
    EXPECT_EQ(attributes, 5);  // of which four are the scales
    EXPECT_EQ(library.calls["cublasLtMatmulDescSetAttribute"] - attributes, 1);
  }
  EXPECT_EQ(library.calls["cublasLtDestroy"], 2);
}

TEST_F(OnFakeDevice, ControlWithoutAKernelSaysSoAndLeaksNothing) {
  const BenchCase work = make_bench("bf16_gemm_nt:m=3,n=256,k=256", context_);
  const std::size_t allocations = driver_.allocations();
  for (const char* name : {"cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmulDescSetAttribute",
                           "cublasLtMatrixLayoutCreate", "cublasLtMatmulPreferenceCreate",
                           "cublasLtMatmulPreferenceSetAttribute", "cublasLtMatmulAlgoGetHeuristic"}) {
    cuda::FakeCublasLt library;
    library.failing = name;
    try {
      const Control control(library.table(), ControlKind::bf16, *work.product, context_);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("14"), std::string::npos) << error.what();
    }
    for (const char* kind :
         {"cublasLt", "cublasLtMatmulDesc", "cublasLtMatrixLayout", "cublasLtMatmulPreference"}) {
      const int failed = library.failing == std::string(kind) + "Create" ? 1 : 0;
      EXPECT_EQ(library.calls[std::string(kind) + "Create"] - failed,
                library.calls[std::string(kind) + "Destroy"])
          << name;
    }
  }
  EXPECT_EQ(driver_.allocations(), allocations);
}

// A row of an op without a kernel for the device is an error, the next one is measured.
TEST_F(OnFakeDevice, ARowThatCannotRunIsAnError) {
  DeviceTimer timer(context_, nullptr, "no library", {.flush_bytes = kFlush, .runs = 2});
  DeviceBench bench(context_, timer, /*control=*/false, /*check=*/false);
  EXPECT_EQ(bench.control(), "none");
  std::string op;
  for (const OpInfo* info : all_ops()) {
    if (std::none_of(info->implementations.begin(), info->implementations.end(),
                     [](auto name) { return name.starts_with("cuda:"); })) {
      op = info->name;
    }
  }
  if (op.empty()) GTEST_SKIP() << "every op runs on CUDA";
  const BenchRow row = bench.measure({"a set", op, canonical_problem(op)});
  EXPECT_EQ(row.set, "a set");
  EXPECT_NE(row.error.find(op + ": no implementation for cuda:0;"), std::string::npos) << row.error;
  EXPECT_EQ(row.error.find('\n'), std::string::npos);
  EXPECT_FALSE(row.timing.measured());
}

}  // namespace
}  // namespace fathom
