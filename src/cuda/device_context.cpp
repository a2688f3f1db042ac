#include "cuda/device_context.hpp"

namespace fathom {

std::shared_ptr<DeviceState> open_device(Device device) {
  return std::make_shared<cuda::DeviceContext>(cuda::load_driver("device " + to_string(device)),
                                               device.index);
}

namespace cuda {

DeviceContext::DeviceContext(std::shared_ptr<const Driver> driver, int index)
    : DeviceState({DeviceKind::cuda, index}), driver_(std::move(driver)) {
  if (const int count = device_count(*driver_); index >= count) {
    throw InvalidArgument("Context: 'device' must be one of the machine's, got cuda:" +
                          std::to_string(index) + " of " + std::to_string(count));
  }
  const std::string doing = "opening cuda:" + std::to_string(index);
  info_ = query_device(*driver_, index);
  driver_->check(driver_->cuDeviceGet(&id_, index), "cuDeviceGet", doing);
  driver_->check(driver_->cuDevicePrimaryCtxRetain(&handle_, id_), "cuDevicePrimaryCtxRetain", doing);
}

DeviceContext::~DeviceContext() {
  Attached* entry = attached_.load();
  while (entry != nullptr) {
    Attached* next = entry->next;
    delete entry;  // its destructor makes the context current if it needs that
    entry = next;
  }
  driver_->cuDevicePrimaryCtxRelease_v2(id_);
}

void* DeviceContext::attach(const void* key, const std::function<std::shared_ptr<void>()>& make) {
  const std::lock_guard lock(mutex_);
  if (void* value = find(key)) return value;
  std::shared_ptr<void> value = make();
  auto* entry = new Attached{key, std::move(value), attached_.load(std::memory_order_relaxed)};
  attached_.store(entry, std::memory_order_release);
  return entry->value.get();
}

std::shared_ptr<DeviceContext> share_device_context(const Context& context) {
  if (context.device().kind != DeviceKind::cuda) {
    throw InvalidArgument("Context: a CUDA device is needed, the context's device is " +
                          to_string(context.device()));
  }
  return std::static_pointer_cast<DeviceContext>(context.device_state());
}

DeviceContext& device_context(const Context& context) {
  if (context.device().kind != DeviceKind::cuda) [[unlikely]]
    share_device_context(context);
  return static_cast<DeviceContext&>(*context.device_state());
}

Context make_context(std::shared_ptr<const Driver> driver, int index, ContextOptions options) {
  return Context(options, std::make_shared<DeviceContext>(std::move(driver), index));
}

Current::Current(const DeviceContext& device) : device_(device), before_(device.handle()) {
  const Driver& driver = device.driver();
  const std::string_view doing = "making a device current";
  ContextHandle before = nullptr;
  driver.check(driver.cuCtxGetCurrent(&before), "cuCtxGetCurrent", doing);
  if (before == device.handle()) return;
  driver.check(driver.cuCtxSetCurrent(device.handle()), "cuCtxSetCurrent", doing);
  before_ = before;
}

Current::~Current() {
  if (before_ != device_.handle()) device_.driver().cuCtxSetCurrent(before_);
}

}  // namespace cuda
}  // namespace fathom
