#include "cuda/driver.hpp"

#include <gtest/gtest.h>

#include "cuda/cublaslt.hpp"
#include "cuda/library.hpp"
#include "cuda/nvrtc.hpp"
#include "fake_driver.hpp"
#include "fathom/cuda/probe.hpp"

namespace fathom::cuda {
namespace {

template <class Body>
std::string message_of(Body body) {
  try {
    body();
  } catch (const CudaError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Driver, AFailureSaysTheCallTheStatusAndTheIntent) {
  FakeDriver fake;
  const auto driver = fake.table();
  EXPECT_EQ(message_of([&] { driver->check(kErrorOutOfMemory, "cuMemAlloc_v2", "allocating 8 bytes"); }),
            "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (out of memory) while allocating 8 bytes");
  fake.fail("cuGetErrorName");
  EXPECT_EQ(message_of([&] { driver->check(7, "cuInit", "starting"); }), "cuInit: status 7 while starting");
  driver->check(kSuccess, "cuInit", "starting");
}

TEST(Driver, TheStatusIsKept) {
  FakeDriver fake;
  try {
    fake.table()->fail(kErrorOutOfMemory, "cuMemAlloc_v2", "allocating");
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(dynamic_cast<const CudaError&>(error).status(), kErrorOutOfMemory);
  }
}

TEST(Driver, DescribesDevices) {
  FakeDriver fake;
  fake.devices.push_back({.sm_major = 8, .sm_minor = 6, .num_sms = 84, .name = "fake A40"});
  const auto driver = fake.table();
  EXPECT_EQ(device_count(*driver), 2);
  const DeviceInfo first = query_device(*driver, 0);
  EXPECT_EQ(first.name, "fake H200");
  EXPECT_EQ(first.sm(), 90);
  EXPECT_EQ(first.num_sms, 132);
  EXPECT_EQ(first.l2_bytes, 50 << 20);
  EXPECT_EQ(first.shared_bytes_per_block, 227 << 10);
  EXPECT_EQ(first.memory_bytes, std::int64_t{141} << 30);
  EXPECT_EQ(query_device(*driver, 1).sm(), 86);
}

TEST(Driver, NoDeviceIsACountOfZero) {
  FakeDriver fake;
  fake.fail("cuDeviceGetCount", kErrorNoDevice);
  EXPECT_EQ(device_count(*fake.table()), 0);
  fake.fail("cuDeviceGetCount", 3);
  EXPECT_EQ(message_of([&] { device_count(*fake.table()); }),
            "cuDeviceGetCount: CUDA_ERROR_UNKNOWN (unknown error) while counting devices");
}

// Each call that a description needs, failing in turn, is the one that is named.
TEST(Driver, EveryFailedQueryIsNamed) {
  for (const char* call : {"cuDeviceGet", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute"}) {
    FakeDriver fake;
    fake.fail(call);
    EXPECT_EQ(message_of([&] { query_device(*fake.table(), 0); }),
              std::string(call) + ": CUDA_ERROR_UNKNOWN (unknown error) while asking about cuda:0");
  }
}

TEST(Library, SaysWhyItCannotBeOpened) {
  const Library library({"libfathom_no_such_library.so.7"});
  EXPECT_FALSE(library.found());
  EXPECT_NE(library.detail().find("libfathom_no_such_library.so.7"), std::string::npos);
}

TEST(Library, ListsEveryFunctionItLacks) {
  Library library({"libfathom_no_such_library.so.7", "libc.so.6"});
  ASSERT_TRUE(library.found());
  EXPECT_EQ(library.detail(), "libc.so.6");
  int (*puts)(const char*) = nullptr;
  void (*missing)() = nullptr;
  library.find("puts", puts);
  library.find("fathom_first", missing);
  library.find("fathom_second", missing);
  EXPECT_NE(puts, nullptr);
  EXPECT_EQ(library.missing(), "fathom_first, fathom_second");
}

TEST(Nvrtc, AWrongFileIsSaid) {
  const NvrtcProbe missing = find_nvrtc("/nonexistent/libnvrtc.so");
  EXPECT_EQ(missing.nvrtc, nullptr);
  EXPECT_NE(missing.detail.find("/nonexistent/libnvrtc.so"), std::string::npos);
  const NvrtcProbe other = find_nvrtc("libc.so.6");
  EXPECT_EQ(other.nvrtc, nullptr);
  EXPECT_EQ(other.detail.find("libc.so.6 lacks nvrtcVersion, "), 0u);
  EXPECT_EQ(message_of([] {
              load_nvrtc("a test", "libc.so.6");
            }).find("the run-time compiler NVRTC cannot be used: "),
            0u);
}

// With or without the libraries, a probe answers in one line and never throws.
TEST(Probe, AnswersOnAnyMachine) {
  for (const LibraryProbe& probe : {probe_cuda_driver(), probe_nvrtc()}) {
    EXPECT_FALSE(probe.detail.empty());
    EXPECT_EQ(probe.detail.find('\n'), std::string::npos);
  }
  EXPECT_FALSE(find_cublaslt().detail.empty());
  const DriverProbe driver = find_driver();
  if (driver.driver == nullptr) {
    EXPECT_EQ(message_of([] { load_driver("a test"); }),
              "the CUDA driver cannot be used: " + driver.detail + "; it is needed for a test");
  }
}

}  // namespace
}  // namespace fathom::cuda
