// Driver: the functions of libcuda as a table, opened by name at run time. A test builds one of its own.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/driver_types.hpp"
#include "fathom/cuda/error.hpp"

// Every function, by the exact name that libcuda exports in CUDA 12.3 to 13.x, with its parameters. Each
// gives a Result.
#define FATHOM_CUDA_DRIVER(X)                                                                                \
  X(cuInit, unsigned)                                                                                        \
  X(cuDriverGetVersion, int*)                                                                                \
  X(cuGetErrorName, Result, const char**)                                                                    \
  X(cuGetErrorString, Result, const char**)                                                                  \
  X(cuDeviceGetCount, int*)                                                                                  \
  X(cuDeviceGet, DeviceId*, int)                                                                             \
  X(cuDeviceGetName, char*, int, DeviceId)                                                                   \
  X(cuDeviceGetAttribute, int*, DeviceAttribute, DeviceId)                                                   \
  X(cuDeviceTotalMem_v2, std::size_t*, DeviceId)                                                             \
  X(cuDevicePrimaryCtxRetain, ContextHandle*, DeviceId)                                                      \
  X(cuDevicePrimaryCtxRelease_v2, DeviceId)                                                                  \
  X(cuCtxGetCurrent, ContextHandle*)                                                                         \
  X(cuCtxSetCurrent, ContextHandle)                                                                          \
  X(cuCtxSynchronize)                                                                                        \
  X(cuStreamCreate, StreamHandle*, unsigned)                                                                 \
  X(cuStreamDestroy_v2, StreamHandle)                                                                        \
  X(cuStreamSynchronize, StreamHandle)                                                                       \
  X(cuStreamQuery, StreamHandle)                                                                             \
  X(cuStreamWaitEvent, StreamHandle, EventHandle, unsigned)                                                  \
  X(cuStreamBeginCapture_v2, StreamHandle, int)                                                              \
  X(cuStreamEndCapture, StreamHandle, GraphHandle*)                                                          \
  X(cuStreamIsCapturing, StreamHandle, int*)                                                                 \
  X(cuStreamGetCaptureInfo_v3, StreamHandle, int*, std::uint64_t*, GraphHandle*, const GraphNodeHandle**,    \
    const GraphEdgeData**, std::size_t*)                                                                     \
  X(cuEventCreate, EventHandle*, unsigned)                                                                   \
  X(cuEventDestroy_v2, EventHandle)                                                                          \
  X(cuEventRecord, EventHandle, StreamHandle)                                                                \
  X(cuEventSynchronize, EventHandle)                                                                         \
  X(cuEventElapsedTime, float*, EventHandle, EventHandle)                                                    \
  X(cuMemAlloc_v2, DevicePointer*, std::size_t)                                                              \
  X(cuMemFree_v2, DevicePointer)                                                                             \
  X(cuMemGetInfo_v2, std::size_t*, std::size_t*)                                                             \
  X(cuMemAllocHost_v2, void**, std::size_t)                                                                  \
  X(cuMemFreeHost, void*)                                                                                    \
  X(cuMemcpyHtoDAsync_v2, DevicePointer, const void*, std::size_t, StreamHandle)                             \
  X(cuMemcpyDtoHAsync_v2, void*, DevicePointer, std::size_t, StreamHandle)                                   \
  X(cuMemcpyDtoDAsync_v2, DevicePointer, DevicePointer, std::size_t, StreamHandle)                           \
  X(cuMemsetD8Async, DevicePointer, unsigned char, std::size_t, StreamHandle)                                \
  X(cuMemsetD32Async, DevicePointer, unsigned, std::size_t, StreamHandle)                                    \
  X(cuPointerGetAttribute, void*, PointerAttribute, DevicePointer)                                           \
  X(cuModuleLoadData, ModuleHandle*, const void*)                                                            \
  X(cuModuleUnload, ModuleHandle)                                                                            \
  X(cuModuleGetFunction, FunctionHandle*, ModuleHandle, const char*)                                         \
  X(cuModuleGetGlobal_v2, DevicePointer*, std::size_t*, ModuleHandle, const char*)                           \
  X(cuFuncGetAttribute, int*, FunctionAttribute, FunctionHandle)                                             \
  X(cuFuncSetAttribute, FunctionHandle, FunctionAttribute, int)                                              \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, int*, FunctionHandle, int, std::size_t)                     \
  X(cuOccupancyMaxActiveClusters, int*, FunctionHandle, const LaunchConfigRecord*)                           \
  X(cuLaunchKernelEx, const LaunchConfigRecord*, FunctionHandle, void**, void**)                             \
  X(cuTensorMapEncodeTiled, TensorMap*, TensorMapType, std::uint32_t, void*, const std::uint64_t*,           \
    const std::uint64_t*, const std::uint32_t*, const std::uint32_t*, TensorMapInterleave, TensorMapSwizzle, \
    TensorMapL2Promotion, TensorMapFill)                                                                     \
  X(cuGraphInstantiateWithFlags, GraphExecHandle*, GraphHandle, unsigned long long)                          \
  X(cuGraphLaunch, GraphExecHandle, StreamHandle)                                                            \
  X(cuGraphDestroy, GraphHandle)                                                                             \
  X(cuGraphRetainUserObject, GraphHandle, UserObjectHandle, unsigned, unsigned)                              \
  X(cuUserObjectCreate, UserObjectHandle*, void*, void (*)(void*), unsigned, unsigned)                       \
  X(cuUserObjectRelease, UserObjectHandle, unsigned)                                                         \
  X(cuGraphExecDestroy, GraphExecHandle)

namespace fathom::cuda {

struct Driver {
#define FATHOM_CUDA_MEMBER(name, ...) Result (*name)(__VA_ARGS__) = nullptr;
  FATHOM_CUDA_DRIVER(FATHOM_CUDA_MEMBER)
#undef FATHOM_CUDA_MEMBER

  /// "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
  std::string describe(Result status) const;
  /// Throws CudaError with the call's name, describe(status), and what was being done.
  [[noreturn]] void fail(Result status, std::string_view call, std::string_view doing) const;
  /// fail() unless `status` is success. `doing` reads "allocating a workspace".
  void check(Result status, std::string_view call, std::string_view doing) const {
    if (status != kSuccess) [[unlikely]]
      fail(status, call, doing);
  }
};

/// What a device is, as far as plans need it. Tests make them up.
struct DeviceInfo {
  int index = 0;
  int sm_major = 0;
  int sm_minor = 0;
  int num_sms = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t shared_bytes_per_block = 0;  // the most that one block can be given
  std::int64_t shared_bytes_per_sm = 0;
  std::int64_t memory_bytes = 0;
  std::string name;

  /// 90 for compute capability 9.0
  int sm() const { return sm_major * 10 + sm_minor; }
};

/// The machine's driver, loaded and initialised; without one, nothing and the reason.
struct DriverProbe {
  std::shared_ptr<const Driver> driver;
  std::string detail;  // one line: which library and version, or why there is none
};
DriverProbe find_driver();

/// find_driver(), or CudaError with the reason. `doing` says what needs it.
std::shared_ptr<const Driver> load_driver(std::string_view doing);

int device_count(const Driver& driver);
DeviceInfo query_device(const Driver& driver, int index);

}  // namespace fathom::cuda
