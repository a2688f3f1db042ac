#include "fathom/cuda/probe.hpp"

#include "cuda/driver.hpp"
#include "cuda/nvrtc.hpp"

namespace fathom {

LibraryProbe probe_cuda_driver() {
  const cuda::DriverProbe found = cuda::find_driver();
  LibraryProbe probe{false, found.detail};
  if (found.driver == nullptr) return probe;
  try {
    const int count = cuda::device_count(*found.driver);
    probe.usable = count > 0;
    if (count == 0) probe.detail += ", no device";
    for (int index = 0; index < count; ++index) {
      const cuda::DeviceInfo device = cuda::query_device(*found.driver, index);
      probe.detail += ", " + device.name + " (sm_" + std::to_string(device.sm()) + ")";
    }
  } catch (const CudaError& error) {
    probe.usable = false;
    probe.detail += std::string(": ") + error.what();
  }
  return probe;
}

LibraryProbe probe_nvrtc() {
  const cuda::NvrtcProbe found = cuda::find_nvrtc();
  return {found.nvrtc != nullptr, found.detail};
}

}  // namespace fathom
