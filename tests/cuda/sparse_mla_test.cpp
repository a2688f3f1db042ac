// Which problems Hopper's attention kernel takes, and that every form of it and of the general kernel
// compiles without a spill: all without a GPU.
#include "fathom/ops/sparse_mla.hpp"

#include <gtest/gtest.h>

#include "jit/cubin_store.hpp"
#include "jit/nvrtc.hpp"
#include "ops/kernels.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(SparseMlaKernels, EveryFormCompilesWithoutSpills) {
  const std::string problems[] = {"sparse_mla:heads=128", "sparse_mla:cache=f32"};
  const std::vector<jit::Source> sources = kernel_sources(problems, usual_device("sm_90a"));
  EXPECT_EQ(sources.size(), 2u);
  jit::nvrtc();
  std::vector<std::string> failures(sources.size());
  jit::on_all_cores(sources.size(), 2, [&](std::size_t i) {
    const jit::Cubin cubin = jit::compile(sources[i], "sm_90a", jit::nvrtc());
    if (jit::spilled_bytes(cubin) != 0) failures[i] = cubin.log;
  });
  for (std::size_t i = 0; i < sources.size(); ++i) EXPECT_EQ(failures[i], "") << sources[i].name;
}

}  // namespace
}  // namespace fathom
