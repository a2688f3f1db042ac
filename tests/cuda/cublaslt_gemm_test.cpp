// cuBLASLt products over a replaced library and driver: what is asked for once, and every failure.
#include "cuda/cublaslt_gemm.hpp"

#include <gtest/gtest.h>

#include "fake_cublaslt.hpp"
#include "fake_driver.hpp"
#include "ops/op_test.hpp"

namespace fathom::cuda {
namespace {

constexpr CublasLtShape kShape{
    .m = 3, .n = 64, .k = 128, .a_row = 128, .b_row = 128, .out_row = 64, .out_type = kCuda32f};

const void* aligned(std::uintptr_t alignment) { return reinterpret_cast<const void*>(4096 + alignment); }

TEST(CublasLtGemm, DecidesOnceForAShapeAndAlignment) {
  FakeDriver driver;
  FakeCublasLt library;
  {
    const Context context = make_context(driver.table());
    CublasLtGemm gemm(device_context(context), library.table());
    char out[4];
    for (int i = 0; i < 3; ++i) gemm.run(kShape, aligned(256), aligned(256), out, context);
    EXPECT_EQ(library.calls["cublasLtMatmulAlgoGetHeuristic"], 1);
    EXPECT_EQ(library.calls["cublasLtMatmul"], 3);
    EXPECT_EQ(driver.allocations(), 1u);
    gemm.run(kShape, aligned(2), aligned(256), out, context);
    EXPECT_EQ(library.calls["cublasLtMatmulAlgoGetHeuristic"], 2);
    const int stream = 0;
    gemm.run(kShape, aligned(256), aligned(256), out, context.on_stream(const_cast<int*>(&stream)));
    EXPECT_EQ(library.calls["cublasLtMatmulAlgoGetHeuristic"], 2);
    EXPECT_EQ(driver.allocations(), 2u) << "streams must not share their workspace";
  }
  EXPECT_EQ(driver.allocations(), 0u);
  EXPECT_EQ(library.calls["cublasLtMatrixLayoutCreate"], library.calls["cublasLtMatrixLayoutDestroy"]);
  EXPECT_EQ(library.calls["cublasLtDestroy"], 1);
}

TEST(CublasLtGemm, EveryFailureIsNamedAndLeaksNothing) {
  for (const char* name :
       {"cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmulDescSetAttribute",
        "cublasLtMatrixLayoutCreate", "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulPreferenceSetAttribute", "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul"}) {
    FakeDriver driver;
    FakeCublasLt library;
    library.failing = name;
    {
      const Context context = make_context(driver.table());
      char out[4];
      EXPECT_ERROR(CudaError, std::string(name) + ": cuBLAS status 14 while ",
                   CublasLtGemm(device_context(context), library.table())
                       .run(kShape, aligned(256), aligned(256), out, context));
    }
    EXPECT_EQ(driver.allocations(), 0u) << name;
    for (const char* kind : {"cublasLtMatmulDesc", "cublasLtMatrixLayout", "cublasLtMatmulPreference"}) {
      const int failed = library.failing == std::string(kind) + "Create" ? 1 : 0;
      EXPECT_EQ(library.calls[std::string(kind) + "Create"] - failed,
                library.calls[std::string(kind) + "Destroy"])
          << name;
    }
  }
}

TEST(CublasLtGemm, NoKernelAndNoMemoryAreSaid) {
  FakeDriver driver;
  FakeCublasLt library;
  const Context context = make_context(driver.table());
  CublasLtGemm gemm(device_context(context), library.table());
  char* out = nullptr;
  driver.fail("cuMemAlloc_v2", kErrorOutOfMemory);
  EXPECT_ERROR(CudaError, "allocating the workspace of cuBLASLt",
               gemm.run(kShape, aligned(256), aligned(256), out, context));
  library.kernels = 0;
  EXPECT_ERROR(NoImplementation,
               "cuBLASLt has no kernel for a product of m=3, n=64, k=128 with pointers aligned to 2, 256 and "
               "256 bytes",
               gemm.run(kShape, aligned(2), aligned(256), out, context));
}

}  // namespace
}  // namespace fathom::cuda
