// Kernels in a device's memory: made once per context and source, found without a lock from then on.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "cuda/device_context.hpp"
#include "cuda/launch.hpp"
#include "fathom/core/context.hpp"
#include "jit/cubin_store.hpp"
#include "jit/jit.hpp"

namespace fathom::jit {

/// A kernel that is loaded, and may be launched with as much dynamic shared memory as the device has and in
/// clusters of more than 8 blocks. Valid as long as its context.
class Kernel {
 public:
  cuda::FunctionHandle function() const { return function_; }
  const std::string& name() const { return name_; }

 private:
  friend class KernelCache;
  std::string name_;
  cuda::FunctionHandle function_ = nullptr;
};

/// Memory, then what CubinStore has. Any thread may use it.
class KernelCache {
 public:
  KernelCache(const cuda::DeviceContext& device, CubinStore::Options options);
  ~KernelCache();
  KernelCache(const KernelCache&) = delete;
  KernelCache& operator=(const KernelCache&) = delete;

  /// The kernel that `maker` gave for the bytes of a plan, or null.
  const Kernel* find(const void* maker, const void* plan, std::size_t bytes) const;
  void remember(const void* maker, const void* plan, std::size_t bytes, const Kernel& kernel);
  /// The kernel of a source, loaded if it is not. Throws CompileError, EnvironmentError or CudaError.
  const Kernel& get(const Source& source, CompileMode mode);

 private:
  struct Node {  // of a list of plans; never changed or freed while the cache lives
    const void* maker;
    std::vector<std::byte> plan;
    const Kernel* kernel;
    Node* next;
  };
  struct Entry {
    std::mutex mutex;  // held while the kernel is made: two threads that want one kernel make it once
    std::unique_ptr<Kernel> kernel;
    cuda::ModuleHandle module = nullptr;
  };
  void load(const Cubin& cubin, Entry& entry);

  const cuda::DeviceContext& device_;
  std::string arch_;
  CubinStore store_;
  std::array<std::atomic<Node*>, 256> plans_{};
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Entry>> kernels_;  // by the source's text
};

/// The cache of the context's device. Throws InvalidArgument if that is the host.
KernelCache& kernel_cache(const Context& context);

/// The kernel of source(plan). How an op comes by it:
///
///   struct Plan { std::int32_t block_m, block_n, stages; };  // compared byte by byte: no padding, no floats
///   jit::Source source(const Plan& plan);                    // pure: equal plans give equal sources
///   ...
///   const jit::Kernel& kernel = jit::kernel(context, source, plan);
///   jit::launch(kernel, config, context, arguments...);
///
/// Warm, it hashes the plan's bytes and walks a short list: no lock, no string, no allocation.
template <class Plan>
const Kernel& kernel(const Context& context, Source (*source)(const Plan&), const Plan& plan) {
  static_assert(std::is_trivially_copyable_v<Plan> && std::has_unique_object_representations_v<Plan>,
                "a plan is compared byte by byte: no padding, no floats");
  KernelCache& cache = kernel_cache(context);
  const auto maker = reinterpret_cast<const void*>(source);
  if (const Kernel* known = cache.find(maker, &plan, sizeof(Plan))) return *known;
  const Kernel& made = cache.get(source(plan), context.compile_mode());
  cache.remember(maker, &plan, sizeof(Plan), made);
  return made;
}

/// cuda::launch, unless the context is in mode compile_only: then nothing happens.
template <class... A>
void launch(const Kernel& kernel, const cuda::LaunchConfig& config, const Context& context,
            const A&... arguments) {
  if (context.compile_mode() == CompileMode::compile_only) return;
  cuda::launch(kernel.function(), kernel.name().c_str(), config, context, arguments...);
}

}  // namespace fathom::jit
