// libcuda for one device, a Hopper of 132 SMs that is this program. Everything is done at once, in the order
// of the calls; what a stream records, a graph repeats.
#include "cuda/driver.hpp"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "emulator/state.hpp"
#include "emulator/tensor_map.hpp"

namespace fathom::emulator {
namespace {

using namespace cuda;  // its types are the functions' parameters
using cuda::Result;

constexpr Result kErrorInvalidImage = 200;
constexpr Result kErrorInvalidHandle = 400;
constexpr Result kErrorNotFound = 500;
constexpr Result kErrorLaunchFailed = 719;

struct Module {
  ~Module() {
    if (handle != nullptr) dlclose(handle);
    if (file >= 0) close(file);
  }
  int file = -1;  // open as long as the module: its name is what the loader knows a library by
  void* handle = nullptr;
  void (*call)(void**) = nullptr;
  const unsigned* sizes = nullptr;
  void* (*statics)() = nullptr;
};
struct Stream {
  bool capturing = false;
};
struct Event {
  std::chrono::steady_clock::time_point time;
  bool captured = false;
};
struct Graph {
  std::vector<std::function<Result()>> actions;
  std::vector<std::shared_ptr<void>> kept;  // an instance keeps what its graph does
};
using UserObject = std::shared_ptr<void>;

struct Machine {
  std::recursive_mutex mutex;
  // Of a kernel. Every later call says so, as after a fault on a GPU, until the last context is released.
  Result failed = kSuccess;
  std::string report;
  int contexts = 0;
  std::map<DevicePointer, std::size_t> memory;
  std::map<DevicePointer, std::pair<void*, std::size_t>> mappings;
  Graph* recording = nullptr;
  std::set<StreamHandle> streams;
};
Machine& machine() {
  static Machine m;
  return m;
}
thread_local ContextHandle t_context = nullptr;
int context_home = 0;

/// Does something now, or when the graph that the stream records is launched.
Result perform(StreamHandle stream, std::function<Result()> action) {
  Machine& m = machine();
  if (stream != nullptr && reinterpret_cast<Stream*>(stream)->capturing) {
    m.recording->actions.push_back(std::move(action));
    return kSuccess;
  }
  if (m.failed != kSuccess) return m.failed;
  return action();
}

/// Where this thread's copy of a module's thread-local variables is: its static shared memory.
std::pair<void*, std::size_t> statics_of(const Module& module) {
  struct Search {
    u8* probe;
    std::pair<void*, std::size_t> found;
  } search{static_cast<u8*>(module.statics()), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        Search& s = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_TLS || info->dlpi_tls_data == nullptr) continue;
          auto* begin = static_cast<u8*>(info->dlpi_tls_data);
          const std::size_t bytes = info->dlpi_phdr[i].p_memsz;
          if (s.probe < begin || s.probe >= begin + bytes) continue;
          s.found = {begin, bytes};
          return 1;
        }
        return 0;
      },
      &search);
  return search.found;
}

Result run_kernel(const Module& module, Launch launch, const std::vector<std::vector<u64>>& values) {
  std::vector<void*> parameters;
  for (const std::vector<u64>& value : values) parameters.push_back(const_cast<u64*>(value.data()));
  launch.entry = module.call;
  launch.parameters = parameters.data();
  const auto [statics, bytes] = statics_of(module);
  launch.statics = statics;
  launch.static_bytes = static_cast<u32>(bytes <= sizeof(u64) ? 0 : bytes);
  const std::string failure = run(launch);
  if (failure.empty()) return kSuccess;
  machine().report = failure;
  return machine().failed = kErrorLaunchFailed;
}

}  // namespace

#define FATHOM_EXPORT extern "C" __attribute__((visibility("default"))) Result
#define FATHOM_LOCK const std::lock_guard lock(machine().mutex)

