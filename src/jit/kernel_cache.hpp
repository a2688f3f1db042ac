// KernelCache: the kernels of one context and device. Looks in memory, the kernel pack, the disk cache, and
// compiles what is nowhere.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>

#include "fathom/core/context.hpp"
#include "jit/jit.hpp"

struct CUfunc_st;

namespace fathom::jit {

/// A kernel in the memory of a device, ready to launch with up to the device's limit of dynamic shared
/// memory. Valid as long as its context.
class Kernel {
 public:
  CUfunc_st* function() const { return function_; }
  const std::string& name() const { return name_; }

 private:
  friend class KernelCache;
  std::string name_;
  CUfunc_st* function_ = nullptr;
};

/// An op's use of it:
///
///   struct Plan { std::int32_t block_m, block_n, stages; };      // no padding, no pointers
///   jit::Source source(const Plan& plan);                        // pure: the same plan gives the same text
///   ...
///   const jit::Kernel& kernel = jit::kernel_cache(context).get(source, plan);
///   if (context.compile_mode() == CompileMode::compile_only) return;
///   cuda::launch(kernel.function(), ...);
///
/// Any thread may call it. A warm get() hashes the plan's bytes and walks a short list: it takes no lock,
/// builds no string, allocates nothing.
class KernelCache {
 public:
  struct Impl;
  explicit KernelCache(std::unique_ptr<Impl> impl);
  ~KernelCache();
  KernelCache(const KernelCache&) = delete;
  KernelCache& operator=(const KernelCache&) = delete;

  /// The kernel of source(plan). Throws CompileError, EnvironmentError (no compiler; in mode cached_only: the
  /// kernel is neither in the pack nor in the disk cache) or CudaError.
  template <class Plan>
  const Kernel& get(Source (*source)(const Plan&), const Plan& plan) {
    static_assert(std::is_trivially_copyable_v<Plan> && std::has_unique_object_representations_v<Plan>,
                  "a plan is compared byte by byte: no padding, no floats");
    const auto maker = reinterpret_cast<const void*>(source);
    if (const Kernel* kernel = find(maker, &plan, sizeof(Plan))) return *kernel;
    return remember(maker, &plan, sizeof(Plan), get(source(plan)));
  }

  /// The slow way: by the source itself.
  const Kernel& get(const Source& source);

 private:
  const Kernel* find(const void* maker, const void* plan, std::size_t bytes) const;
  const Kernel& remember(const void* maker, const void* plan, std::size_t bytes, const Kernel& kernel);

  std::unique_ptr<Impl> impl_;
};

/// The cache of the context's device. Throws InvalidArgument if the context has no CUDA device.
KernelCache& kernel_cache(const Context& context);

}  // namespace fathom::jit
