// The emulator itself: right kernels give right values, and mistakes of every kind are found. Its libraries
// come first on the loader's path.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <numeric>

#include "cuda/launch.hpp"
#include "cuda/tensor_map.hpp"
#include "fathom/core/context.hpp"
#include "fathom/cuda/device.hpp"
#include "jit/kernel_cache.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

Context cuda_context() {
  ContextOptions options = ContextOptions::from_environment();
  options.device = "cuda";
  return Context(options);
}

const char* const kIncludes =
    "#include \"layout/gemm.cuh\"\n#include \"ptx/barrier.cuh\"\n#include \"ptx/memory.cuh\"\n"
    "#include \"ptx/tma.cuh\"\n#include \"ptx/wgmma.cuh\"\n#include \"ptx/mma.cuh\"\nusing namespace "
    "fathom;\n";

/// Runs `body` as a kernel with a parameter `int* out` of 1024 values, and gives them.
std::vector<int> run(const std::string& body, cuda::LaunchConfig config, std::uint64_t seed = 0) {
  setenv("FATHOM_EMULATOR_SEED", std::to_string(seed).c_str(), 1);
  const Context context = cuda_context();
  const jit::Source source{
      "emulator_test",
      std::string(kIncludes) + "extern \"C\" __global__ void fathom_kernel(int* out) {\n" + body + "\n}\n"};
  const jit::Kernel& kernel = jit::kernel_cache(context).get(source, CompileMode::run);
  const cuda::DeviceBuffer out(context, 4096);
  cuda::fill(context, out.data(), 0, out.size());
  int* data = reinterpret_cast<int*>(out.data());
  cuda::launch(kernel.function(), "emulator_test", config, context, data);
  std::vector<int> result(1024);
  cuda::copy_to_host(context, result.data(), out.data(), out.size());
  cuda::synchronize(context);
  return result;
}