FATHOM_EXPORT cuInit(unsigned) { return kSuccess; }
FATHOM_EXPORT cuDriverGetVersion(int* version) { return *version = 13000, kSuccess; }
FATHOM_EXPORT cuGetErrorName(Result status, const char** name) {
  *name = status == kSuccess             ? "CUDA_SUCCESS"
          : status == kErrorOutOfMemory  ? "CUDA_ERROR_OUT_OF_MEMORY"
          : status == kErrorLaunchFailed ? "CUDA_ERROR_LAUNCH_FAILED"
                                         : "CUDA_ERROR_INVALID_VALUE";
  return kSuccess;
}
FATHOM_EXPORT cuGetErrorString(Result status, const char** text) {
  *text = status == kErrorLaunchFailed ? machine().report.c_str() : "refused by the emulator";
  return kSuccess;
}
FATHOM_EXPORT cuDeviceGetCount(int* count) { return *count = 1, kSuccess; }
FATHOM_EXPORT cuDeviceGet(DeviceId* device, int index) {
  if (index != 0) return kErrorInvalidDevice;
  return *device = 0, kSuccess;
}
FATHOM_EXPORT cuDeviceGetName(char* name, int bytes, DeviceId) {
  std::snprintf(name, static_cast<std::size_t>(bytes), "emulated Hopper");
  return kSuccess;
}
FATHOM_EXPORT cuDeviceGetAttribute(int* value, DeviceAttribute attribute, DeviceId) {
  switch (attribute) {
    case kMaxThreadsPerBlock:
      return *value = 1024, kSuccess;
    case kMaxGridX:
      return *value = 0x7FFFFFFF, kSuccess;
    case kMaxGridY:
      return *value = 65535, kSuccess;
    case kClockRateKhz:
      return *value = 1000000, kSuccess;
    case kMultiprocessorCount:
      return *value = 132, kSuccess;
    case kMemoryClockKhz:
      return *value = 1000000, kSuccess;
    case kMemoryBusWidthBits:
      return *value = 64, kSuccess;
    case kL2CacheBytes:
      return *value = 50 << 20, kSuccess;
    case kComputeCapabilityMajor:
      return *value = 9, kSuccess;
    case kComputeCapabilityMinor:
      return *value = 0, kSuccess;
    case kMaxSharedBytesPerMultiprocessor:
      return *value = 228 << 10, kSuccess;
    case kMaxSharedBytesPerBlockOptin:
      return *value = kMostShared, kSuccess;
  }
  return kErrorInvalidValue;
}
FATHOM_EXPORT cuDeviceTotalMem_v2(std::size_t* bytes, DeviceId) {
  const auto pages = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES));
  return *bytes = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), kSuccess;
}
FATHOM_EXPORT cuDevicePrimaryCtxRetain(ContextHandle* context, DeviceId) {
  FATHOM_LOCK;
  ++machine().contexts;
  return *context = reinterpret_cast<ContextHandle>(&context_home), kSuccess;
}
FATHOM_EXPORT cuDevicePrimaryCtxRelease_v2(DeviceId) {
  FATHOM_LOCK;
  if (--machine().contexts == 0) machine().failed = kSuccess;
  return kSuccess;
}
FATHOM_EXPORT cuCtxGetCurrent(ContextHandle* context) { return *context = t_context, kSuccess; }
FATHOM_EXPORT cuCtxSetCurrent(ContextHandle context) { return t_context = context, kSuccess; }
FATHOM_EXPORT cuCtxSynchronize() { return machine().failed; }

