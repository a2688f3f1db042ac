// DeviceContext: a device's primary context, kept as long as a Context lives, and what other layers keep
// beside it. Current makes it the thread's.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/device_state.hpp"
#include "cuda/driver.hpp"
#include "fathom/core/context.hpp"

namespace fathom::cuda {

class DeviceContext final : public DeviceState {
 public:
  /// Retains the primary context. Throws CudaError; InvalidArgument if there is no such device.
  DeviceContext(std::shared_ptr<const Driver> driver, int index);
  ~DeviceContext() override;

  const Driver& driver() const { return *driver_; }
  const DeviceInfo& info() const { return info_; }
  ContextHandle handle() const { return handle_; }

  /// The one T of this device, made by `make` at first use. It is destroyed, in the reverse order, before the
  /// primary context is released. Any thread may ask; the lookup takes no lock.
  template <class T>
  T& attached(const std::function<std::shared_ptr<T>()>& make) {
    static constexpr char kKey = 0;
    if (void* value = find(&kKey)) return *static_cast<T*>(value);
    return *static_cast<T*>(attach(&kKey, [&] { return std::static_pointer_cast<void>(make()); }));
  }

 private:
  struct Attached {
    const void* key;
    std::shared_ptr<void> value;
    Attached* next;
  };
  void* find(const void* key) const {
    for (const Attached* entry = attached_.load(std::memory_order_acquire); entry; entry = entry->next) {
      if (entry->key == key) return entry->value.get();
    }
    return nullptr;
  }
  void* attach(const void* key, const std::function<std::shared_ptr<void>()>& make);

  std::shared_ptr<const Driver> driver_;
  DeviceInfo info_;
  DeviceId id_ = 0;
  ContextHandle handle_ = nullptr;
  std::recursive_mutex mutex_;  // what is being made may ask for something else
  std::atomic<Attached*> attached_ = nullptr;
};

/// The device of `context`. Throws InvalidArgument if that is the host.
DeviceContext& device_context(const Context& context);
std::shared_ptr<DeviceContext> share_device_context(const Context& context);
inline StreamHandle stream_of(const Context& context) { return static_cast<StreamHandle>(context.stream()); }

/// A Context on device `index` of another driver's table: how tests come by one without a GPU.
Context make_context(std::shared_ptr<const Driver> driver, int index = 0, ContextOptions options = {});

/// Makes the device's context current on this thread, and at the end what was current before.
class Current {
 public:
  explicit Current(const DeviceContext& device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const DeviceContext& device_;
  ContextHandle before_ = nullptr;
};

}  // namespace fathom::cuda
