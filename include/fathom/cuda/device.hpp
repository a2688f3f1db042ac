// What a program holds on a CUDA device: memory, streams, events, graphs, and the copies between host and
// device. Needs no header of NVIDIA's. Every owner is move-only and keeps its device open; every function
// throws CudaError if the driver refuses, and works from any thread, whatever context is current on it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>

#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/cuda/error.hpp"

namespace fathom::cuda {

class DeviceContext;

/// A handle of the driver and the device it belongs to.
class Owned {
 public:
  using Destroy = void (*)(const DeviceContext& device, void* handle);
  Owned() = default;
  Owned(std::shared_ptr<DeviceContext> device, void* handle, Destroy destroy);
  Owned(Owned&& other) noexcept;
  Owned& operator=(Owned&& other) noexcept;
  ~Owned();
  void* get() const { return handle_; }
  const std::shared_ptr<DeviceContext>& device() const { return device_; }

 private:
  std::shared_ptr<DeviceContext> device_;
  void* handle_ = nullptr;
  Destroy destroy_ = nullptr;
};

/// Device memory, aligned to 256 bytes. Contents are not initialised. Allocating and freeing may wait for the
/// device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const Context& context, std::int64_t bytes);

  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  std::int64_t size() const { return size_; }
  /// A contiguous view of the front of the buffer. Throws InvalidArgument if the tensor does not fit.
  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape) const;

 private:
  Owned memory_;
  Device device_{};
  std::int64_t size_ = 0;
};

/// A stream that does not wait for the default stream.
class Stream {
 public:
  explicit Stream(const Context& context);
  void* handle() const { return stream_.get(); }  ///< the CUstream, for Context::on_stream
  void synchronize() const;

 private:
  Owned stream_;
};

/// A point in a stream.
class Event {
 public:
  /// With `timing`, milliseconds_since() can be asked.
  explicit Event(const Context& context, bool timing = false);
  void* handle() const { return event_.get(); }
  void record(const Context& context) const;
  /// The stream of `context` goes on when the event has happened.
  void wait(const Context& context) const;
  void synchronize() const;
  double milliseconds_since(const Event& start) const;

 private:
  Owned event_;
};

/// Work that was recorded once and can be launched again and again.
class Graph {
 public:
  /// Runs `body`, whose work on the stream of `context` is recorded instead of done. The stream must not be
  /// the default one. If `body` throws, the recording is dropped and the exception goes on. A recording that
  /// is made by other means and instantiated twice must not run twice at the same time: launches in it own
  /// places in device memory.
  static Graph capture(const Context& context, const std::function<void()>& body);
  void launch(const Context& context) const;

 private:
  Owned graph_;
};

/// Queue a copy on the stream of `context`. Pageable host memory may be reused as soon as copy_to_device
/// returns; what copy_to_host writes is there after synchronize().
void copy_to_device(const Context& context, void* to, const void* from, std::int64_t bytes);
void copy_to_host(const Context& context, void* to, const void* from, std::int64_t bytes);
void copy_on_device(const Context& context, void* to, const void* from, std::int64_t bytes);
/// Sets every byte.
void fill(const Context& context, void* to, std::uint8_t value, std::int64_t bytes);
/// Waits until the stream of `context` has done its work. On the host it returns at once.
void synchronize(const Context& context);

/// Devices of this machine; 0 without a driver.
int count_devices();

}  // namespace fathom::cuda