FATHOM_EXPORT cuStreamCreate(StreamHandle* stream, unsigned) {
  FATHOM_LOCK;
  *stream = reinterpret_cast<StreamHandle>(new Stream);
  machine().streams.insert(*stream);
  return kSuccess;
}
FATHOM_EXPORT cuStreamDestroy_v2(StreamHandle stream) {
  FATHOM_LOCK;
  if (machine().streams.erase(stream) == 0) return kErrorInvalidHandle;
  delete reinterpret_cast<Stream*>(stream);
  return kSuccess;
}
FATHOM_EXPORT cuStreamSynchronize(StreamHandle stream) {
  FATHOM_LOCK;
  if (stream != nullptr && reinterpret_cast<Stream*>(stream)->capturing) return kErrorInvalidValue;
  return machine().failed;
}
FATHOM_EXPORT cuStreamQuery(StreamHandle) { return machine().failed; }
FATHOM_EXPORT cuStreamWaitEvent(StreamHandle stream, EventHandle event, unsigned) {
  FATHOM_LOCK;
  if (stream != nullptr && reinterpret_cast<Event*>(event)->captured && machine().recording != nullptr)
    reinterpret_cast<Stream*>(stream)->capturing = true;  // joins the capture
  return kSuccess;
}
FATHOM_EXPORT cuStreamBeginCapture_v2(StreamHandle stream, int) {
  FATHOM_LOCK;
  if (machine().recording != nullptr || stream == nullptr) return kErrorInvalidValue;
  machine().recording = new Graph;
  reinterpret_cast<Stream*>(stream)->capturing = true;
  return kSuccess;
}
FATHOM_EXPORT cuStreamEndCapture(StreamHandle stream, GraphHandle* graph) {
  FATHOM_LOCK;
  if (stream == nullptr || !reinterpret_cast<Stream*>(stream)->capturing) return kErrorInvalidValue;
  for (const StreamHandle each : machine().streams) reinterpret_cast<Stream*>(each)->capturing = false;
  *graph = reinterpret_cast<GraphHandle>(std::exchange(machine().recording, nullptr));
  return kSuccess;
}
FATHOM_EXPORT cuStreamIsCapturing(StreamHandle stream, int* status) {
  FATHOM_LOCK;
  const bool capturing = stream != nullptr && reinterpret_cast<Stream*>(stream)->capturing;
  return *status = capturing ? kCaptureStatusActive : kCaptureStatusNone, kSuccess;
}

FATHOM_EXPORT cuStreamGetCaptureInfo_v3(StreamHandle stream, int* status, std::uint64_t* id,
                                        GraphHandle* graph, const GraphNodeHandle** nodes,
                                        const GraphEdgeData** edges, std::size_t* count) {
  FATHOM_LOCK;
  *id = *count = 0;
  *nodes = nullptr;
  *edges = nullptr;
  *graph = reinterpret_cast<GraphHandle>(machine().recording);
  return cuStreamIsCapturing(stream, status);
}

FATHOM_EXPORT cuEventCreate(EventHandle* event, unsigned) {
  return *event = reinterpret_cast<EventHandle>(new Event), kSuccess;
}
FATHOM_EXPORT cuEventDestroy_v2(EventHandle event) {
  delete reinterpret_cast<Event*>(event);
  return kSuccess;
}
FATHOM_EXPORT cuEventRecord(EventHandle event, StreamHandle stream) {
  FATHOM_LOCK;
  Event& e = *reinterpret_cast<Event*>(event);
  e.captured = stream != nullptr && reinterpret_cast<Stream*>(stream)->capturing;
  e.time = std::chrono::steady_clock::now();
  return machine().failed;
}
FATHOM_EXPORT cuEventSynchronize(EventHandle) { return machine().failed; }
FATHOM_EXPORT cuEventElapsedTime(float* milliseconds, EventHandle start, EventHandle end) {
  const auto elapsed = reinterpret_cast<Event*>(end)->time - reinterpret_cast<Event*>(start)->time;
  *milliseconds = std::chrono::duration<float, std::milli>(elapsed).count();
  return machine().failed;
}

