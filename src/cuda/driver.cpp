#include "cuda/driver.hpp"

#include <array>

#include "cuda/library.hpp"

namespace fathom::cuda {
namespace {
std::string version_string(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}
}  // namespace

std::string Driver::describe(Result status) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName(status, &name) != kSuccess || name == nullptr) {
    return "status " + std::to_string(status);
  }
  if (cuGetErrorString(status, &text) != kSuccess || text == nullptr) return name;
  return std::string(name) + " (" + text + ")";
}

void Driver::fail(Result status, std::string_view call, std::string_view doing) const {
  throw CudaError(std::string(call) + ": " + describe(status) + " while " + std::string(doing), status);
}

DriverProbe find_driver() {
  Library library({"libcuda.so.1"});
  if (!library.found()) return {nullptr, library.detail()};
  auto driver = std::make_shared<Driver>();
#define FATHOM_CUDA_FIND(name, ...) library.find(#name, driver->name);
  FATHOM_CUDA_DRIVER(FATHOM_CUDA_FIND)
#undef FATHOM_CUDA_FIND
  if (!library.missing().empty()) {
    return {nullptr,
            library.detail() + " lacks " + library.missing() + "; a driver of CUDA 12.3 or newer has it"};
  }
  if (const Result status = driver->cuInit(0); status != kSuccess) {
    return {nullptr, library.detail() + ": cuInit says " + driver->describe(status)};
  }
  std::string detail = library.detail();
  int version = 0;
  if (driver->cuDriverGetVersion(&version) == kSuccess) detail += ", CUDA " + version_string(version);
  return {std::move(driver), std::move(detail)};
}

std::shared_ptr<const Driver> load_driver(std::string_view doing) {
  DriverProbe probe = find_driver();
  if (probe.driver == nullptr) {
    throw CudaError(
        "the CUDA driver cannot be used: " + probe.detail + "; it is needed for " + std::string(doing),
        kErrorNoDevice);
  }
  return std::move(probe.driver);
}

int device_count(const Driver& driver) {
  int count = 0;
  const Result status = driver.cuDeviceGetCount(&count);
  if (status == kErrorNoDevice) return 0;
  driver.check(status, "cuDeviceGetCount", "counting devices");
  return count;
}

DeviceInfo query_device(const Driver& driver, int index) {
  const std::string doing = "asking about cuda:" + std::to_string(index);
  DeviceInfo info;
  info.index = index;
  DeviceId id = 0;
  driver.check(driver.cuDeviceGet(&id, index), "cuDeviceGet", doing);
  std::array<char, 256> name{};
  driver.check(driver.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, id), "cuDeviceGetName",
               doing);
  info.name = name.data();
  std::size_t bytes = 0;
  driver.check(driver.cuDeviceTotalMem_v2(&bytes, id), "cuDeviceTotalMem_v2", doing);
  info.memory_bytes = static_cast<std::int64_t>(bytes);
  const auto attribute = [&](DeviceAttribute which) {
    int value = 0;
    driver.check(driver.cuDeviceGetAttribute(&value, which, id), "cuDeviceGetAttribute", doing);
    return value;
  };
  info.sm_major = attribute(kComputeCapabilityMajor);
  info.sm_minor = attribute(kComputeCapabilityMinor);
  info.num_sms = attribute(kMultiprocessorCount);
  info.l2_bytes = attribute(kL2CacheBytes);
  info.shared_bytes_per_block = attribute(kMaxSharedBytesPerBlockOptin);
  info.shared_bytes_per_sm = attribute(kMaxSharedBytesPerMultiprocessor);
  return info;
}

}  // namespace fathom::cuda
