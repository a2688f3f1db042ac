// DeviceState: what a Context holds for its device. Core declares what it asks; src/cuda has the body, as
// core knows nothing of CUDA.
#pragma once
#include <memory>
#include <string_view>

#include "fathom/core/tensor.hpp"

namespace fathom {

class DeviceState {
 public:
  explicit DeviceState(Device device) : device_(device) {}
  virtual ~DeviceState() = default;
  DeviceState(const DeviceState&) = delete;
  DeviceState& operator=(const DeviceState&) = delete;
  Device device() const { return device_; }

 private:
  Device device_;
};

/// "cpu", "cuda" (the first device) or "cuda:N". Throws InvalidArgument.
Device parse_device(std::string_view text);

/// The state of a CUDA device. Throws CudaError if the driver or the device cannot be used.
std::shared_ptr<DeviceState> open_device(Device device);

}  // namespace fathom
