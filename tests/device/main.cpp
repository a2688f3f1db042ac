// Tests that need a GPU, or the emulator of one.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <memory>

#include "fathom/cuda/device.hpp"
#include "fathom/cuda/probe.hpp"
#include "on_device.hpp"

namespace fathom {

const Context& device_context() { return device_context(""); }

const Context& device_context(const std::string& implementation) {
  static std::map<std::string, std::unique_ptr<Context>> contexts;
  auto& context = contexts[implementation];
  if (context == nullptr) {
    ContextOptions options = ContextOptions::from_environment();
    if (options.device == "cpu") options.device = "cuda";
    options.force_implementation = implementation;
    context = std::make_unique<Context>(options);
  }
  return *context;
}

}  // namespace fathom

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const fathom::LibraryProbe driver = fathom::probe_cuda_driver();
  if (!driver.usable && !::testing::GTEST_FLAG(list_tests)) {
    std::fprintf(stderr, "device_test: no CUDA device: %s\n", driver.detail.c_str());
    return 1;
  }
  std::printf("%s; NVRTC %s\n", driver.detail.c_str(), fathom::probe_nvrtc().detail.c_str());
  return RUN_ALL_TESTS();
}
