// Cupti: the functions of libcupti, NVIDIA's tracer, as a table, and the kernel times that it records.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/driver_types.hpp"
#include "fathom/cuda/error.hpp"

// Every function. Each gives a Result.
#define FATHOM_CUPTI(X)                                                            \
  X(cuptiGetVersion, std::uint32_t*)                                               \
  X(cuptiGetResultString, Result, const char**)                                    \
  X(cuptiActivityEnable, int)                                                      \
  X(cuptiActivityDisable, int)                                                     \
  X(cuptiActivityRegisterCallbacks, CuptiBufferRequested, CuptiBufferCompleted)    \
  X(cuptiActivityGetNextRecord, std::uint8_t*, std::size_t, CuptiRecord**)         \
  X(cuptiActivityGetNumDroppedRecords, ContextHandle, std::uint32_t, std::size_t*) \
  X(cuptiActivityFlushAll, std::uint32_t)

namespace fathom::cuda {

struct Cupti {
#define FATHOM_CUPTI_MEMBER(name, ...) Result (*name)(__VA_ARGS__) = nullptr;
  FATHOM_CUPTI(FATHOM_CUPTI_MEMBER)
#undef FATHOM_CUPTI_MEMBER

  /// Throws CudaError unless `status` is success.
  void check(Result status, std::string_view call) const;
};

/// The machine's CUPTI; without one, nothing and the reason.
struct CuptiProbe {
  std::shared_ptr<const Cupti> library;
  std::string detail;  // one line: which file and version, or why there is none
};
/// `path` names the library's file; empty: the loader's path, the toolkit that CUDA_HOME or
/// CUDA_PATH names, CUDA's folders below /usr and the system's Python packages.
CuptiProbe find_cupti(const std::string& path = {});

/// A kernel or a memset that a device has run.
struct Activity {
  std::string name;  // of a kernel
  bool memset = false;
  std::uint32_t memset_value = 0;
  std::uint64_t memset_bytes = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t end_ns = 0;
};

/// Records every kernel and memset of this process while it lives. There can be one at a time.
class ActivityTrace {
 public:
  /// Throws CudaError if CUPTI refuses.
  explicit ActivityTrace(std::shared_ptr<const Cupti> library);
  ~ActivityTrace();
  ActivityTrace(const ActivityTrace&) = delete;
  ActivityTrace& operator=(const ActivityTrace&) = delete;

  /// What has ended since the last call, in the order of the starts. To be called when the device is idle.
  /// Throws CudaError if CUPTI has lost records or handed over one that cannot be read.
  std::vector<Activity> take();

 private:
  std::shared_ptr<const Cupti> library_;
};

}  // namespace fathom::cuda
