#include "fathom/cuda/probe.hpp"

#include <dlfcn.h>

#include <array>
#include <initializer_list>

namespace fathom {
namespace {

// The few entry points asked, with the types of NVIDIA's documented C interface. 0 is success in both
// libraries.
using CuInit = int (*)(unsigned);
using CuGetErrorName = int (*)(int, const char**);
using CuGetInt = int (*)(int*);
using CuDeviceGet = int (*)(int*, int);
using CuDeviceGetName = int (*)(char*, int, int);
using CuDeviceGetAttribute = int (*)(int*, int, int);
using NvrtcVersion = int (*)(int*, int*);
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;

// Never closed: the driver does not support being unloaded.
void* open_first(std::initializer_list<const char*> names, std::string& text) {
  for (const char* name : names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
      text = name;
      return library;
    }
    const char* error = dlerror();
    if (text.empty()) text = error != nullptr ? error : std::string(name) + ": dlopen failed";
  }
  return nullptr;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

std::string version_string(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

LibraryProbe probe_cuda_driver() {
  LibraryProbe probe;
  void* library = open_first({"libcuda.so.1"}, probe.detail);
  if (library == nullptr) return probe;
  CuInit init;
  CuGetErrorName error_name;
  CuGetInt driver_version, device_count;
  CuDeviceGet device_get;
  CuDeviceGetName device_name;
  CuDeviceGetAttribute attribute;
  if (!find(library, "cuInit", init) || !find(library, "cuGetErrorName", error_name) ||
      !find(library, "cuDriverGetVersion", driver_version) ||
      !find(library, "cuDeviceGetCount", device_count) || !find(library, "cuDeviceGet", device_get) ||
      !find(library, "cuDeviceGetName", device_name) || !find(library, "cuDeviceGetAttribute", attribute)) {
    probe.detail += " lacks a function of the CUDA driver";
    return probe;
  }
  if (const int status = init(0); status != 0) {
    const char* name = nullptr;
    error_name(status, &name);
    probe.detail += ": cuInit says " + (name != nullptr ? std::string(name) : std::to_string(status));
    return probe;
  }
  int version = 0;
  int count = 0;
  if (driver_version(&version) == 0) probe.detail += ", CUDA " + version_string(version);
  device_count(&count);
  probe.usable = count > 0;
  if (count == 0) probe.detail += ", no device";
  for (int index = 0; index < count; ++index) {
    int device = 0;
    int major = 0;
    int minor = 0;
    std::array<char, 256> name{};
    if (device_get(&device, index) != 0) continue;
    device_name(name.data(), static_cast<int>(name.size()) - 1, device);
    attribute(&major, kComputeCapabilityMajor, device);
    attribute(&minor, kComputeCapabilityMinor, device);
    probe.detail += std::string(", ") + name.data() + " (sm_" + std::to_string(major * 10 + minor) + ")";
  }
  return probe;
}

LibraryProbe probe_nvrtc() {
  LibraryProbe probe;
  void* library = open_first(
      {"libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so"}, probe.detail);
  if (library == nullptr) return probe;
  NvrtcVersion version;
  int major = 0;
  int minor = 0;
  if (!find(library, "nvrtcVersion", version) || version(&major, &minor) != 0) {
    probe.detail += " does not say its version";
    return probe;
  }
  probe.usable = true;
  probe.detail += ", version " + std::to_string(major) + "." + std::to_string(minor);
  return probe;
}

}  // namespace fathom
