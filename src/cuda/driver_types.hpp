// The types and constants of the CUDA driver, NVRTC, cuBLASLt and CUPTI that Fathom uses, and nothing else.
// Declared here so that one build works with and without NVIDIA's headers;
// tests/cuda/driver_types_test.cpp compares every one of them with those headers where they are installed.
#pragma once
#include <cstddef>
#include <cstdint>

// NVIDIA's names, so that a handle of other code is one of ours. Never complete.
struct CUctx_st;
struct CUstream_st;
struct CUevent_st;
struct CUmod_st;
struct CUfunc_st;
struct CUgraph_st;
struct CUgraphExec_st;
struct CUgraphNode_st;
struct CUgraphEdgeData_st;
struct CUuserObject_st;

namespace fathom::cuda {

// Status codes of the driver, NVRTC, cuBLASLt and CUPTI: 0 is success in each.
using Result = int;
inline constexpr Result kSuccess = 0;
inline constexpr Result kErrorInvalidValue = 1;
inline constexpr Result kErrorOutOfMemory = 2;
inline constexpr Result kErrorNoDevice = 100;
inline constexpr Result kErrorInvalidDevice = 101;
inline constexpr Result kErrorNotReady = 600;

// Handles of the driver.
using DeviceId = int;
using DevicePointer = unsigned long long;
using ContextHandle = CUctx_st*;
using StreamHandle = CUstream_st*;
using EventHandle = CUevent_st*;
using ModuleHandle = CUmod_st*;
using FunctionHandle = CUfunc_st*;
using GraphHandle = CUgraph_st*;
using GraphExecHandle = CUgraphExec_st*;
using GraphNodeHandle = CUgraphNode_st*;
using GraphEdgeData = CUgraphEdgeData_st;
using UserObjectHandle = CUuserObject_st*;

// CUdevice_attribute
enum DeviceAttribute : int {
  kMaxThreadsPerBlock = 1,
  kMaxGridX = 5,
  kMaxGridY = 6,
  kClockRateKhz = 13,
  kMultiprocessorCount = 16,
  kMemoryClockKhz = 36,
  kMemoryBusWidthBits = 37,
  kL2CacheBytes = 38,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxSharedBytesPerMultiprocessor = 81,
  kMaxSharedBytesPerBlockOptin = 97,
};

// CUfunction_attribute
enum FunctionAttribute : int {
  kFunctionMaxThreadsPerBlock = 0,
  kFunctionSharedBytes = 1,
  kFunctionLocalBytes = 3,
  kFunctionRegisters = 4,
  kFunctionMaxDynamicSharedBytes = 8,
  kFunctionNonPortableClusterSize = 14,
};

// CUpointer_attribute
enum PointerAttribute : int { kPointerMemoryType = 2, kPointerDeviceOrdinal = 9 };
inline constexpr unsigned kMemoryTypeDevice = 2;

// Flags of streams, events, stream capture and what a graph keeps.
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDefault = 0;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr int kCaptureThreadLocal = 1;
inline constexpr int kCaptureStatusNone = 0;
inline constexpr int kCaptureStatusActive = 1;
inline constexpr unsigned kUserObjectNoDestructorSync = 1;
inline constexpr unsigned kGraphUserObjectMove = 1;

// CUlaunchAttribute and CUlaunchConfig
enum LaunchAttributeId : int {
  kLaunchCooperative = 2,
  kLaunchClusterDimension = 4,
  kLaunchProgrammaticStreamSerialization = 6,
};
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  bool operator==(const Dim3&) const = default;
};
union LaunchAttributeValue {
  char pad[64];
  int cooperative;
  Dim3 cluster;
  int programmatic_stream_serialization;
};
struct LaunchAttribute {
  int id;
  char pad[4];
  LaunchAttributeValue value;
};
struct LaunchConfigRecord {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  StreamHandle stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};

