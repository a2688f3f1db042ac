// Nvrtc: the functions of libnvrtc, the run-time compiler, as a table. No GPU and no driver are needed.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "cuda/driver_types.hpp"
#include "fathom/cuda/error.hpp"

// Every function but nvrtcGetErrorString. Each gives a Result.
#define FATHOM_CUDA_NVRTC(X)                                                              \
  X(nvrtcVersion, int*, int*)                                                             \
  X(nvrtcGetNumSupportedArchs, int*)                                                      \
  X(nvrtcGetSupportedArchs, int*)                                                         \
  X(nvrtcCreateProgram, NvrtcProgram*, const char*, const char*, int, const char* const*, \
    const char* const*)                                                                   \
  X(nvrtcDestroyProgram, NvrtcProgram*)                                                   \
  X(nvrtcCompileProgram, NvrtcProgram, int, const char* const*)                           \
  X(nvrtcGetCUBINSize, NvrtcProgram, std::size_t*)                                        \
  X(nvrtcGetCUBIN, NvrtcProgram, char*)                                                   \
  X(nvrtcGetPTXSize, NvrtcProgram, std::size_t*)                                          \
  X(nvrtcGetPTX, NvrtcProgram, char*)                                                     \
  X(nvrtcGetProgramLogSize, NvrtcProgram, std::size_t*)                                   \
  X(nvrtcGetProgramLog, NvrtcProgram, char*)

namespace fathom::cuda {

struct Nvrtc {
#define FATHOM_CUDA_MEMBER(name, ...) Result (*name)(__VA_ARGS__) = nullptr;
  FATHOM_CUDA_NVRTC(FATHOM_CUDA_MEMBER)
#undef FATHOM_CUDA_MEMBER
  const char* (*nvrtcGetErrorString)(Result) = nullptr;

  int major = 0;
  int minor = 0;

  /// Throws CudaError unless `status` is success.
  void check(Result status, std::string_view call, std::string_view doing) const;
};

/// The machine's NVRTC; without one, nothing and the reason.
struct NvrtcProbe {
  std::shared_ptr<const Nvrtc> nvrtc;
  std::string detail;  // one line: which library and version, or why there is none
};
/// `path` names the library's file; empty: the usual names are tried.
NvrtcProbe find_nvrtc(const std::string& path = {});

/// find_nvrtc(), or CudaError with the reason. `doing` says what needs it.
std::shared_ptr<const Nvrtc> load_nvrtc(std::string_view doing, const std::string& path = {});

}  // namespace fathom::cuda