// An allocation ends where a page does that cannot be touched: reading or writing 256 bytes past it ends the
// program.
FATHOM_EXPORT cuMemAlloc_v2(DevicePointer* pointer, std::size_t bytes) {
  FATHOM_LOCK;
  if (bytes == 0) return kErrorInvalidValue;
  std::size_t most = 0;
  cuDeviceTotalMem_v2(&most, 0);
  if (bytes > most) return kErrorOutOfMemory;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t rounded = (bytes + 255) / 256 * 256;
  const std::size_t whole = (rounded + page - 1) / page * page;
  void* mapping = mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return kErrorOutOfMemory;
  mprotect(static_cast<u8*>(mapping) + whole, page, PROT_NONE);
  *pointer = reinterpret_cast<DevicePointer>(static_cast<u8*>(mapping) + whole - rounded);
  machine().memory[*pointer] = bytes;
  machine().mappings[*pointer] = {mapping, whole + page};
  return kSuccess;
}
FATHOM_EXPORT cuMemFree_v2(DevicePointer pointer) {
  FATHOM_LOCK;
  const auto found = machine().mappings.find(pointer);
  if (found == machine().mappings.end()) return kErrorInvalidValue;
  munmap(found->second.first, found->second.second);
  machine().mappings.erase(found);
  machine().memory.erase(pointer);
  return kSuccess;
}
FATHOM_EXPORT cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  const Result status = cuDeviceTotalMem_v2(total, 0);
  *free = *total / 2;
  return status;
}
FATHOM_EXPORT cuMemAllocHost_v2(void** pointer, std::size_t bytes) {
  return *pointer = std::malloc(std::max<std::size_t>(bytes, 1)),
         *pointer != nullptr ? kSuccess : kErrorOutOfMemory;
}
FATHOM_EXPORT cuMemFreeHost(void* pointer) { return std::free(pointer), kSuccess; }

static Result copy(void* to, const void* from, std::size_t bytes, StreamHandle stream) {
  FATHOM_LOCK;
  return perform(stream, [=] { return std::memmove(to, from, bytes), kSuccess; });
}
FATHOM_EXPORT cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, std::size_t bytes,
                                   StreamHandle stream) {
  return copy(reinterpret_cast<void*>(to), from, bytes, stream);
}
FATHOM_EXPORT cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, std::size_t bytes, StreamHandle stream) {
  return copy(to, reinterpret_cast<const void*>(from), bytes, stream);
}
FATHOM_EXPORT cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, std::size_t bytes,
                                   StreamHandle stream) {
  return copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, stream);
}
FATHOM_EXPORT cuMemsetD8Async(DevicePointer to, unsigned char value, std::size_t bytes, StreamHandle stream) {
  FATHOM_LOCK;
  return perform(stream, [=] { return std::memset(reinterpret_cast<void*>(to), value, bytes), kSuccess; });
}
FATHOM_EXPORT cuMemsetD32Async(DevicePointer to, unsigned value, std::size_t count, StreamHandle stream) {
  FATHOM_LOCK;
  return perform(stream,
                 [=] { return std::fill_n(reinterpret_cast<unsigned*>(to), count, value), kSuccess; });
}
FATHOM_EXPORT cuPointerGetAttribute(void* value, PointerAttribute attribute, DevicePointer pointer) {
  FATHOM_LOCK;
  auto found = machine().memory.upper_bound(pointer);
  if (found == machine().memory.begin()) return kErrorInvalidValue;
  --found;
  if (pointer >= found->first + found->second) return kErrorInvalidValue;
  const unsigned answer = attribute == kPointerMemoryType ? kMemoryTypeDevice : 0;
  return std::memcpy(value, &answer, sizeof answer), kSuccess;
}

