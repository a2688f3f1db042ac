// Which problems Hopper's attention kernel takes, and that every form of it and of the general kernel
// compiles without a spill: all without a GPU.
#include "fathom/ops/sparse_mla.hpp"

#include <gtest/gtest.h>

#include "jit/no_spills.hpp"
#include "ops/kernels.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

std::size_t forms(std::string problem, std::string_view arch = "sm_90a") {
  return kernel_sources({&problem, 1}, usual_device(arch)).size();
}

TEST(SparseMlaKernels, HopperTakesWhatItsKernelsAreFor) {
  EXPECT_EQ(forms("sparse_mla:heads=128,top_k=2048"), 2u);
  EXPECT_EQ(forms("sparse_mla:heads=128,top_k=2048,decode=1"), 3u);
  EXPECT_EQ(forms("sparse_mla:heads=7,cache=bf16,top_k=0"), 2u);
  EXPECT_EQ(forms("sparse_mla:top_k=2049"), 1u);
  EXPECT_EQ(forms("sparse_mla:lora=256"), 1u);
  EXPECT_EQ(forms("sparse_mla:rope_dim=32"), 1u);
  EXPECT_EQ(forms("sparse_mla:cache=f32"), 1u);
  EXPECT_EQ(forms("sparse_mla:heads=128", "sm_80"), 1u);
}

TEST(SparseMlaKernels, EveryFormCompilesWithoutSpills) {
  const std::string problems[] = {"sparse_mla:heads=8,cache=bf16", "sparse_mla:heads=16,cache=bf16",
                                  "sparse_mla:heads=16", "sparse_mla:heads=32",
                                  "sparse_mla:heads=33,decode=1"};
  const std::vector<jit::Source> sources = kernel_sources(problems, usual_device("sm_90a"));
  EXPECT_EQ(sources.size(), 7u);
  jit::expect_no_spills(sources, "sm_90a");
}

// Of the forms with more than 32 heads the decode class's keeps sums in memory of its module.
TEST(SparseMlaKernels, OnlyTheFoldingFormHasDeviceMemory) {
  const std::string problems[] = {"sparse_mla:heads=16", "sparse_mla:heads=32",
                                  "sparse_mla:heads=64,decode=1"};
  for (const jit::Source& source : kernel_sources(problems, usual_device("sm_90a"))) {
    const jit::Cubin cubin = jit::compile(source, "sm_90a", jit::nvrtc());
    const std::size_t at = cubin.log.find(" bytes gmem");
    const bool has =
        at != std::string::npos && std::stoll(cubin.log.substr(cubin.log.rfind(' ', at - 1))) > 1 << 20;
    EXPECT_EQ(has, source.name.find("_folds") != std::string::npos) << source.name << '\n' << cubin.log;
  }
}

}  // namespace
}  // namespace fathom
