#include "jit/kernel_cache.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace fathom::jit {
namespace {

std::uint64_t hash_of(const void* maker, const void* plan, std::size_t bytes) {
  auto hash = reinterpret_cast<std::uint64_t>(maker);
  const auto* from = static_cast<const std::byte*>(plan);
  for (std::size_t at = 0; at < bytes; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, from + at, std::min<std::size_t>(8, bytes - at));
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace

KernelCache::KernelCache(const cuda::DeviceContext& device, CubinStore::Options options)
    : device_(device),
      arch_(arch_name(device.info().sm_major, device.info().sm_minor)),
      store_(std::move(options)) {}

KernelCache::~KernelCache() {
  for (std::atomic<Node*>& list : plans_) {
    for (Node* node = list.load(); node != nullptr;) delete std::exchange(node, node->next);
  }
  try {
    const cuda::Current current(device_);
    for (const auto& [text, entry] : kernels_) {
      if (entry->module != nullptr) device_.driver().cuModuleUnload(entry->module);
    }
  } catch (const Error&) {
    // The device is gone, and the modules with it.
  }
}

const Kernel* KernelCache::find(const void* maker, const void* plan, std::size_t bytes) const {
  const Node* node = plans_[hash_of(maker, plan, bytes) % plans_.size()].load(std::memory_order_acquire);
  for (; node != nullptr; node = node->next) {
    if (node->maker == maker && node->plan.size() == bytes &&
        std::memcmp(node->plan.data(), plan, bytes) == 0) {
      return node->kernel;
    }
  }
  return nullptr;
}

void KernelCache::remember(const void* maker, const void* plan, std::size_t bytes, const Kernel& kernel) {
  const std::lock_guard lock(mutex_);
  if (find(maker, plan, bytes) != nullptr) return;
  const auto* from = static_cast<const std::byte*>(plan);
  std::atomic<Node*>& list = plans_[hash_of(maker, plan, bytes) % plans_.size()];
  list.store(new Node{maker, {from, from + bytes}, &kernel, list.load(std::memory_order_relaxed)},
             std::memory_order_release);
}

const Kernel& KernelCache::get(const Source& source, CompileMode mode) {
  Entry* entry = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto& slot = kernels_[source.text];
    if (slot == nullptr) slot = std::make_unique<Entry>();
    entry = slot.get();
  }
  const std::lock_guard lock(entry->mutex);
  if (entry->kernel == nullptr) load(store_.get(source, arch_, mode).cubin, *entry);
  return *entry->kernel;
}

void KernelCache::load(const Cubin& cubin, Entry& entry) {
  const cuda::Driver& driver = device_.driver();
  const cuda::Current current(device_);
  const std::string doing = "loading kernel " + cubin.name;
  struct Module {
    const cuda::Driver& driver;
    cuda::ModuleHandle handle = nullptr;
    ~Module() {
      if (handle != nullptr) driver.cuModuleUnload(handle);
    }
  } module{driver};
  driver.check(driver.cuModuleLoadData(&module.handle, cubin.bytes.data()), "cuModuleLoadData", doing);
  auto kernel = std::make_unique<Kernel>();
  kernel->name_ = cubin.name;
  driver.check(driver.cuModuleGetFunction(&kernel->function_, module.handle, kEntryPoint),
               "cuModuleGetFunction", doing);
  int fixed = 0;  // shared memory that the kernel declares
  driver.check(driver.cuFuncGetAttribute(&fixed, cuda::kFunctionSharedBytes, kernel->function_),
               "cuFuncGetAttribute", doing);
  const auto set = [&](cuda::FunctionAttribute attribute, int value) {
    driver.check(driver.cuFuncSetAttribute(kernel->function_, attribute, value), "cuFuncSetAttribute", doing);
  };
  set(cuda::kFunctionMaxDynamicSharedBytes, static_cast<int>(device_.info().shared_bytes_per_block) - fixed);
  if (device_.info().sm_major >= 9) set(cuda::kFunctionNonPortableClusterSize, 1);
  entry.module = std::exchange(module.handle, nullptr);
  entry.kernel = std::move(kernel);
}

KernelCache& kernel_cache(const Context& context) {
  cuda::DeviceContext& device = cuda::device_context(context);
  return device.attached<KernelCache>([&] {
    const ContextOptions& options = context.options();
    return std::make_shared<KernelCache>(
        device, CubinStore::Options{options.cache_dir, options.kernel_pack, context.verbose("jit"), {}});
  });
}

}  // namespace fathom::jit
