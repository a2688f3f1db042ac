#include "fathom/cuda/device.hpp"

#include <string>
#include <utility>

#include "cuda/device_context.hpp"

namespace fathom::cuda {
namespace {

DevicePointer address(const void* data) { return reinterpret_cast<DevicePointer>(data); }

void destroy_memory(const DeviceContext& device, void* memory) {
  device.driver().cuMemFree_v2(address(memory));
}
void destroy_stream(const DeviceContext& device, void* stream) {
  device.driver().cuStreamDestroy_v2(static_cast<StreamHandle>(stream));
}
void destroy_event(const DeviceContext& device, void* event) {
  device.driver().cuEventDestroy_v2(static_cast<EventHandle>(event));
}
void destroy_graph(const DeviceContext& device, void* graph) {
  device.driver().cuGraphExecDestroy(static_cast<GraphExecHandle>(graph));
}

std::size_t checked_bytes(std::int64_t bytes) {
  if (bytes < 0) throw InvalidArgument("cuda: size must not be negative, got " + std::to_string(bytes));
  return static_cast<std::size_t>(bytes);
}

}  // namespace

Owned::Owned(std::shared_ptr<DeviceContext> device, void* handle, Destroy destroy)
    : device_(std::move(device)), handle_(handle), destroy_(destroy) {}

Owned::Owned(Owned&& other) noexcept
    : device_(std::move(other.device_)),
      handle_(std::exchange(other.handle_, nullptr)),
      destroy_(other.destroy_) {}

Owned& Owned::operator=(Owned&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  std::swap(destroy_, other.destroy_);
  return *this;
}

Owned::~Owned() {
  if (handle_ == nullptr) return;
  try {
    const Current current(*device_);
    destroy_(*device_, handle_);
  } catch (const CudaError&) {  // the driver is gone or broken: there is nothing left to free
  }
}

DeviceBuffer::DeviceBuffer(const Context& context, std::int64_t bytes)
    : device_(context.device()), size_(bytes) {
  auto device = share_device_context(context);
  const std::size_t size = checked_bytes(bytes);
  if (size == 0) return;
  const Current current(*device);
  DevicePointer memory = 0;
  if (const Result status = device->driver().cuMemAlloc_v2(&memory, size); status != kSuccess) {
    device->driver().fail(status, "cuMemAlloc_v2",
                          "allocating " + std::to_string(bytes) + " bytes on " + to_string(device_));
  }
  memory_ = Owned(std::move(device), reinterpret_cast<void*>(memory), destroy_memory);
}

TensorView DeviceBuffer::view(DType dtype, std::initializer_list<std::int64_t> shape) const {
  const TensorView tensor = TensorView::contiguous(data(), dtype, shape, device_);
  if (tensor.count() > size_ / size_of(dtype)) {
    throw InvalidArgument("DeviceBuffer: " + std::string(to_string(dtype)) + shape_string(tensor) +
                          " does not fit in " + std::to_string(size_) + " bytes");
  }
  return tensor;
}

Stream::Stream(const Context& context) {
  auto device = share_device_context(context);
  const Current current(*device);
  StreamHandle stream = nullptr;
  device->driver().check(device->driver().cuStreamCreate(&stream, kStreamNonBlocking), "cuStreamCreate",
                         "making a stream");
  stream_ = Owned(std::move(device), stream, destroy_stream);
}

void Stream::synchronize() const {
  const DeviceContext& device = *stream_.device();
  const Current current(device);
  device.driver().check(device.driver().cuStreamSynchronize(static_cast<StreamHandle>(handle())),
                        "cuStreamSynchronize", "waiting for a stream");
}

Event::Event(const Context& context, bool timing) {
  auto device = share_device_context(context);
  const Current current(*device);
  EventHandle event = nullptr;
  device->driver().check(device->driver().cuEventCreate(&event, timing ? kEventDefault : kEventDisableTiming),
                         "cuEventCreate", "making an event");
  event_ = Owned(std::move(device), event, destroy_event);
}

void Event::record(const Context& context) const {
  const DeviceContext& device = *event_.device();
  const Current current(device);
  device.driver().check(device.driver().cuEventRecord(static_cast<EventHandle>(handle()), stream_of(context)),
                        "cuEventRecord", "recording an event");
}

void Event::wait(const Context& context) const {
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(
      device.driver().cuStreamWaitEvent(stream_of(context), static_cast<EventHandle>(handle()), 0),
      "cuStreamWaitEvent", "making a stream wait for an event");
}

void Event::synchronize() const {
  const DeviceContext& device = *event_.device();
  const Current current(device);
  device.driver().check(device.driver().cuEventSynchronize(static_cast<EventHandle>(handle())),
                        "cuEventSynchronize", "waiting for an event");
}

double Event::milliseconds_since(const Event& start) const {
  const DeviceContext& device = *event_.device();
  const Current current(device);
  float milliseconds = 0;
  device.driver().check(
      device.driver().cuEventElapsedTime(&milliseconds, static_cast<EventHandle>(start.handle()),
                                         static_cast<EventHandle>(handle())),
      "cuEventElapsedTime", "measuring the time between two events");
  return static_cast<double>(milliseconds);
}

Graph Graph::capture(const Context& context, const std::function<void()>& body) {
  auto device = share_device_context(context);
  const Driver& driver = device->driver();
  const StreamHandle stream = stream_of(context);
  if (stream == nullptr) {
    throw InvalidArgument("Graph: capture needs a stream, the context is on its device's default stream");
  }
  const Current current(*device);
  driver.check(driver.cuStreamBeginCapture_v2(stream, kCaptureThreadLocal), "cuStreamBeginCapture_v2",
               "recording a graph");
  GraphHandle recorded = nullptr;
  try {
    body();
  } catch (...) {
    if (driver.cuStreamEndCapture(stream, &recorded) == kSuccess && recorded != nullptr) {
      driver.cuGraphDestroy(recorded);
    }
    throw;
  }
  driver.check(driver.cuStreamEndCapture(stream, &recorded), "cuStreamEndCapture", "recording a graph");
  GraphExecHandle graph = nullptr;
  const Result status = driver.cuGraphInstantiateWithFlags(&graph, recorded, 0);
  driver.cuGraphDestroy(recorded);
  driver.check(status, "cuGraphInstantiateWithFlags", "making a graph ready to launch");
  Graph result;
  result.graph_ = Owned(std::move(device), graph, destroy_graph);
  return result;
}

void Graph::launch(const Context& context) const {
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(
      device.driver().cuGraphLaunch(static_cast<GraphExecHandle>(graph_.get()), stream_of(context)),
      "cuGraphLaunch", "launching a graph");
}

void copy_to_device(const Context& context, void* to, const void* from, std::int64_t bytes) {
  if (checked_bytes(bytes) == 0) return;
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(
      device.driver().cuMemcpyHtoDAsync_v2(address(to), from, checked_bytes(bytes), stream_of(context)),
      "cuMemcpyHtoDAsync_v2", "copying to the device");
}

void copy_to_host(const Context& context, void* to, const void* from, std::int64_t bytes) {
  if (checked_bytes(bytes) == 0) return;
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(
      device.driver().cuMemcpyDtoHAsync_v2(to, address(from), checked_bytes(bytes), stream_of(context)),
      "cuMemcpyDtoHAsync_v2", "copying from the device");
}

void copy_on_device(const Context& context, void* to, const void* from, std::int64_t bytes) {
  if (checked_bytes(bytes) == 0) return;
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(device.driver().cuMemcpyDtoDAsync_v2(address(to), address(from), checked_bytes(bytes),
                                                             stream_of(context)),
                        "cuMemcpyDtoDAsync_v2", "copying on the device");
}

void fill(const Context& context, void* to, std::uint8_t value, std::int64_t bytes) {
  if (checked_bytes(bytes) == 0) return;
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(
      device.driver().cuMemsetD8Async(address(to), value, checked_bytes(bytes), stream_of(context)),
      "cuMemsetD8Async", "filling memory of the device");
}

void synchronize(const Context& context) {
  if (context.device().kind == DeviceKind::host) return;
  const DeviceContext& device = device_context(context);
  const Current current(device);
  device.driver().check(device.driver().cuStreamSynchronize(stream_of(context)), "cuStreamSynchronize",
                        "waiting for the device");
}

int count_devices() {
  const DriverProbe probe = find_driver();
  return probe.driver == nullptr ? 0 : device_count(*probe.driver);
}

}  // namespace fathom::cuda