FATHOM_EXPORT cuModuleLoadData(ModuleHandle* module, const void* image) {
  FATHOM_LOCK;
  // The size is in the file itself: its section headers come last.
  ElfW(Ehdr) header;
  std::memcpy(&header, image, sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != EM_X86_64)
    return kErrorInvalidImage;
  const std::size_t bytes = header.e_shoff + std::size_t{header.e_shentsize} * header.e_shnum;
  auto made = std::make_unique<Module>();
  made->file = memfd_create("fathom-kernel", MFD_CLOEXEC);
  if (made->file < 0) return kErrorOutOfMemory;
  const std::string name = "/proc/self/fd/" + std::to_string(made->file);
  if (write(made->file, image, bytes) == static_cast<ssize_t>(bytes))
    made->handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (made->handle == nullptr) {
    const char* why = dlerror();
    std::fprintf(stderr, "emulator: a kernel cannot be loaded: %s\n",
                 why != nullptr ? why : "cannot be written");
    return kErrorInvalidImage;
  }
  made->call = reinterpret_cast<void (*)(void**)>(dlsym(made->handle, "fathom_emulator_call"));
  const auto sizes = reinterpret_cast<const unsigned* (*)()>(dlsym(made->handle, "fathom_emulator_sizes"));
  made->statics = reinterpret_cast<void* (*)()>(dlsym(made->handle, "fathom_emulator_static"));
  if (made->call == nullptr || sizes == nullptr || made->statics == nullptr) return kErrorInvalidImage;
  made->sizes = sizes();
  *module = reinterpret_cast<ModuleHandle>(made.release());
  return kSuccess;
}
FATHOM_EXPORT cuModuleUnload(ModuleHandle module) {
  FATHOM_LOCK;
  delete reinterpret_cast<Module*>(module);
  return kSuccess;
}
FATHOM_EXPORT cuModuleGetFunction(FunctionHandle* function, ModuleHandle module, const char*) {
  return *function = reinterpret_cast<FunctionHandle>(module), kSuccess;  // a module has one kernel
}
FATHOM_EXPORT cuModuleGetGlobal_v2(DevicePointer*, std::size_t*, ModuleHandle, const char*) {
  return kErrorNotFound;
}
FATHOM_EXPORT cuFuncGetAttribute(int* value, FunctionAttribute attribute, FunctionHandle) {
  *value = attribute == kFunctionMaxThreadsPerBlock ? 1024 : attribute == kFunctionRegisters ? 64 : 0;
  return kSuccess;
}
FATHOM_EXPORT cuFuncSetAttribute(FunctionHandle, FunctionAttribute, int) { return kSuccess; }
FATHOM_EXPORT cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, FunctionHandle, int threads,
                                                          std::size_t shared) {
  const std::size_t by_shared = (228u << 10) / (shared + 1024);
  return *blocks = static_cast<int>(std::min<std::size_t>(by_shared, 2048u / static_cast<unsigned>(threads))),
         kSuccess;
}
FATHOM_EXPORT cuOccupancyMaxActiveClusters(int* clusters, FunctionHandle, const LaunchConfigRecord* config) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < config->attribute_count; ++i) {
    if (config->attributes[i].id == kLaunchClusterDimension) cluster = config->attributes[i].value.cluster.x;
  }
  return *clusters = static_cast<int>(132 / cluster), kSuccess;
}
FATHOM_EXPORT cuLaunchKernelEx(const LaunchConfigRecord* config, FunctionHandle function, void** parameters,
                               void**) {
  FATHOM_LOCK;
  const Module* module = reinterpret_cast<const Module*>(function);
  Launch launch;
  launch.grid = {config->grid_x, config->grid_y, config->grid_z};
  launch.threads = {config->block_x, config->block_y, config->block_z};
  launch.dynamic_bytes = config->shared_bytes;
  for (unsigned i = 0; i < config->attribute_count; ++i) {
    const LaunchAttribute& attribute = config->attributes[i];
    if (attribute.id != kLaunchClusterDimension) continue;
    if (attribute.value.cluster.y != 1 || attribute.value.cluster.z != 1) return kErrorInvalidValue;
    launch.cluster = attribute.value.cluster.x;
  }
  if (u64{launch.grid.x} * launch.grid.y * launch.grid.z == 0) return kErrorInvalidValue;
  std::vector<std::vector<u64>> values;  // copied now, as a driver does
  for (const unsigned* size = module->sizes; *size != 0; ++size) {
    // Aligned as a tensor map wants it: such a value begins at a multiple of 64 bytes.
    std::vector<u64>& value = values.emplace_back((*size + 7) / 8);
    std::memcpy(value.data(), parameters[values.size() - 1], *size);
  }
  return perform(config->stream, [module, launch, values] { return run_kernel(*module, launch, values); });
}
FATHOM_EXPORT cuTensorMapEncodeTiled(cuda::TensorMap* map, TensorMapType type, std::uint32_t rank, void* data,
                                     const std::uint64_t* sizes, const std::uint64_t* strides,
                                     const std::uint32_t* box, const std::uint32_t* steps,
                                     TensorMapInterleave, TensorMapSwizzle swizzle, TensorMapL2Promotion,
                                     TensorMapFill) {
  static constexpr std::uint64_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
  EncodedMap m{};
  m.data = static_cast<u8*>(data);
  m.rank = static_cast<u8>(rank);
  m.swizzle = static_cast<u8>(swizzle);
  m.mark = kMapMark;
  if (rank < 1 || rank > 5 || data == nullptr || reinterpret_cast<std::uintptr_t>(data) % 16 != 0)
    return kErrorInvalidValue;
  for (std::uint32_t axis = 0; axis < rank; ++axis) {
    m.size[axis] = sizes[axis];
    m.stride[axis] = axis == 0 ? kBytes[static_cast<int>(type)] : strides[axis - 1];
    m.box[axis] = static_cast<std::uint16_t>(box[axis]);
    if (sizes[axis] == 0 || sizes[axis] > std::uint64_t{1} << 32 || box[axis] == 0 || box[axis] > 256 ||
        steps[axis] != 1 ||
        (axis > 0 && (m.stride[axis] % 16 != 0 || m.stride[axis] >= std::uint64_t{1} << 40)))
      return kErrorInvalidValue;
  }
  const std::uint64_t row = m.box[0] * m.stride[0];
  if (row % 16 != 0 || (m.swizzle != 0 && row > 16u << m.swizzle)) return kErrorInvalidValue;
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &m, sizeof m);
  return kSuccess;
}

