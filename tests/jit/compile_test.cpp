// The real compiler: logs, errors, architectures, threads.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <fstream>

#include "jit/cubin_store.hpp"
#include "jit/jit.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"
#include "ops/op_test.hpp"

namespace fathom::jit {
namespace {

constexpr std::array<Header, 2> kHeaders{{
    {"deep/add.cuh",
     "#pragma once\n#include \"types.cuh\"\n__device__ Value add(Value a, Value b) { return a + b; }\n"},
    {"types.cuh", "#pragma once\nusing Value = float;\n"},
}};
constexpr const char* kAdd = R"(
#include "deep/add.cuh"
extern "C" __global__ void fathom_kernel(const Value* a, Value* out) { out[threadIdx.x] = add(a[threadIdx.x], 1); }
)";

bool is_elf(const Cubin& cubin) {
  return cubin.bytes.size() > 4 && std::memcmp(cubin.bytes.data(), "\177ELF", 4) == 0;
}

TEST(Compile, GivesACubinWithTheHeadersInMemory) {
  const Cubin cubin = compile({"add", kAdd}, "sm_90a", nvrtc(), kHeaders);
  EXPECT_TRUE(is_elf(cubin));
  EXPECT_EQ(cubin.name, "add");
  EXPECT_EQ(spilled_bytes(cubin), 0);
  EXPECT_NE(cubin.log.find("fathom_kernel"), std::string::npos);
}

TEST(Compile, TheSameSourceGivesTheSameBytes) {
  const Cubin one = compile({"add", kAdd}, "sm_90a", nvrtc(), kHeaders);
  EXPECT_EQ(one.bytes, compile({"add", kAdd}, "sm_90a", nvrtc(), kHeaders).bytes);
}

TEST(Compile, OnSeveralThreadsAtOnce) {
  const Cubin expected = compile({"add", kAdd}, "sm_90a", nvrtc(), kHeaders);
  std::vector<Cubin> cubins(6);
  on_all_cores(cubins.size(), 3, [&](std::size_t i) {
    cubins[i] = compile({"add", kAdd}, "sm_90a", nvrtc(), kHeaders);
  });
  for (const Cubin& cubin : cubins) EXPECT_EQ(cubin.bytes, expected.bytes);
}

TEST(Compile, FusesOnlyWhatTheSourceFuses) {
  // a * b + c in one rounding is exactly 2^-24 here, in two it is 0.
  const Source two{"two",
                   "extern \"C\" __global__ void fathom_kernel(float a, float b, float c, float* out) { *out "
                   "= a * b + c; }"};
  const Source one{"one",
                   "extern \"C\" __global__ void fathom_kernel(float a, float b, float c, float* out) { *out "
                   "= __fmaf_rn(a, b, c); }"};
  EXPECT_NE(compile(two, "sm_90a", nvrtc(), {}).bytes.size(), 0u);
  EXPECT_NE(compile(two, "sm_90a", nvrtc(), {}).bytes, compile(one, "sm_90a", nvrtc(), {}).bytes);
}

TEST(Compile, AnErrorSaysKernelOptionsAndLog) {
  try {
    compile({"gemm.broken", "extern \"C\" __global__ void fathom_kernel() { no_such_thing(); }"}, "sm_90a",
            nvrtc());
    FAIL();
  } catch (const CompileError& error) {
    EXPECT_NE(std::string(error.what()).find("gemm.broken"), std::string::npos);
    EXPECT_NE(error.log().find("no_such_thing"), std::string::npos) << error.log();
    EXPECT_NE(error.options().find("--gpu-architecture=sm_90a"), std::string::npos) << error.options();
  }
  EXPECT_ERROR(CompileError, "not_there.cuh",
               compile({"k", "#include \"not_there.cuh\"\n"}, "sm_90a", nvrtc()));
  EXPECT_ERROR(CompileError, "sm_12", compile({"k", kAdd}, "sm_12", nvrtc(), kHeaders));
}

TEST(Compile, SpillsAreSeen) {
  // 200 live values in the 64 registers that 1024 threads leave each.
  const Source source{"spills", R"(
extern "C" __global__ void __launch_bounds__(1024) fathom_kernel(const float* a, float* out, int n) {
  float v[200];
#pragma unroll
  for (int i = 0; i < 200; ++i) v[i] = a[i * 1024 + threadIdx.x];
  for (int k = 0; k < n; ++k) {
#pragma unroll
    for (int i = 0; i < 200; ++i) v[i] = v[i] * v[(i + 7) % 200] + a[k];
  }
#pragma unroll
  for (int i = 0; i < 200; ++i) out[i * 1024 + threadIdx.x] = v[i];
})"};
  EXPECT_GT(spilled_bytes(compile(source, "sm_90a", nvrtc())), 0);
  EXPECT_THROW(spilled_bytes(Cubin{"k", "sm_90a", {}, "nothing"}), InvalidArgument);
}

// A store that has a pack, a folder and the compiler, in turn.
struct StoreTest : testing::Test {
  Scratch scratch;
  Source source{"add_one", "extern \"C\" __global__ void fathom_kernel(int* x) { *x += 1; }"};
  CubinStore::Options options{scratch / "cache", "", false, nvrtc_path()};
};

TEST_F(StoreTest, PackThenDiskThenCompiler) {
  const auto first = CubinStore(options).get(source, "sm_90a");
  EXPECT_EQ(first.origin, CubinStore::Origin::compiled);
  EXPECT_TRUE(is_elf(first.cubin));
  const auto second = CubinStore(options).get(source, "sm_90a", CompileMode::cached_only);
  EXPECT_EQ(second.origin, CubinStore::Origin::disk);
  EXPECT_EQ(second.cubin.bytes, first.cubin.bytes);
  const std::string version = version_of(nvrtc());
  write_pack(scratch / "pack",
             {{source.name, "sm_90a", cache_key(source, "sm_90a", version), first.cubin.bytes}}, version);
  options.kernel_pack = scratch / "pack";
  options.nvrtc = scratch / "no_nvrtc_here";  // the machine of a deployment
  const auto third = CubinStore(options).get(source, "sm_90a", CompileMode::cached_only);
  EXPECT_EQ(third.origin, CubinStore::Origin::pack);
  EXPECT_EQ(third.cubin.bytes, first.cubin.bytes);
}

TEST_F(StoreTest, EightProcessesCompileOnce) {
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(start_child([&] {
      return CubinStore(options).get(source, "sm_90a").origin == CubinStore::Origin::compiled ? 1 : 0;
    }));
  }
  int compiled = 0;
  for (const pid_t child : children) compiled += exit_code_of(child);
  EXPECT_EQ(compiled, 1);
}

