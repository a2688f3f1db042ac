// FakeDriver: a driver table without a GPU. Counts calls, fails call N of a name, and is whatever device a
// test wants. Device memory is host memory, so that copies work and a sanitizer sees every byte.
#pragma once
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/driver.hpp"

namespace fathom::cuda {

class FakeDriver {
 public:
  FakeDriver() { current_ = this; }
  ~FakeDriver() {
    current_ = nullptr;
    for (void* memory : memory_) std::free(memory);
  }
  FakeDriver(const FakeDriver&) = delete;
  FakeDriver& operator=(const FakeDriver&) = delete;

  std::vector<DeviceInfo> devices{{.index = 0,
                                   .sm_major = 9,
                                   .sm_minor = 0,
                                   .num_sms = 132,
                                   .l2_bytes = 50 << 20,
                                   .shared_bytes_per_block = 227 << 10,
                                   .shared_bytes_per_sm = 228 << 10,
                                   .memory_bytes = std::int64_t{141} << 30,
                                   .name = "fake H200"}};
  int version = 13000;
  bool capturing = false;
  /// What the last cuLaunchKernelEx was given.
  LaunchConfigRecord launched{};
  std::vector<LaunchAttribute> launch_attributes;

  /// Call `index` (from 0) of `name` gives `status` instead of running.
  void fail(std::string_view name, Result status = 999, int index = 0) {
    failures_[std::string(name)] = {calls(name) + index, status};
  }
  int calls(std::string_view name) const {
    const std::lock_guard lock(mutex_);
    const auto found = calls_.find(std::string(name));
    return found == calls_.end() ? 0 : found->second;
  }
  /// Blocks of device memory that nobody has freed.
  std::size_t allocations() const { return memory_.size(); }
  /// Handles of every kind, primary contexts included, that were given out and not returned.
  int live_handles() const { return live_; }
  /// The context that is current on this thread.
  static ContextHandle current_context() { return context_; }

  std::shared_ptr<const Driver> table() const {
    auto driver = std::make_shared<Driver>();
#define FATHOM_CUDA_FAKE(name, ...) driver->name = make<&Driver::name>(driver->name);
    FATHOM_CUDA_DRIVER(FATHOM_CUDA_FAKE)
#undef FATHOM_CUDA_FAKE
    return driver;
  }

 private:
  template <auto kMember>
  struct Tag {};
  struct Failure {
    int index;
    Result status;
  };

  template <auto kMember>
  static std::string_view name_of() {
#define FATHOM_CUDA_NAME(name, ...) \
  if constexpr (std::is_same_v<Tag<kMember>, Tag<&Driver::name>>) return #name;
    FATHOM_CUDA_DRIVER(FATHOM_CUDA_NAME)
#undef FATHOM_CUDA_NAME
  }
  template <auto kMember, class... A>
  static auto make(Result (*)(A...)) -> Result (*)(A...) {
    return [](A... arguments) -> Result {
      FakeDriver& fake = *current_;
      if (const Result status = fake.count(name_of<kMember>())) return status;
      return fake.act(Tag<kMember>{}, arguments...);
    };
  }
  Result count(std::string_view name) {
    const std::lock_guard lock(mutex_);
    const int index = calls_[std::string(name)]++;
    const auto failure = failures_.find(std::string(name));
    return failure != failures_.end() && failure->second.index == index ? failure->second.status : kSuccess;
  }

  template <class Handle>
  Result give(Handle* handle) {
    const std::lock_guard lock(mutex_);
    *handle = reinterpret_cast<Handle>(static_cast<std::uintptr_t>(++handles_ << 4));
    ++live_;
    return kSuccess;
  }
  Result take() {
    const std::lock_guard lock(mutex_);
    --live_;
    return kSuccess;
  }
  bool known(int index) const { return index >= 0 && index < static_cast<int>(devices.size()); }

