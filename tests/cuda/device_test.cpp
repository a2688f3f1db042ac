// Devices, memory, streams, graphs, launches and tensor maps over a replaced driver.
#include "fathom/cuda/device.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "cuda/device_context.hpp"
#include "cuda/launch.hpp"
#include "cuda/tensor_map.hpp"
#include "fake_driver.hpp"
#include "fathom/engine/model.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/scale.hpp"
#include "ops/op_test.hpp"

namespace fathom::cuda {
namespace {

constexpr std::string_view kUnknown = ": CUDA_ERROR_UNKNOWN (unknown error) while ";

TEST(ParseDevice, TakesThreeForms) {
  EXPECT_EQ(parse_device("cpu"), Device{});
  EXPECT_EQ(parse_device("cuda"), (Device{DeviceKind::cuda, 0}));
  EXPECT_EQ(parse_device("cuda:13"), (Device{DeviceKind::cuda, 13}));
  for (const char* text : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda0", "CUDA", "cuda:99999999999"}) {
    EXPECT_ERROR(InvalidArgument,
                 "Context: 'device' must be cpu, cuda or cuda:N, got '" + std::string(text) + "'",
                 Context(ContextOptions{.device = text}));
  }
}

TEST(DeviceContext, RetainsAndReleases) {
  FakeDriver fake;
  {
    const Context context = make_context(fake.table());
    EXPECT_EQ(context.device(), (Device{DeviceKind::cuda, 0}));
    EXPECT_EQ(device_context(context).info().num_sms, 132);
    const Context copy = context;
    EXPECT_EQ(fake.calls("cuDevicePrimaryCtxRetain"), 1);
    EXPECT_EQ(&device_context(copy), &device_context(context));
  }
  EXPECT_EQ(fake.calls("cuDevicePrimaryCtxRelease_v2"), 1);
  EXPECT_EQ(fake.live_handles(), 0);
}

TEST(DeviceContext, SeveralInOneProcess) {
  FakeDriver fake;
  fake.devices.push_back({.index = 1, .sm_major = 12, .sm_minor = 0, .num_sms = 188, .name = "other"});
  const Context first = make_context(fake.table(), 0);
  const Context second = make_context(fake.table(), 1);
  EXPECT_EQ(device_context(second).info().sm(), 120);
  EXPECT_NE(device_context(first).handle(), device_context(second).handle());
  EXPECT_ERROR(InvalidArgument, "Context: 'device' must be one of the machine's, got cuda:2 of 2",
               make_context(fake.table(), 2));
}

TEST(DeviceContext, EveryFailureOfOpeningIsNamedAndLeaksNothing) {
  for (const char* call :
       {"cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"}) {
    FakeDriver fake;
    fake.fail(call);
    EXPECT_ERROR(CudaError, std::string(call) + std::string(kUnknown), make_context(fake.table()));
    EXPECT_EQ(fake.live_handles(), 0);
  }
  FakeDriver fake;
  fake.fail("cuDeviceGet", 999, 1);  // the second call, between the description and the context
  EXPECT_ERROR(CudaError, "cuDeviceGet" + std::string(kUnknown) + "opening cuda:0",
               make_context(fake.table()));
}

TEST(DeviceContext, KeepsOneOfEachTypeAndDestroysItFirst) {
  FakeDriver fake;
  std::vector<int> gone;
  struct First {
    std::vector<int>* gone;
    ~First() { gone->push_back(1); }
  };
  struct Second {
    std::vector<int>* gone;
    ~Second() { gone->push_back(2); }
  };
  {
    const Context context = make_context(fake.table());
    DeviceContext& device = device_context(context);
    int made = 0;
    const auto make = [&] {
      ++made;
      return std::shared_ptr<First>(new First{&gone});
    };
    std::vector<std::thread> threads;
    std::vector<First*> seen(4);
    for (std::size_t i = 0; i < seen.size(); ++i) {
      threads.emplace_back([&, i] { seen[i] = &device.attached<First>(make); });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(made, 1);
    for (const First* first : seen) EXPECT_EQ(first, seen[0]);
    device.attached<Second>([&] { return std::shared_ptr<Second>(new Second{&gone}); });
    EXPECT_EQ(fake.calls("cuDevicePrimaryCtxRelease_v2"), 0);
  }
  EXPECT_EQ(gone, (std::vector<int>{2, 1}));
}

TEST(Current, SetsAndRestores) {
  FakeDriver fake;
  const Context context = make_context(fake.table());
  const DeviceContext& device = device_context(context);
  EXPECT_EQ(FakeDriver::current_context(), nullptr);
  {
    const Current current(device);
    EXPECT_EQ(FakeDriver::current_context(), device.handle());
    const Current again(device);  // already current: no call to set it
    EXPECT_EQ(fake.calls("cuCtxSetCurrent"), 1);
    std::thread([&] {
      EXPECT_EQ(FakeDriver::current_context(), nullptr);
      const Current other(device);
      EXPECT_EQ(FakeDriver::current_context(), device.handle());
    }).join();
  }
  EXPECT_EQ(FakeDriver::current_context(), nullptr);
  fake.fail("cuCtxGetCurrent");
  EXPECT_ERROR(CudaError, "cuCtxGetCurrent", Current{device});
  fake.fail("cuCtxSetCurrent");
  EXPECT_ERROR(CudaError, "cuCtxSetCurrent" + std::string(kUnknown) + "making a device current",
               Current{device});
}

TEST(Context, AnotherStreamSharesEverything) {
  FakeDriver fake;
  const Context context = make_context(fake.table());
  const Stream stream(context);
  const Context other = context.on_stream(stream.handle());
  EXPECT_EQ(context.stream(), nullptr);
  EXPECT_EQ(other.stream(), stream.handle());
  other.count_fallback("op", "slow");
  EXPECT_EQ(context.fallbacks().size(), 1u);
  EXPECT_ERROR(InvalidArgument, "on_stream needs a CUDA device, the context's device is cpu",
               test_context().on_stream(nullptr));
  EXPECT_ERROR(InvalidArgument, "a CUDA device is needed, the context's device is cpu",
               device_context(test_context()));
}

TEST(Owners, CopyThereAndBack) {
  FakeDriver fake;
  {
    const Context context = make_context(fake.table());
    std::vector<std::uint8_t> sent(1000);
    std::iota(sent.begin(), sent.end(), std::uint8_t{0});
    std::vector<std::uint8_t> received(sent.size());
    const DeviceBuffer first(context, 1000);
    DeviceBuffer second(context, 1000);
    copy_to_device(context, first.data(), sent.data(), 1000);
    fill(context, second.data(), 7, 1000);
    copy_on_device(context, second.data(), first.data(), 500);
    copy_to_host(context, received.data(), second.data(), 1000);
    synchronize(context);
    std::fill(sent.begin() + 500, sent.end(), std::uint8_t{7});
    EXPECT_EQ(received, sent);
    const TensorView view = first.view(DType::f32, {10, 25});
    EXPECT_EQ(view.device, context.device());
    EXPECT_ERROR(InvalidArgument, "DeviceBuffer: f32[10,26] does not fit in 1000 bytes",
                 first.view(DType::f32, {10, 26}));
    const DeviceBuffer moved = std::move(second);
    EXPECT_EQ(fake.allocations(), 2u);
    EXPECT_EQ(DeviceBuffer(context, 0).data(), nullptr);
    EXPECT_ERROR(InvalidArgument, "size must not be negative, got -1", DeviceBuffer(context, -1));
  }
  EXPECT_EQ(fake.allocations(), 0u);
  EXPECT_EQ(fake.live_handles(), 0);
}

TEST(Owners, OutliveTheContextTheyWereMadeWith) {
  FakeDriver fake;
  {
    DeviceBuffer buffer;
    {
      const Context context = make_context(fake.table());
      buffer = DeviceBuffer(context, 64);
    }
    EXPECT_EQ(fake.calls("cuDevicePrimaryCtxRelease_v2"), 0);
  }
  EXPECT_EQ(fake.allocations(), 0u);
  EXPECT_EQ(fake.calls("cuDevicePrimaryCtxRelease_v2"), 1);
}

TEST(Owners, EventsMeasureAndOrder) {
  FakeDriver fake;
  const Context context = make_context(fake.table());
  const Event start(context, true);
  const Event stop(context, true);
  start.record(context);
  stop.record(context);
  stop.wait(context);
  stop.synchronize();
  EXPECT_EQ(stop.milliseconds_since(start), 1.0);
}

// Each call, failing in turn, is the one that is named, and nothing stays behind.
TEST(Owners, EveryFailureIsNamedAndLeaksNothing) {
  struct Case {
    const char* call;
    std::function<void(const Context&)> body;
  };
  char byte = 0;
  const auto with_buffer = [&](const auto& body) {
    return [&, body](const Context& context) {
      const DeviceBuffer buffer(context, 1);
      body(context, buffer);
    };
  };
  const auto with_event = [](const auto& body) {
    return [body](const Context& context) {
      const Event event(context, true);
      body(context, event);
    };
  };
  const auto graph = [](const Context& context) {
    const Stream stream(context);
    const Context on_stream = context.on_stream(stream.handle());
    Graph::capture(on_stream, [] {}).launch(on_stream);
  };
  const std::vector<Case> cases{
      {"cuMemAlloc_v2", [](const Context& c) { DeviceBuffer(c, 1); }},
      {"cuStreamCreate", [](const Context& c) { Stream{c}; }},
      {"cuStreamSynchronize", [](const Context& c) { Stream(c).synchronize(); }},
      {"cuStreamSynchronize", [](const Context& c) { synchronize(c); }},
      {"cuEventCreate", [](const Context& c) { Event{c}; }},
      {"cuEventRecord", with_event([](const Context& c, const Event& e) { e.record(c); })},
      {"cuStreamWaitEvent", with_event([](const Context& c, const Event& e) { e.wait(c); })},
      {"cuEventSynchronize", with_event([](const Context&, const Event& e) { e.synchronize(); })},
      {"cuEventElapsedTime", with_event([](const Context&, const Event& e) { e.milliseconds_since(e); })},
      {"cuMemcpyHtoDAsync_v2",
       with_buffer([&](const Context& c, const DeviceBuffer& b) { copy_to_device(c, b.data(), &byte, 1); })},
      {"cuMemcpyDtoHAsync_v2",
       with_buffer([&](const Context& c, const DeviceBuffer& b) { copy_to_host(c, &byte, b.data(), 1); })},
      {"cuMemcpyDtoDAsync_v2", with_buffer([](const Context& c, const DeviceBuffer& b) {
         copy_on_device(c, b.data(), b.data(), 1);
       })},
      {"cuMemsetD8Async",
       with_buffer([](const Context& c, const DeviceBuffer& b) { fill(c, b.data(), 0, 1); })},
      {"cuStreamBeginCapture_v2", graph},
      {"cuStreamEndCapture", graph},
      {"cuGraphInstantiateWithFlags", graph},
      {"cuGraphLaunch", graph},
  };
  for (const Case& each : cases) {
    FakeDriver fake;
    fake.fail(each.call);
    {
      const Context context = make_context(fake.table());
      EXPECT_ERROR(CudaError, std::string(each.call) + std::string(kUnknown), each.body(context));
    }
    EXPECT_EQ(fake.allocations(), 0u) << each.call;
    EXPECT_EQ(fake.live_handles(), 0) << each.call;
  }
}

TEST(Owners, OutOfMemorySaysHowMuchAndWhere) {
  FakeDriver fake;
  const Context context = make_context(fake.table());
  fake.fail("cuMemAlloc_v2", kErrorOutOfMemory);
  EXPECT_ERROR(
      CudaError,
      "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (out of memory) while allocating 4096 bytes on cuda:0",
      DeviceBuffer(context, 4096));
}

TEST(Graph, AFailedRecordingIsDropped) {
  FakeDriver fake;
  {
    const Context context = make_context(fake.table());
    EXPECT_ERROR(InvalidArgument, "Graph: capture needs a stream", Graph::capture(context, [] {}));
    const Stream stream(context);
    EXPECT_ERROR(InvalidArgument, "of the body", Graph::capture(context.on_stream(stream.handle()), [] {
                   throw InvalidArgument("of the body");
                 }));
    EXPECT_FALSE(fake.capturing);
  }
  EXPECT_EQ(fake.live_handles(), 0);
}

TEST(Launch, PassesShapeStreamAndAttributes) {
  FakeDriver fake;
  const Context context = make_context(fake.table());
  const Stream stream(context);
  const auto function = reinterpret_cast<FunctionHandle>(std::uintptr_t{16});
  launch(function, "kernel", {.grid = {7, 2, 1}, .block = {128}, .shared_bytes = 1000},
         context.on_stream(stream.handle()), 1, 2.0f);
  EXPECT_EQ(fake.launched.grid_x, 7u);
  EXPECT_EQ(fake.launched.grid_y, 2u);
  EXPECT_EQ(fake.launched.block_x, 128u);
  EXPECT_EQ(fake.launched.shared_bytes, 1000u);
  EXPECT_EQ(fake.launched.stream, stream.handle());
  EXPECT_TRUE(fake.launch_attributes.empty());
  launch(function, "kernel", {.grid = {4}, .block = {128}, .cluster = {2}, .pdl = true}, context);
  ASSERT_EQ(fake.launch_attributes.size(), 2u);
  EXPECT_EQ(fake.launch_attributes[0].id, kLaunchClusterDimension);
  EXPECT_EQ(fake.launch_attributes[0].value.cluster.x, 2u);
  EXPECT_EQ(fake.launch_attributes[1].id, kLaunchProgrammaticStreamSerialization);
  EXPECT_EQ(fake.launch_attributes[1].value.programmatic_stream_serialization, 1);
  fake.fail("cuLaunchKernelEx");
  EXPECT_ERROR(CudaError,
               "launching op.kernel with grid 4x1x1, block 128x1x1, cluster 1x1x1, 9 bytes of shared memory",
               launch(function, "op.kernel", {.grid = {4}, .block = {128}, .shared_bytes = 9}, context));
}

TEST(TensorMap, SaysWhatTheCopyEngineRefuses) {
  const auto* data = reinterpret_cast<const void*>(std::uintptr_t{4096});
  const TensorMapSpec good{.data = data,
                           .type = TensorMapType::bf16,
                           .rank = 2,
                           .size = {7168, 100},
                           .stride_bytes = {0, 14336},
                           .box = {64, 128},
                           .swizzle = TensorMapSwizzle::bytes_128};
  EXPECT_FALSE(tensor_map_refusal(good).has_value());
  const auto expect = [&](const std::string& reason, const auto& change) {
    TensorMapSpec spec = good;
    change(spec);
    const auto refusal = tensor_map_refusal(spec);
    EXPECT_EQ(refusal ? refusal->text() : "accepted", reason);
  };
  using Spec = TensorMapSpec;
  expect("needs an address that is a multiple of 16, got 0", [](Spec& s) { s.data = nullptr; });
  expect("needs an address that is a multiple of 16, got 4104",
         [](Spec& s) { s.data = reinterpret_cast<const void*>(std::uintptr_t{4104}); });
  expect("needs a stride that is a multiple of 16 bytes of axis 1, got 14338",
         [](Spec& s) { s.stride_bytes[1] = 14338; });
  expect("needs a stride of 0 to 2^40 bytes of axis 1, got 1099511627776",
         [](Spec& s) { s.stride_bytes[1] = 1LL << 40; });
  expect("needs a size of 1 to 2^32 of axis 0, got 0", [](Spec& s) { s.size[0] = 0; });
  expect("needs a size of 1 to 2^32 of axis 1, got 4294967297", [](Spec& s) { s.size[1] = (1LL << 32) + 1; });
  expect("needs a tile of 1 to 256 elements of axis 1, got 257", [](Spec& s) { s.box[1] = 257; });
  expect("needs rows of whole 16 bytes to store through, got 600", [](Spec& s) {
    s.stored = true;
    s.size[0] = 300;
  });
  expect("needs a tile whose rows are a multiple of 16 bytes, got 10", [](Spec& s) { s.box[0] = 5; });
  expect("needs a tile whose rows have no more bytes than the swizzle, got 256",
         [](Spec& s) { s.box[0] = 128; });
  expect("needs 1 to 5 axes, got 6", [](Spec& s) { s.rank = 6; });
  FakeDriver fake;
  const auto driver = fake.table();
  encode_tensor_map(*driver, good);
  TensorMapSpec bad = good;
  bad.size[0] = 0;
  EXPECT_ERROR(InvalidArgument, "tensor map: needs a size", encode_tensor_map(*driver, bad));
  fake.fail("cuTensorMapEncodeTiled");
  EXPECT_EQ(fake.calls("cuTensorMapEncodeTiled"), 1);
  EXPECT_ERROR(CudaError, "cuTensorMapEncodeTiled", encode_tensor_map(*driver, good));
}

// An op without a kernel says so before it reads anything: the pointers of these tensors cannot be read.
TEST(Model, SaysThatItRunsOnTheHost) {
  FakeDriver fake;
  EXPECT_ERROR(InvalidArgument, "model: runs on the CPU so far; the context's device must be cpu, got cuda:0",
               Model::load("nowhere", {}, make_context(fake.table())));
}

TEST(Dispatch, AnOpOfTheHostRefusesDeviceTensors) {
  FakeDriver fake;
  const Context context = make_context(fake.table());
  void* nowhere = reinterpret_cast<void*>(std::uintptr_t{64});
  const auto view = [&](DType dtype, std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(nowhere, dtype, shape, context.device());
  };
  EXPECT_ERROR(
      NoImplementation,
      "scale: no implementation for cuda:0\n  cpu:simd: needs tensors in host memory, the context's device "
      "is cuda:0\n",
      scale({.x = view(DType::f32, {2, 100}), .out = view(DType::f32, {2, 100})}, context));
  EXPECT_ERROR(
      InvalidArgument, "'x' must be in host memory, got a CUDA tensor",
      rms_norm(
          {.x = view(DType::f32, {2, 8}), .weight = view(DType::f32, {8}), .out = view(DType::f32, {2, 8})},
          test_context()));
}

}  // namespace
}  // namespace fathom::cuda
