// Whether this machine has what the CUDA backend needs. Nothing of CUDA is linked; libraries are opened by
// name.
#pragma once
#include <string>

namespace fathom {

struct LibraryProbe {
  bool usable = false;
  std::string detail;  // one line: file, version and devices; or why it cannot be used
};

/// The driver, libcuda: usable if it starts and sees a device.
LibraryProbe probe_cuda_driver();
/// The run-time compiler, libnvrtc.
LibraryProbe probe_nvrtc();

}  // namespace fathom