void expect_failure(const std::string& body, const cuda::LaunchConfig& config, const std::string& text) {
  try {
    run(body, config);
    FAIL() << "expected: " << text;
  } catch (const CudaError& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

constexpr cuda::LaunchConfig kWarp{.grid = {1}, .block = {32}, .shared_bytes = 4096};

TEST(Emulator, ThreadsLookAtMemoryAgain) {
  const std::string look = "while (ptx::ld_acquire(reinterpret_cast<u32*>(out)) == 0) ptx::pause();\n";
  const std::vector<int> out = run("if (threadIdx.x == 0) {\n" + look +
                                       "out[1] = 2;\n} else if (threadIdx.x == 31) {\n"
                                       "ptx::st_release(reinterpret_cast<u32*>(out), 1);\n}",
                                   kWarp);
  EXPECT_EQ(out[1], 2);
  expect_failure(look, kWarp, "what another thread has to write to memory");
}

TEST(Emulator, CollectivesOfAWarp) {
  const std::vector<int> out =
      run("const int lane = threadIdx.x;\n"
          "int sum = lane;\n"
          "for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);\n"
          "out[lane] = sum;\n"
          "out[32 + lane] = __shfl_up_sync(~0u, lane, 3);\n"
          "out[64 + lane] = static_cast<int>(__ballot_sync(~0u, lane % 2));\n"
          "if (lane >= 8) out[96 + lane] = __reduce_max_sync(~0xffu, lane ^ 8);\n"
          "out[128 + lane] = static_cast<int>(__match_any_sync(~0u, lane / 16));\n"
          "out[160 + lane] = ptx::elect_one() ? 1 : 0;",
          kWarp);
  EXPECT_EQ(std::accumulate(out.begin() + 160, out.begin() + 192, 0), 1);
  for (int lane = 0; lane < 32; ++lane) {
    const auto at = static_cast<std::size_t>(lane);
    EXPECT_EQ(out[at], 31 * 16);
    EXPECT_EQ(out[32 + at], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(static_cast<unsigned>(out[64 + at]), 0xAAAAAAAAu);
    EXPECT_EQ(out[96 + at], lane < 8 ? 0 : 31);
    EXPECT_EQ(static_cast<unsigned>(out[128 + at]), lane < 16 ? 0xFFFFu : 0xFFFF0000u);
  }
}

TEST(Emulator, ProductsOfAWarp) {
  const std::string operands =  // a[row][k] = row - k, b[k][column] = 3 * k + column - 20
      "const u32 lane = threadIdx.x, row = lane / 4, k = lane % 4 * 2;\n"
      "const auto two = [](float low, float high) { return ptx::PACK(low, high); };\n"
      "const auto a = [&](u32 r, u32 c) { return two(float(r) - float(c), float(r) - float(c + 1)); };\n"
      "const auto b = [&](u32 c) { return two(3.f * c + row - 20, 3.f * c + 3 + row - 20); };\n"
      "const u32 four[4] = {a(row, k), a(row + 8, k), a(row, k + 8), a(row + 8, k + 8)};\n"
      "float d[4] = {1, 2, 3, 4};\n"
      "ptx::MULTIPLY(d, four, b(k), b(k + 8));\n"
      "for (u32 i = 0; i < 4; ++i) out[(row + i / 2 * 8) * 8 + k + i % 2] = int(d[i]) - int(i) - 1;\n";
  for (const auto& [pack, multiply] :
       {std::pair{"cvt_f16x2", "mma_f16"}, std::pair{"cvt_bf16x2", "mma_bf16"}}) {
    std::string body = operands;
    body.replace(body.find("PACK"), 4, pack);
    body.replace(body.find("MULTIPLY"), 8, multiply);
    const std::vector<int> out = run(body, kWarp);
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int sum = 0;
        for (int k = 0; k < 16; ++k) sum += (row - k) * (3 * k + column - 20);
        EXPECT_EQ(out[static_cast<std::size_t>(row * 8 + column)], sum) << multiply;
      }
    }
  }
  for (const bool transposed : {false, true}) {
    std::string body =
        "extern __shared__ u16 words[];\n"
        "for (u32 i = threadIdx.x; i < 256; i += 32) words[i] = static_cast<u16>(i);\n"
        "__syncwarp();\n"
        "u32 v[4];\n"
        "ptx::LOAD(v, ptx::shared_address(words) + 16 * threadIdx.x);\n"
        "for (u32 i = 0; i < 4; ++i) out[32 * i + threadIdx.x] = static_cast<int>(v[i]);";
    body.replace(body.find("LOAD"), 4, transposed ? "ldmatrix_x4_transposed" : "ldmatrix_x4");
    const std::vector<int> out = run(body, kWarp);
    for (int i = 0; i < 128; ++i) {
      const int of_line = i % 4 * 2;  // columns, or transposed rows: this and the next
      const int line = i % 32 / 4;
      const int first = i / 32 * 64 + (transposed ? of_line * 8 + line : line * 8 + of_line);
      EXPECT_EQ(out[static_cast<std::size_t>(i)], first | (first + (transposed ? 8 : 1)) << 16);
    }
  }
}

TEST(Emulator, BlocksHaveSharedMemoryOfTheirOwn) {
  const std::vector<int> out = run(
      "__shared__ int values[64];\n"
      "extern __shared__ int more[];\n"
      "out[256 + 64 * blockIdx.x + threadIdx.x] = values[threadIdx.x];  // not those of the block before\n"
      "values[threadIdx.x] = more[threadIdx.x] = 100 * blockIdx.x + threadIdx.x;\n"
      "__syncthreads();\n"
      "out[64 * blockIdx.x + threadIdx.x] = values[63 - threadIdx.x] + more[(threadIdx.x + 1) % 64];",
      {.grid = {3}, .block = {64}, .shared_bytes = 256});
  for (int block = 0; block < 3; ++block) {
    for (int i = 0; i < 64; ++i) {
      const auto at = static_cast<std::size_t>(64 * block + i);
      EXPECT_EQ(out[at], 200 * block + 63 - i + (i + 1) % 64);
      EXPECT_EQ(out[256 + at], -1) << "shared memory is poisoned before every block";
    }
  }
}

TEST(Emulator, BlocksOfAClusterMeet) {
  const std::string body =
      "extern __shared__ int values[];\n"
      "const u32 address = ptx::shared_address(values);\n"
      "const u32 rank = ptx::cluster_rank();\n"
      "if (threadIdx.x == 0) {\n"
      "  ptx::mbarrier_init(address + 16, 1);\n"
      "  ptx::mbarrier_arrive_expect_tx(address + 16, 4);\n"
      "}\n"
      "ptx::cluster_arrive(); ptx::cluster_wait();\n"
      "if (threadIdx.x == 0) {\n"
      "  const u32 next = (rank + 1) % ptx::cluster_size();\n"
      "  ptx::st_async(ptx::mapa(address, next), __uint_as_float(rank + 7), ptx::mapa(address + 16, next));\n"
      "}\n"
      "ptx::mbarrier_wait(address + 16, 0);\n"
      "out[32 * blockIdx.x + threadIdx.x] = values[0];\n";
  const cuda::LaunchConfig config{.grid = {8}, .block = {32}, .cluster = {4}, .shared_bytes = 32};
  for (const std::uint64_t seed : {0, 1, 2, 3}) {
    const std::vector<int> out = run(body + "ptx::cluster_arrive(); ptx::cluster_wait();", config, seed);
    for (std::size_t i = 0; i < 256; ++i) EXPECT_EQ(out[i], static_cast<int>((i / 32 + 3) % 4 + 7));
  }
  // Without the last barrier a block may have ended when its neighbour's value arrives there, if it does not
  // wait.
  std::string careless = body;
  careless.erase(careless.find("ptx::mbarrier_wait"),
                 std::string("ptx::mbarrier_wait(address + 16, 0);").size());
  expect_failure(careless, config, "has ended");
}

TEST(Emulator, WhatIsMissedIsFound) {
  const std::string address = "extern __shared__ u8 shared[];\nconst u32 a = ptx::shared_address(shared);\n";
  const std::string barrier = address + "if (threadIdx.x == 0) ptx::mbarrier_init(a, 2);\n__syncthreads();\n";
  expect_failure(barrier + "if (threadIdx.x == 0) ptx::mbarrier_arrive(a);\nptx::mbarrier_wait(a, 0);", kWarp,
                 "1 arrivals and 0 bytes missing");
  expect_failure(barrier +
                     "if (threadIdx.x == 0) ptx::mbarrier_arrive_expect_tx(a, 16);\n"
                     "ptx::mbarrier_arrive(a);",
                 kWarp, "more arrivals");
  expect_failure("if (threadIdx.x < 16) ptx::bar_sync(1, 64);", {.grid = {1}, .block = {64}},
                 "barrier 1 of 64 threads");
  expect_failure("if (threadIdx.x < 16) __shfl_sync(~0u, 1, 0);", kWarp, "lanes 0xffffffff");
  expect_failure(address + "ptx::st_shared(a + 4096, 1);", kWarp, "which ends at");
  expect_failure(address + "ptx::st_shared(a + 2, 1);", kWarp, "misaligned");
  expect_failure(address + "shared[4096 + threadIdx.x] = 1;", kWarp, "a write beside the shared memory");
  expect_failure(address + "ptx::mapa(a, 1);", kWarp, "a rank that the cluster does not have");
  expect_failure(address + "ptx::cp_async_4(a, out, true);", kWarp, "ended before its copies");
  expect_failure(address + "float d[4]; ptx::Wgmma<false, 8>::multiply(d, threadIdx.x, 0, 0);",
                 {.grid = {1}, .block = {128}, .shared_bytes = 4096}, "disagree about a product");
  expect_failure(address + "TensorMap map{}; ptx::cp_async_bulk_tensor_2d(a, &map, a, 0, 0, 0);", kWarp,
                 "a tensor map that nobody encoded");
}

TEST(EmulatorDeathTest, ReadingPastAnAllocationEndsTheProgram) {
  EXPECT_DEATH(run("out[0] = out[1024 + 64 + threadIdx.x];", kWarp), "");
}

// A ring of one slot. A producer that does not wait until the slot is read is wrong, however rarely it shows.
TEST(Emulator, ASlotThatIsFilledTooEarly) {
  const auto ring = [](bool waits, std::uint64_t seed) {
    return run(
        std::string(
            "extern __shared__ int shared[];\n"
            "const u32 a = ptx::shared_address(shared);\n"
            "for (int i = threadIdx.x; i < 64; i += 64) out[512 + i] = i;\n"
            "if (threadIdx.x == 0) { ptx::mbarrier_init(a + 64, 1); ptx::mbarrier_init(a + 72, 32); }\n"
            "__syncthreads();\n"
            "for (int step = 0; step < 16; ++step) {\n"
            "  if (threadIdx.x == 32) {\n") +
            (waits ? "    if (step > 0) ptx::mbarrier_wait(a + 72, (step - 1) & 1);\n" : "") +
            "    ptx::mbarrier_arrive_expect_tx(a + 64, 16);\n"
            "    ptx::cp_async_bulk(a, out + 512 + 4 * step, 16, a + 64);\n"
            "  } else if (threadIdx.x < 32) {\n"
            "    ptx::mbarrier_wait(a + 64, step & 1);\n"
            "    out[32 * step + threadIdx.x] = shared[threadIdx.x % 4];\n"
            "    ptx::mbarrier_arrive(a + 72);\n"
            "  }\n"
            "}",
        {.grid = {1}, .block = {64}, .shared_bytes = 128}, seed);
  };
  const auto right = [](const std::vector<int>& out) {
    for (std::size_t i = 0; i < 512; ++i) {
      if (out[i] != static_cast<int>(4 * (i / 32) + i % 4)) return false;
    }
    return true;
  };
  int found = 0;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    EXPECT_TRUE(right(ring(true, seed))) << "seed " << seed;
    try {
      found += right(ring(false, seed)) ? 0 : 1;
    } catch (const CudaError&) {
      ++found;
    }
  }
  EXPECT_GT(found, 0);
}

}  // namespace
}  // namespace fathom
