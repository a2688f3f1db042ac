// Compares src/cuda/driver_types.hpp and the function tables with NVIDIA's headers, where those are
// installed.
#include "cuda/driver_types.hpp"

#include <gtest/gtest.h>

#include <type_traits>

#include "cuda/cublaslt.hpp"
#include "cuda/driver.hpp"
#include "cuda/nvrtc.hpp"
#include "cupti.hpp"

#if __has_include(<cuda.h>) && __has_include(<nvrtc.h>) && __has_include(<cublasLt.h>) && __has_include(<cupti.h>)
#define FATHOM_HAS_CUDA_HEADERS 1
#include <cublasLt.h>
#include <cuda.h>
#include <cupti.h>
#include <nvrtc.h>

namespace fathom::cuda {
namespace {

// What a parameter is to the calling convention: its width, and whether it is a pointer, a number or a
// record.
template <class T>
struct Plain {
  using type = T;
};
template <class T>
struct Plain<T*> {
  using type = void*;
};
template <class T>
requires std::is_enum_v<T>
struct Plain<T> {
  using type = std::make_unsigned_t<std::underlying_type_t<T>>;
};
template <class T>
requires(std::is_integral_v<T> && sizeof(T) == 8) struct Plain<T> {
  using type = unsigned long;
};
template <class T>
requires(std::is_integral_v<T> && sizeof(T) == 4) struct Plain<T> {
  using type = unsigned;
};
template <class Function>
struct Shape;
template <class R, class... A>
struct Shape<R (*)(A...)> {
  using type = typename Plain<R>::type (*)(typename Plain<A>::type...);
};
template <class Ours, class Theirs>
constexpr bool kSameShape = std::is_same_v<typename Shape<Ours>::type, typename Shape<Theirs>::type>;

// CUDA 13 renames this one in its header; libcuda exports both versions, with the same parameters.
#ifdef cuEventElapsedTime
#undef cuEventElapsedTime
Result cuEventElapsedTime(float*, ::CUevent, ::CUevent);
using ::cuEventElapsedTime_v2;
#endif
#define FATHOM_COMPARE_DRIVER(name, ...) \
  static_assert(kSameShape<decltype(Driver::name), decltype(&name)>, #name);
#define FATHOM_COMPARE_NVRTC(name, ...) \
  static_assert(kSameShape<decltype(Nvrtc::name), decltype(&::name)>, #name);
#define FATHOM_COMPARE_CUBLASLT(name, ...) \
  static_assert(kSameShape<decltype(CublasLt::name), decltype(&::name)>, #name);
#define FATHOM_COMPARE_CUPTI(name, ...) \
  static_assert(kSameShape<decltype(Cupti::name), decltype(&::name)>, #name);
FATHOM_CUDA_DRIVER(FATHOM_COMPARE_DRIVER)
FATHOM_CUDA_NVRTC(FATHOM_COMPARE_NVRTC)
FATHOM_CUDA_CUBLASLT(FATHOM_COMPARE_CUBLASLT)
FATHOM_CUPTI(FATHOM_COMPARE_CUPTI)

template <class Ours, class Theirs>
constexpr bool kSameRecord = sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs);

static_assert(kSuccess == CUDA_SUCCESS && kSuccess == NVRTC_SUCCESS && kSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(kErrorInvalidValue == CUDA_ERROR_INVALID_VALUE);
static_assert(kErrorOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY);
static_assert(kErrorNoDevice == CUDA_ERROR_NO_DEVICE);
static_assert(kErrorInvalidDevice == CUDA_ERROR_INVALID_DEVICE);
static_assert(kErrorNotReady == CUDA_ERROR_NOT_READY);
static_assert(sizeof(DevicePointer) == sizeof(CUdeviceptr) && sizeof(DeviceId) == sizeof(CUdevice));

#define FATHOM_SAME(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #ours);
FATHOM_SAME(kMaxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
FATHOM_SAME(kMaxGridX, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)
FATHOM_SAME(kMaxGridY, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)
FATHOM_SAME(kClockRateKhz, CU_DEVICE_ATTRIBUTE_CLOCK_RATE)
FATHOM_SAME(kMultiprocessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
FATHOM_SAME(kMemoryClockKhz, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)
FATHOM_SAME(kMemoryBusWidthBits, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)
FATHOM_SAME(kL2CacheBytes, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
FATHOM_SAME(kComputeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
FATHOM_SAME(kComputeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
FATHOM_SAME(kMaxSharedBytesPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)
FATHOM_SAME(kMaxSharedBytesPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
FATHOM_SAME(kFunctionMaxThreadsPerBlock, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
FATHOM_SAME(kFunctionSharedBytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
FATHOM_SAME(kFunctionLocalBytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
FATHOM_SAME(kFunctionRegisters, CU_FUNC_ATTRIBUTE_NUM_REGS)
FATHOM_SAME(kFunctionMaxDynamicSharedBytes, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
FATHOM_SAME(kFunctionNonPortableClusterSize, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED)
FATHOM_SAME(kPointerMemoryType, CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
FATHOM_SAME(kPointerDeviceOrdinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
FATHOM_SAME(kMemoryTypeDevice, CU_MEMORYTYPE_DEVICE)
FATHOM_SAME(kStreamNonBlocking, CU_STREAM_NON_BLOCKING)
FATHOM_SAME(kEventDefault, CU_EVENT_DEFAULT)
FATHOM_SAME(kEventDisableTiming, CU_EVENT_DISABLE_TIMING)
FATHOM_SAME(kCaptureThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
FATHOM_SAME(kCaptureStatusNone, CU_STREAM_CAPTURE_STATUS_NONE)
FATHOM_SAME(kCaptureStatusActive, CU_STREAM_CAPTURE_STATUS_ACTIVE)
FATHOM_SAME(kUserObjectNoDestructorSync, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
FATHOM_SAME(kGraphUserObjectMove, CU_GRAPH_USER_OBJECT_MOVE)

FATHOM_SAME(kLaunchCooperative, CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
FATHOM_SAME(kLaunchClusterDimension, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
FATHOM_SAME(kLaunchProgrammaticStreamSerialization, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
static_assert(sizeof(LaunchAttribute) == sizeof(CUlaunchAttribute) &&
              offsetof(LaunchAttribute, value) == offsetof(CUlaunchAttribute, value));
static_assert(sizeof(Dim3) == sizeof(CUlaunchAttributeValue::clusterDim));
static_assert(kSameRecord<LaunchConfigRecord, CUlaunchConfig>);
#define FATHOM_SAME_OFFSET(ours, field, theirs, their_field) \
  static_assert(offsetof(ours, field) == offsetof(theirs, their_field), #field);
FATHOM_SAME_OFFSET(LaunchConfigRecord, grid_z, CUlaunchConfig, gridDimZ)
FATHOM_SAME_OFFSET(LaunchConfigRecord, block_x, CUlaunchConfig, blockDimX)
FATHOM_SAME_OFFSET(LaunchConfigRecord, shared_bytes, CUlaunchConfig, sharedMemBytes)
FATHOM_SAME_OFFSET(LaunchConfigRecord, stream, CUlaunchConfig, hStream)
FATHOM_SAME_OFFSET(LaunchConfigRecord, attributes, CUlaunchConfig, attrs)
FATHOM_SAME_OFFSET(LaunchConfigRecord, attribute_count, CUlaunchConfig, numAttrs)

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
FATHOM_SAME(TensorMapType::u8, CU_TENSOR_MAP_DATA_TYPE_UINT8)
FATHOM_SAME(TensorMapType::u16, CU_TENSOR_MAP_DATA_TYPE_UINT16)
FATHOM_SAME(TensorMapType::u32, CU_TENSOR_MAP_DATA_TYPE_UINT32)
FATHOM_SAME(TensorMapType::i32, CU_TENSOR_MAP_DATA_TYPE_INT32)
FATHOM_SAME(TensorMapType::u64, CU_TENSOR_MAP_DATA_TYPE_UINT64)
FATHOM_SAME(TensorMapType::i64, CU_TENSOR_MAP_DATA_TYPE_INT64)
FATHOM_SAME(TensorMapType::f16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16)
FATHOM_SAME(TensorMapType::f32, CU_TENSOR_MAP_DATA_TYPE_FLOAT32)
FATHOM_SAME(TensorMapType::f64, CU_TENSOR_MAP_DATA_TYPE_FLOAT64)
FATHOM_SAME(TensorMapType::bf16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16)
FATHOM_SAME(TensorMapInterleave::none, CU_TENSOR_MAP_INTERLEAVE_NONE)
FATHOM_SAME(TensorMapSwizzle::none, CU_TENSOR_MAP_SWIZZLE_NONE)
FATHOM_SAME(TensorMapSwizzle::bytes_32, CU_TENSOR_MAP_SWIZZLE_32B)
FATHOM_SAME(TensorMapSwizzle::bytes_64, CU_TENSOR_MAP_SWIZZLE_64B)
FATHOM_SAME(TensorMapSwizzle::bytes_128, CU_TENSOR_MAP_SWIZZLE_128B)
FATHOM_SAME(TensorMapL2Promotion::none, CU_TENSOR_MAP_L2_PROMOTION_NONE)
FATHOM_SAME(TensorMapL2Promotion::bytes_64, CU_TENSOR_MAP_L2_PROMOTION_L2_64B)
FATHOM_SAME(TensorMapL2Promotion::bytes_128, CU_TENSOR_MAP_L2_PROMOTION_L2_128B)
FATHOM_SAME(TensorMapL2Promotion::bytes_256, CU_TENSOR_MAP_L2_PROMOTION_L2_256B)
FATHOM_SAME(TensorMapFill::zeros, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)

FATHOM_SAME(kNvrtcErrorCompilation, NVRTC_ERROR_COMPILATION)

static_assert(sizeof(CublasLtAlgo) == sizeof(cublasLtMatmulAlgo_t));
static_assert(kSameRecord<CublasLtHeuristic, cublasLtMatmulHeuristicResult_t>);
FATHOM_SAME_OFFSET(CublasLtHeuristic, workspace_bytes, cublasLtMatmulHeuristicResult_t, workspaceSize)
FATHOM_SAME_OFFSET(CublasLtHeuristic, state, cublasLtMatmulHeuristicResult_t, state)
FATHOM_SAME_OFFSET(CublasLtHeuristic, waves, cublasLtMatmulHeuristicResult_t, wavesCount)
FATHOM_SAME(kCublasNotSupported, CUBLAS_STATUS_NOT_SUPPORTED)
FATHOM_SAME(kCublasOpT, CUBLAS_OP_T)
FATHOM_SAME(kCublasCompute32f, CUBLAS_COMPUTE_32F)
FATHOM_SAME(kCuda32f, CUDA_R_32F)
FATHOM_SAME(kCuda16f, CUDA_R_16F)
FATHOM_SAME(kCuda16bf, CUDA_R_16BF)
FATHOM_SAME(kCuda8fE4m3, CUDA_R_8F_E4M3)
FATHOM_SAME(kCublasLtTransA, CUBLASLT_MATMUL_DESC_TRANSA)
FATHOM_SAME(kCublasLtTransB, CUBLASLT_MATMUL_DESC_TRANSB)
FATHOM_SAME(kCublasLtScaleA, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER)
FATHOM_SAME(kCublasLtScaleB, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER)
FATHOM_SAME(kCublasLtFastAccum, CUBLASLT_MATMUL_DESC_FAST_ACCUM)
FATHOM_SAME(kCublasLtMaxWorkspaceBytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
FATHOM_SAME(kCublasLtMinAlignmentA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
FATHOM_SAME(kCublasLtMinAlignmentB, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
FATHOM_SAME(kCublasLtMinAlignmentC, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES)
FATHOM_SAME(kCublasLtMinAlignmentD, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
#if CUBLAS_VERSION >= 120900
FATHOM_SAME(kCublasLtScaleModeA, CUBLASLT_MATMUL_DESC_A_SCALE_MODE)
FATHOM_SAME(kCublasLtScaleModeB, CUBLASLT_MATMUL_DESC_B_SCALE_MODE)
FATHOM_SAME(kCublasLtScaleVec128, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F)
FATHOM_SAME(kCublasLtScaleBlock128x128, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F)
#endif

using TheirKernelRecord = CUpti_ActivityKernel9;  // CUDA 12.3 to 13.x declare it
static_assert(sizeof(CuptiKernelRecord) <= sizeof(TheirKernelRecord));
FATHOM_SAME_OFFSET(CuptiRecord, kind, CUpti_Activity, kind)
FATHOM_SAME_OFFSET(CuptiKernelRecord, registers_per_thread, TheirKernelRecord, registersPerThread)
FATHOM_SAME_OFFSET(CuptiKernelRecord, start_ns, TheirKernelRecord, start)
FATHOM_SAME_OFFSET(CuptiKernelRecord, end_ns, TheirKernelRecord, end)
FATHOM_SAME_OFFSET(CuptiKernelRecord, device, TheirKernelRecord, deviceId)
FATHOM_SAME_OFFSET(CuptiKernelRecord, grid, TheirKernelRecord, gridX)
FATHOM_SAME_OFFSET(CuptiKernelRecord, block, TheirKernelRecord, blockX)
FATHOM_SAME_OFFSET(CuptiKernelRecord, dynamic_shared_bytes, TheirKernelRecord, dynamicSharedMemory)
FATHOM_SAME_OFFSET(CuptiKernelRecord, correlation, TheirKernelRecord, correlationId)
FATHOM_SAME_OFFSET(CuptiKernelRecord, name, TheirKernelRecord, name)
using TheirMemsetRecord = CUpti_ActivityMemset4;
static_assert(sizeof(CuptiMemsetRecord) <= sizeof(TheirMemsetRecord));
FATHOM_SAME_OFFSET(CuptiMemsetRecord, value, TheirMemsetRecord, value)
FATHOM_SAME_OFFSET(CuptiMemsetRecord, bytes, TheirMemsetRecord, bytes)
FATHOM_SAME_OFFSET(CuptiMemsetRecord, start_ns, TheirMemsetRecord, start)
FATHOM_SAME_OFFSET(CuptiMemsetRecord, end_ns, TheirMemsetRecord, end)
FATHOM_SAME_OFFSET(CuptiMemsetRecord, device, TheirMemsetRecord, deviceId)
FATHOM_SAME(kCuptiMemset, CUPTI_ACTIVITY_KIND_MEMSET)
FATHOM_SAME(kCuptiFlushForced, CUPTI_ACTIVITY_FLAG_FLUSH_FORCED)
FATHOM_SAME(kCuptiConcurrentKernel, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL)
FATHOM_SAME(kCuptiMaxLimitReached, CUPTI_ERROR_MAX_LIMIT_REACHED)
static_assert(kSameShape<CuptiBufferRequested, CUpti_BuffersCallbackRequestFunc>);
static_assert(kSameShape<CuptiBufferCompleted, CUpti_BuffersCallbackCompleteFunc>);

}  // namespace
}  // namespace fathom::cuda
#endif

// The comparison happened while this file was compiled; the test's name says in a log whether it did.
#ifdef FATHOM_HAS_CUDA_HEADERS
TEST(DriverTypes, AreThoseOfNvidiasHeaders) {
#else
TEST(DriverTypes, HaveNoHeadersToBeComparedWith) {
#endif
  EXPECT_EQ(sizeof(fathom::cuda::TensorMap), 128u);
}
