// Every kernel that the ops list, compiled by the real compiler without a spill; packs and warm-ups of them.
#include "fathom/ops/kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "fathom/core/op_info.hpp"
#include "fathom/engine/problems.hpp"
#include "jit/no_spills.hpp"
#include "jit/scratch.hpp"
#include "ops/kernels.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kMostKernels = 4;  // the compiler does not change with our sanitizers; its cost does
#else
constexpr std::size_t kMostKernels = 1000;
#endif

// Products that the model has not: every plan that some shape has.
std::vector<std::string> products_of_any_shape() {
  std::vector<std::string> problems{"head_gate:tokens=128,decode=1", "head_gate:tokens=4096",
                                    "head_gate:x=f32,w=f32"};
  for (const char* decode : {"0", "1"}) {
    for (const int n : {64, 200, 576, 2112, 4096, 7168, 24576}) {
      for (const int m : {1, 9, 17, 33, 65, 128, 300, 1024, 4096}) {
        for (const int k : {512, 7168}) {
          const std::string shape = "m=" + std::to_string(m) + ",n=" + std::to_string(n) +
                                    ",k=" + std::to_string(k) + ",decode=" + decode;
          problems.push_back("fp8_gemm_nt:" + shape);
          problems.push_back("fp8_gemm_nt:row_b_scale=1," + shape);
          problems.push_back("bf16_gemm_nt:" + shape);
          problems.push_back("fp8_linear:" + shape);
          problems.push_back("fp8_linear:scale_format=ue8m0," + shape);
        }
      }
    }
  }
  return problems;
}

// All that the ops list for DeepSeek-V3.2, for their own examples, and for products of any shape.
std::vector<jit::Source> sources_for(std::string_view arch) {
  std::vector<std::string> problems = deepseek_v32_problems();
  for (const OpInfo* op : all_ops()) problems.push_back(op->example);
  for (std::string& problem : products_of_any_shape()) problems.push_back(std::move(problem));
  return kernel_sources(problems, usual_device(arch));
}

void expect_all_without_spills(std::string_view arch) {
  std::vector<jit::Source> sources = sources_for(arch);
  ASSERT_FALSE(sources.empty());
  if (sources.size() > kMostKernels) sources.resize(kMostKernels);
  jit::expect_no_spills(sources, arch);
}

TEST(Kernels, OfHopperCompileWithoutSpills) { expect_all_without_spills("sm_90a"); }

TEST(Kernels, GeneralOnesCompileForEveryArchitecture) {
  for (const std::string_view arch : kernel_architectures()) {
    if (arch != "sm_90a") expect_all_without_spills(arch);
  }
}

TEST(Kernels, EveryOpWithDeviceCodeListsSome) {
  EXPECT_FALSE(op_kernels().empty());
  for (const OpKernels& op : op_kernels()) {
    const auto info = std::ranges::find(all_ops(), op.op, [](const OpInfo* i) { return i->name; });
    ASSERT_NE(info, all_ops().end()) << op.op;
    EXPECT_FALSE(op.sources((*info)->example, usual_device("sm_90a")).empty()) << op.op;
    EXPECT_ERROR(InvalidArgument, op.op,
                 op.sources(std::string(op.op) + ":no_such_key=1", usual_device("sm_90a")));
  }
}

TEST(Kernels, AreFew) {
  const auto sources = sources_for("sm_90a");
  EXPECT_LT(sources.size(), 200u);
  std::set<std::string> names;
  for (const jit::Source& source : sources) {
    EXPECT_TRUE(names.insert(source.name).second) << "two kernels are called " << source.name;
    EXPECT_EQ(source.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_."), std::string::npos)
        << source.name;
  }
}

TEST(Kernels, UnknownOpsAndArchitecturesAreErrors) {
  const std::string no_op[] = {"no_such_op:m=1"};
  EXPECT_ERROR(InvalidArgument, "no op 'no_such_op'", kernel_sources(no_op, usual_device("sm_90a")));
  EXPECT_ERROR(InvalidArgument, "sm_80, sm_89, sm_90a, sm_100a, sm_120; got 'sm_1'", usual_device("sm_1"));
}

TEST(Kernels, PackAndWarmUp) {
  jit::nvrtc();
  const jit::Scratch scratch;
  ContextOptions options;
  options.cache_dir = scratch / "cache";
  const std::vector<std::string> problems{"fp8_gemm_nt:m=1,n=4096,k=7168", "rms_norm:tokens=1,dim=7168"};
  const KernelBuild pack = build_kernel_pack(scratch / "pack", problems, "sm_90a", Context(options));
  const KernelPackInfo info = read_kernel_pack(scratch / "pack", /*verify=*/true);
  EXPECT_EQ(pack.compiled, static_cast<std::int64_t>(info.kernels.size()));
  std::vector<std::int64_t> seen;
  const KernelBuild first =
      warm_up_kernels(problems, "sm_90a", Context(options), [&](std::int64_t done, std::int64_t total) {
        seen.push_back(done);
        EXPECT_EQ(total, pack.kernels);
      });
  EXPECT_EQ(first.compiled, first.kernels);
  EXPECT_EQ(first.place, options.cache_dir);
  EXPECT_EQ(std::ssize(seen), pack.kernels + 1);
  EXPECT_TRUE(std::ranges::is_sorted(seen));
  EXPECT_EQ(warm_up_kernels(problems, "sm_90a", Context(options)).compiled, 0) << "the second does nothing";
  options.cache_dir = scratch / "other";
  options.kernel_pack = scratch / "pack";
  EXPECT_EQ(warm_up_kernels(problems, "sm_90a", Context(options)).compiled, 0) << "the pack has them";
}

}  // namespace
}  // namespace fathom