TEST_F(StoreTest, CachedOnlyNamesTheKernelAndThePlaces) {
  options.kernel_pack = scratch / "empty.pack";
  write_pack(options.kernel_pack, {}, "13.0");
  CubinStore store(options);
  EXPECT_ERROR(EnvironmentError,
               "kernel add_one for sm_90a is neither in the kernel pack " + options.kernel_pack + " nor in " +
                   options.cache_dir,
               store.get(source, "sm_90a", CompileMode::cached_only));
  EXPECT_EQ(store.get(source, "sm_90a").origin, CubinStore::Origin::compiled);
}

TEST_F(StoreTest, WithoutCompilerTheReasonIsSaid) {
  options.nvrtc = scratch / "libnvrtc.so";
  EXPECT_ERROR(EnvironmentError, "NVRTC cannot be used", CubinStore(options).get(source, "sm_90a"));
}

TEST_F(StoreTest, ADamagedKernelInAPackIsCompiledInstead) {
  const std::string version = version_of(nvrtc());
  options.kernel_pack = scratch / "pack";
  write_pack(options.kernel_pack,
             {{source.name, "sm_90a", cache_key(source, "sm_90a", version), std::vector<std::byte>(100)}},
             version);
  std::fstream(options.kernel_pack, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-80, std::ios::end)
      .put('x');
  testing::internal::CaptureStderr();
  EXPECT_EQ(CubinStore(options).get(source, "sm_90a").origin, CubinStore::Origin::compiled);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("kernel add_one is damaged"), std::string::npos);
}

TEST(OnAllCores, RunsEachOnceAndPassesOnTheFirstException) {
  std::vector<std::atomic<int>> runs(100);
  on_all_cores(runs.size(), 4, [&](std::size_t i) { ++runs[i]; });
  for (const auto& count : runs) EXPECT_EQ(count, 1);
  on_all_cores(0, 4, [](std::size_t) { FAIL(); });
  EXPECT_THROW(on_all_cores(100, 4, [](std::size_t) { throw EnvironmentError("x"); }), EnvironmentError);
}

}  // namespace
}  // namespace fathom::jit