// CUtensorMap and its enumerations
struct alignas(128) TensorMap {
  std::uint64_t opaque[16];
};
static_assert(sizeof(TensorMap) == 128);
enum class TensorMapType : int {
  u8 = 0,
  u16 = 1,
  u32 = 2,
  i32 = 3,
  u64 = 4,
  i64 = 5,
  f16 = 6,
  f32 = 7,
  f64 = 8,
  bf16 = 9
};
enum class TensorMapInterleave : int { none = 0 };
enum class TensorMapSwizzle : int { none = 0, bytes_32 = 1, bytes_64 = 2, bytes_128 = 3 };
enum class TensorMapL2Promotion : int { none = 0, bytes_64 = 1, bytes_128 = 2, bytes_256 = 3 };
enum class TensorMapFill : int { zeros = 0 };

// NVRTC
using NvrtcProgram = struct NvrtcProgramObject*;
inline constexpr Result kNvrtcErrorCompilation = 6;

// cuBLASLt and the enumerations it shares with cuBLAS
using CublasLtHandle = struct CublasLtObject*;
using CublasLtDesc = struct CublasLtDescObject*;
using CublasLtLayout = struct CublasLtLayoutObject*;
using CublasLtPreference = struct CublasLtPreferenceObject*;
struct CublasLtAlgo {
  std::uint64_t data[8];
};
struct CublasLtHeuristic {
  CublasLtAlgo algo;
  std::size_t workspace_bytes;
  Result state;
  float waves;
  int reserved[4];
};
inline constexpr Result kCublasNotSupported = 15;
inline constexpr int kCublasOpT = 1;
inline constexpr int kCublasCompute32f = 68;
enum CudaDataType : int { kCuda32f = 0, kCuda16f = 2, kCuda16bf = 14, kCuda8fE4m3 = 28 };
enum CublasLtDescAttribute : int {
  kCublasLtTransA = 3,
  kCublasLtTransB = 4,
  kCublasLtScaleA = 17,
  kCublasLtScaleB = 18,
  kCublasLtFastAccum = 25,
  kCublasLtScaleModeA = 31,
  kCublasLtScaleModeB = 32,
};
inline constexpr int kCublasLtScaleVec128 = 4;        // since CUDA 12.9
inline constexpr int kCublasLtScaleBlock128x128 = 5;  // since CUDA 12.9
enum CublasLtPreferenceAttribute : int {
  kCublasLtMaxWorkspaceBytes = 1,
  kCublasLtMinAlignmentA = 5,
  kCublasLtMinAlignmentB = 6,
  kCublasLtMinAlignmentC = 7,
  kCublasLtMinAlignmentD = 8,
};

// CUPTI's activity records: the front of each, the same in every version of CUDA 12 and 13.
struct alignas(8) CuptiRecord {
  int kind;
};
struct alignas(8) CuptiKernelRecord {
  int kind;
  std::uint8_t cache_config;
  std::uint8_t shared_memory_config;
  std::uint16_t registers_per_thread;
  int global_cache[2];
  std::uint64_t start_ns, end_ns, completed_ns;
  std::uint32_t device, context, stream;
  std::int32_t grid[3], block[3];
  std::int32_t static_shared_bytes, dynamic_shared_bytes;
  std::uint32_t local_bytes_per_thread, local_bytes;
  std::uint32_t correlation;
  std::int64_t grid_id;
  const char* name;
};
struct alignas(8) CuptiMemsetRecord {
  int kind;
  std::uint32_t value;
  std::uint64_t bytes, start_ns, end_ns;
  std::uint32_t device;
};
inline constexpr int kCuptiMemset = 2;
inline constexpr int kCuptiConcurrentKernel = 10;
inline constexpr std::uint32_t kCuptiFlushForced = 1;
inline constexpr Result kCuptiMaxLimitReached = 12;
using CuptiBufferRequested = void (*)(std::uint8_t** buffer, std::size_t* bytes, std::size_t* max_records);
using CuptiBufferCompleted = void (*)(ContextHandle context, std::uint32_t stream, std::uint8_t* buffer,
                                      std::size_t bytes, std::size_t valid_bytes);

}  // namespace fathom::cuda