  template <class Other, class... A>
  Result act(Other, A...) {
    return kSuccess;
  }
  Result act(Tag<&Driver::cuDriverGetVersion>, int* value) { return *value = version, kSuccess; }
  Result act(Tag<&Driver::cuGetErrorName>, Result status, const char** name) {
    *name = status == kErrorOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return kSuccess;
  }
  Result act(Tag<&Driver::cuGetErrorString>, Result status, const char** text) {
    *text = status == kErrorOutOfMemory ? "out of memory" : "unknown error";
    return kSuccess;
  }
  Result act(Tag<&Driver::cuDeviceGetCount>, int* count) {
    return *count = static_cast<int>(devices.size()), kSuccess;
  }
  Result act(Tag<&Driver::cuDeviceGet>, DeviceId* id, int index) {
    if (!known(index)) return kErrorInvalidDevice;
    return *id = index, kSuccess;
  }
  Result act(Tag<&Driver::cuDeviceGetName>, char* name, int bytes, DeviceId id) {
    std::strncpy(name, device(id).name.c_str(), static_cast<std::size_t>(bytes));
    return kSuccess;
  }
  Result act(Tag<&Driver::cuDeviceTotalMem_v2>, std::size_t* bytes, DeviceId id) {
    return *bytes = static_cast<std::size_t>(device(id).memory_bytes), kSuccess;
  }
  Result act(Tag<&Driver::cuDeviceGetAttribute>, int* value, DeviceAttribute which, DeviceId id) {
    const DeviceInfo& info = device(id);
    switch (which) {
      case kComputeCapabilityMajor:
        *value = info.sm_major;
        break;
      case kComputeCapabilityMinor:
        *value = info.sm_minor;
        break;
      case kMultiprocessorCount:
        *value = info.num_sms;
        break;
      case kL2CacheBytes:
        *value = static_cast<int>(info.l2_bytes);
        break;
      case kMaxSharedBytesPerBlockOptin:
        *value = static_cast<int>(info.shared_bytes_per_block);
        break;
      case kMaxSharedBytesPerMultiprocessor:
        *value = static_cast<int>(info.shared_bytes_per_sm);
        break;
      default:
        *value = 0;
    }
    return kSuccess;
  }
  Result act(Tag<&Driver::cuDevicePrimaryCtxRetain>, ContextHandle* handle, DeviceId id) {
    const std::lock_guard lock(mutex_);
    *handle = reinterpret_cast<ContextHandle>(static_cast<std::uintptr_t>(id + 1) << 32);
    ++live_;
    return kSuccess;
  }
  Result act(Tag<&Driver::cuDevicePrimaryCtxRelease_v2>, DeviceId) { return take(); }
  Result act(Tag<&Driver::cuCtxGetCurrent>, ContextHandle* handle) { return *handle = context_, kSuccess; }
  Result act(Tag<&Driver::cuCtxSetCurrent>, ContextHandle handle) { return context_ = handle, kSuccess; }
  Result act(Tag<&Driver::cuStreamCreate>, StreamHandle* handle, unsigned) { return give(handle); }
  Result act(Tag<&Driver::cuStreamDestroy_v2>, StreamHandle) { return take(); }
  Result act(Tag<&Driver::cuStreamBeginCapture_v2>, StreamHandle, int) { return capturing = true, kSuccess; }
  Result act(Tag<&Driver::cuStreamEndCapture>, StreamHandle, GraphHandle* handle) {
    capturing = false;
    *handle = recorded();
    recorded_ = nullptr;
    return kSuccess;
  }
  Result act(Tag<&Driver::cuStreamGetCaptureInfo_v3>, StreamHandle, int* status, std::uint64_t*,
             GraphHandle* handle, const GraphNodeHandle**, const GraphEdgeData**, std::size_t*) {
    *handle = recorded();
    return *status = kCaptureStatusActive, kSuccess;
  }
  Result act(Tag<&Driver::cuStreamIsCapturing>, StreamHandle, int* status) {
    return *status = capturing ? kCaptureStatusActive : kCaptureStatusNone, kSuccess;
  }
  Result act(Tag<&Driver::cuEventCreate>, EventHandle* handle, unsigned) { return give(handle); }
  Result act(Tag<&Driver::cuEventDestroy_v2>, EventHandle) { return take(); }
  Result act(Tag<&Driver::cuEventElapsedTime>, float* ms, EventHandle, EventHandle) {
    return *ms = 1.0f, kSuccess;
  }
  Result act(Tag<&Driver::cuGraphInstantiateWithFlags>, GraphExecHandle* handle, GraphHandle graph,
             unsigned long long) {
    give(handle);
    kept_[*handle] = kept_[graph];
    return kSuccess;
  }
  Result act(Tag<&Driver::cuGraphDestroy>, GraphHandle graph) { return kept_.erase(graph), take(); }
  Result act(Tag<&Driver::cuGraphExecDestroy>, GraphExecHandle graph) { return kept_.erase(graph), take(); }
  Result act(Tag<&Driver::cuUserObjectCreate>, UserObjectHandle* handle, void* value, void (*destroy)(void*),
             unsigned, unsigned) {
    give(handle);
    objects_[*handle] = std::shared_ptr<void>(value, destroy);
    return kSuccess;
  }
  Result act(Tag<&Driver::cuGraphRetainUserObject>, GraphHandle graph, UserObjectHandle object, unsigned,
             unsigned) {
    kept_[graph].push_back(objects_[object]);
    return objects_.erase(object), take();
  }
  Result act(Tag<&Driver::cuUserObjectRelease>, UserObjectHandle object, unsigned) {
    return objects_.erase(object), take();
  }
  Result act(Tag<&Driver::cuModuleLoadData>, ModuleHandle* handle, const void*) { return give(handle); }
  Result act(Tag<&Driver::cuModuleUnload>, ModuleHandle) { return take(); }
  Result act(Tag<&Driver::cuModuleGetFunction>, FunctionHandle* handle, ModuleHandle, const char*) {
    *handle = reinterpret_cast<FunctionHandle>(std::uintptr_t{0xf0});
    return kSuccess;
  }
  Result act(Tag<&Driver::cuFuncGetAttribute>, int* value, FunctionAttribute, FunctionHandle) {
    return *value = 0, kSuccess;
  }
  Result act(Tag<&Driver::cuMemAlloc_v2>, DevicePointer* pointer, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    memory_.insert(memory);
    return *pointer = reinterpret_cast<DevicePointer>(memory), kSuccess;
  }
  Result act(Tag<&Driver::cuMemFree_v2>, DevicePointer pointer) {
    const std::lock_guard lock(mutex_);
    if (memory_.erase(reinterpret_cast<void*>(pointer)) == 0) return kErrorInvalidValue;
    return std::free(reinterpret_cast<void*>(pointer)), kSuccess;
  }
  Result act(Tag<&Driver::cuMemGetInfo_v2>, std::size_t* free, std::size_t* total) {
    return *free = *total = static_cast<std::size_t>(device(0).memory_bytes), kSuccess;
  }
  Result act(Tag<&Driver::cuMemcpyHtoDAsync_v2>, DevicePointer to, const void* from, std::size_t bytes,
             StreamHandle) {
    return std::memcpy(reinterpret_cast<void*>(to), from, bytes), kSuccess;
  }
  Result act(Tag<&Driver::cuMemcpyDtoHAsync_v2>, void* to, DevicePointer from, std::size_t bytes,
             StreamHandle) {
    return std::memcpy(to, reinterpret_cast<void*>(from), bytes), kSuccess;
  }
  Result act(Tag<&Driver::cuMemcpyDtoDAsync_v2>, DevicePointer to, DevicePointer from, std::size_t bytes,
             StreamHandle) {
    return std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), kSuccess;
  }
  Result act(Tag<&Driver::cuMemsetD8Async>, DevicePointer to, unsigned char value, std::size_t bytes,
             StreamHandle) {
    return std::memset(reinterpret_cast<void*>(to), value, bytes), kSuccess;
  }
  Result act(Tag<&Driver::cuLaunchKernelEx>, const LaunchConfigRecord* config, FunctionHandle, void**,
             void**) {
    launched = *config;
    launch_attributes.assign(config->attributes, config->attributes + config->attribute_count);
    return kSuccess;
  }

  GraphHandle recorded() {
    if (recorded_ == nullptr) give(&recorded_);
    return recorded_;
  }
  const DeviceInfo& device(DeviceId id) const { return devices[static_cast<std::size_t>(id)]; }

  static inline FakeDriver* current_ = nullptr;  // plain function pointers carry no state; one fake at a time
  static inline thread_local ContextHandle context_ = nullptr;
  mutable std::mutex mutex_;
  std::map<std::string, int> calls_;
  std::map<std::string, Failure> failures_;
  std::set<void*> memory_;
  GraphHandle recorded_ = nullptr;
  std::map<UserObjectHandle, std::shared_ptr<void>> objects_;
  std::map<void*, std::vector<std::shared_ptr<void>>> kept_;  // by a graph or its instance
  std::uintptr_t handles_ = 0;
  int live_ = 0;
};

}  // namespace fathom::cuda