FATHOM_EXPORT cuGraphInstantiateWithFlags(GraphExecHandle* instance, GraphHandle graph, unsigned long long) {
  return *instance = reinterpret_cast<GraphExecHandle>(new Graph(*reinterpret_cast<Graph*>(graph))), kSuccess;
}
FATHOM_EXPORT cuGraphLaunch(GraphExecHandle graph, StreamHandle stream) {
  FATHOM_LOCK;
  return perform(stream, [graph] {
    for (const auto& action : reinterpret_cast<Graph*>(graph)->actions) {
      if (const Result status = action(); status != kSuccess) return status;
    }
    return kSuccess;
  });
}
FATHOM_EXPORT cuGraphDestroy(GraphHandle graph) {
  delete reinterpret_cast<Graph*>(graph);
  return kSuccess;
}
FATHOM_EXPORT cuUserObjectCreate(UserObjectHandle* object, void* value, void (*destroy)(void*), unsigned,
                                 unsigned) {
  return *object = reinterpret_cast<UserObjectHandle>(new UserObject(value, destroy)), kSuccess;
}
FATHOM_EXPORT cuGraphRetainUserObject(GraphHandle graph, UserObjectHandle object, unsigned, unsigned flags) {
  FATHOM_LOCK;
  if (flags != kGraphUserObjectMove) return kErrorInvalidValue;
  auto* moved = reinterpret_cast<UserObject*>(object);
  reinterpret_cast<Graph*>(graph)->kept.push_back(std::move(*moved));
  delete moved;
  return kSuccess;
}
FATHOM_EXPORT cuUserObjectRelease(UserObjectHandle object, unsigned) {
  delete reinterpret_cast<UserObject*>(object);
  return kSuccess;
}
FATHOM_EXPORT cuGraphExecDestroy(GraphExecHandle graph) {
  delete reinterpret_cast<Graph*>(graph);
  return kSuccess;
}

}  // namespace fathom::emulator
