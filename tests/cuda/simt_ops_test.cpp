// The general CUDA entries without a GPU: which devices they are for, and calls that have nothing to do.
#include <gtest/gtest.h>

#include <string>

#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "on_fake.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

class SimtOnFake : public OnFake {
 protected:
  Context context(int major, int minor, const std::string& implementation = {}) {
    fake_.devices[0].sm_major = major;
    fake_.devices[0].sm_minor = minor;
    return context_with({.force_implementation = implementation});
  }
};

TEST_F(SimtOnFake, DeclinesADeviceBelow80) {
  const auto combine = [&](const Context& context) {  // no rows: nothing is compiled
    moe_combine({.y = view(DType::bf16, {8, 64}),
                 .slot_to_row = view(DType::i32, {0, 8}),
                 .weights = view(DType::f32, {0, 8}),
                 .out = view(DType::bf16, {0, 64})},
                context);
  };
  const std::string reason = "needs compute capability 8.0 or above, got 7.5";
  EXPECT_ERROR(NoImplementation, "cuda:simt: " + reason, combine(context(7, 5)));
  EXPECT_ERROR(NoImplementation, "forced implementation cuda:simt " + reason,
               combine(context(7, 5, "moe_combine=cuda:simt")));
  EXPECT_ERROR(NoImplementation, "cuda:simt: " + reason,
               fp8_gemm_nt({.a = view(DType::f8e4m3, {0, 128}),
                            .a_scale = view(DType::f32, {0, 1}),
                            .b = view(DType::f8e4m3, {128, 128}),
                            .b_scale = view(DType::f32, {1, 1}),
                            .out = view(DType::bf16, {0, 128})},
                           context(7, 5)));
  for (const auto& [major, minor] : {std::pair(8, 0), {8, 6}, {9, 0}, {12, 0}}) {
    combine(context(major, minor));
    combine(context(major, minor, "moe_combine=cuda:simt"));
  }
}

// Keys that no request has stay as they are.
TEST_F(SimtOnFake, AGatherWithoutRequestsLaunchesNothing) {
  index_key_gather({.cache = view(DType::u8, {4, kIndexKeyPageBytes}),
                    .block_table = view(DType::i32, {0, 3}),
                    .lens = view(DType::i32, {0}),
                    .keys = view(DType::f8e4m3, {5, 128}),
                    .scales = view(DType::f32, {5})},
                   context(9, 0));
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 0);
}

}  // namespace
}  // namespace fathom
