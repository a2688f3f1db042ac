// A warm launch, from an implementation to the driver, with the real compiler and no GPU: it allocates
// nothing.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"
#include "ops/bf16_gemm_nt/bf16_gemm_nt_impl.hpp"
#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/fp8_linear/fp8_linear_impl.hpp"
#include "ops/head_gate/head_gate_impl.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"
#include "ops/op_test.hpp"

namespace {
thread_local std::int64_t allocations = 0;  // of this thread, by operator new
}

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {  // std::stable_sort calls it
  ++allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace fathom {
namespace {

int launches = 0;

// A device of which everything succeeds, by functions that allocate nothing: a FakeDriver keeps books.
std::shared_ptr<const cuda::Driver> quiet_driver() {
  auto driver = std::make_shared<cuda::Driver>();
#define FATHOM_CUDA_QUIET(name, ...) driver->name = [](auto...) -> cuda::Result { return cuda::kSuccess; };
  FATHOM_CUDA_DRIVER(FATHOM_CUDA_QUIET)
#undef FATHOM_CUDA_QUIET
  driver->cuDeviceGetCount = [](int* count) -> cuda::Result { return *count = 1, cuda::kSuccess; };
  driver->cuDeviceGetAttribute = [](int* value, cuda::DeviceAttribute which, cuda::DeviceId) -> cuda::Result {
    *value = which == cuda::kComputeCapabilityMajor ? 9 : which == cuda::kComputeCapabilityMinor ? 0 : 1000;
    return cuda::kSuccess;
  };
  driver->cuCtxGetCurrent = [](cuda::ContextHandle* handle) -> cuda::Result {
    return *handle = nullptr, cuda::kSuccess;
  };
  driver->cuDevicePrimaryCtxRetain = [](cuda::ContextHandle* handle, cuda::DeviceId) -> cuda::Result {
    *handle = reinterpret_cast<cuda::ContextHandle>(std::uintptr_t{16});
    return cuda::kSuccess;
  };
  driver->cuFuncGetAttribute = [](int* value, cuda::FunctionAttribute, cuda::FunctionHandle) -> cuda::Result {
    return *value = 0, cuda::kSuccess;
  };
  driver->cuLaunchKernelEx = [](auto...) -> cuda::Result { return ++launches, cuda::kSuccess; };
  return driver;
}

TEST(WarmLaunch, AllocatesNothing) {
  const jit::Scratch scratch;
  const Context context = cuda::make_context(quiet_driver());
  cuda::DeviceContext& device = cuda::device_context(context);
  device.attached<jit::KernelCache>([&] {
    return std::make_shared<jit::KernelCache>(
        device, jit::CubinStore::Options{scratch / "cache", {}, false, jit::nvrtc_path()});
  });
  const auto view = [&](DType dtype, std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(reinterpret_cast<void*>(std::uintptr_t{4096}), dtype, shape,
                                  context.device());
  };
  const Fp8GemmNtArgs fp8{.a = view(DType::f8e4m3, {3, 256}),
                          .a_scale = view(DType::f32, {3, 2}),
                          .b = view(DType::f8e4m3, {200, 256}),
                          .b_scale = view(DType::f32, {2, 2}),
                          .out = view(DType::bf16, {3, 200})};
  // By the prefill kernel, into rows that the copy engine cannot store.
  const Fp8GemmNtArgs many{.a = view(DType::f8e4m3, {100, 256}),
                           .a_scale = view(DType::f32, {100, 2}),
                           .b = view(DType::f8e4m3, {204, 256}),
                           .b_scale = view(DType::f32, {2, 2}),
                           .out = view(DType::bf16, {100, 204})};
  const Bf16GemmNtArgs bf16{
      .a = view(DType::bf16, {3, 256}), .b = view(DType::bf16, {64, 256}), .out = view(DType::f32, {3, 64})};
  const LinearBf16Fp32Args linear{.x = bf16.a, .w = bf16.b, .out = bf16.out};
  const Fp8LinearArgs fused{.x = bf16.a,
                            .w = view(DType::f8e4m3, {200, 256}),
                            .w_scale = view(DType::f32, {2, 2}),
                            .out = view(DType::bf16, {3, 200}),
                            .q = fp8.a,
                            .q_scale = fp8.a_scale};
  const HeadGateArgs gate{.x = bf16.a, .w = bf16.b, .out = bf16.out};
  const auto run = [&] {
    fp8_gemm_nt_sm90({.m = 3, .n = 200, .k = 256}, fp8, context);
    fp8_gemm_nt_sm90({.m = 100, .n = 204, .k = 256}, many, context);
    fp8_linear_sm90({.m = 3, .n = 200, .k = 256}, fused, context);
    fp8_linear_steps({.m = 3, .n = 200, .k = 256}, fused, context);
    head_gate_sm90({.tokens = 3, .heads = 64, .hidden = 256, .q_scale = false}, gate, context);
    fp8_gemm_nt_simt({.m = 3, .n = 200, .k = 256}, fp8, context);
    bf16_gemm_nt_simt({.m = 3, .n = 64, .k = 256, .out = DType::f32}, bf16, context);
    linear_bf16_fp32_simt({.m = 3, .n = 64, .k = 256}, linear, context);
  };
  run();
  EXPECT_GT(allocations, 0) << "the count must be able to see something";
  EXPECT_EQ(launches, 9);
  allocations = 0;
  for (int i = 0; i < 10; ++i) run();
  EXPECT_EQ(allocations, 0);
  EXPECT_EQ(launches, 99);
}

}  // namespace
}  // namespace fathom
