// What the general products tell their kernel, and which op refuses what, without a GPU.
#include "ops/simt_gemm.hpp"

#include <gtest/gtest.h>

#include "cuda/device_context.hpp"
#include "fake_driver.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(SimtGemm, ArgumentsAreThoseOfTheTensors) {
  Tensor a(DType::f8e4m3, {70, 300});
  Tensor b(DType::f8e4m3, {130, 300});
  Tensor out(DType::bf16, {70, 140});
  TensorView narrow = out.view();
  narrow.shape[1] = 130;
  const SimtGemmArgs args = simt_gemm_args(a, b, narrow, true);
  EXPECT_EQ(args.a, a.view().data);
  EXPECT_EQ(args.m, 70);
  EXPECT_EQ(args.n, 130);
  EXPECT_EQ(args.k, 300);
  EXPECT_EQ(args.a_row, 300);
  EXPECT_EQ(args.out_row, 140);
  EXPECT_TRUE(args.out_bf16);
  EXPECT_TRUE(args.accumulate);
  EXPECT_EQ(args.a_scale.data, nullptr);
  Tensor words(DType::i32, {70, 1});
  TensorView column = words.view();
  column.stride = {1, 72};
  const SimtScale scale = simt_scale(column, 128);
  EXPECT_EQ(scale.row_stride, 1);
  EXPECT_EQ(scale.group_stride, 72);
  EXPECT_EQ(scale.rows_per_scale, 128);
  EXPECT_TRUE(scale.packed);
}

TEST(SimtGemm, OneBlockForEachTileAsFarAsAGridReaches) {
  EXPECT_EQ(simt_gemm_grid(1, 1), 1u);
  EXPECT_EQ(simt_gemm_grid(64, 65), 2u);
  EXPECT_EQ(simt_gemm_grid(4097, 7168), 65u * 112u);
  EXPECT_EQ(simt_gemm_grid(std::int64_t{1} << 30, std::int64_t{1} << 30), 0x7fffffffu);
}

TEST(SimtGemm, OneSourceForEachElement) {
  const jit::Source fp8 = simt_gemm_source({SimtElement::f8e4m3});
  const jit::Source bf16 = simt_gemm_source({SimtElement::bf16});
  EXPECT_EQ(fp8.name, "gemm.simt_f8e4m3");
  EXPECT_EQ(bf16.name, "gemm.simt_bf16");
  EXPECT_NE(fp8.text, bf16.text);
  EXPECT_NE(fp8.text.find(jit::kEntryPoint), std::string::npos);
}

class OnCuda : public ::testing::Test {
 protected:
  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape, int device = 0) const {
    return TensorView::contiguous(reinterpret_cast<void*>(std::uintptr_t{256}), dtype, shape,
                                  {DeviceKind::cuda, device});
  }
  Context context(ContextOptions options) const { return cuda::make_context(fake_.table(), 0, options); }

  cuda::FakeDriver fake_;
};

TEST_F(OnCuda, AFallbackIsRefusedInStrictMode) {
  const Bf16GemmNtArgs args{
      .a = view(DType::bf16, {3, 7}), .b = view(DType::bf16, {5, 7}), .out = view(DType::f32, {3, 5})};
  EXPECT_ERROR(NoImplementation,
               "strict mode refuses the fallback cuda:simt\n  sm90:wgmma: needs rows of a and b at multiples "
               "of 16 bytes",
               bf16_gemm_nt(args, context({.strict = true, .force_implementation = {}})));
}

TEST_F(OnCuda, ImplementationsOfTheHostCannotBeForced) {
  const Bf16GemmNtArgs args{
      .a = view(DType::bf16, {3, 8}), .b = view(DType::bf16, {5, 8}), .out = view(DType::f32, {3, 5})};
  EXPECT_ERROR(NoImplementation,
               "forced implementation ref:any needs tensors in host memory, the context's device is cuda:0",
               bf16_gemm_nt(args, context({.force_implementation = "ref:any"})));
  EXPECT_ERROR(NoImplementation,
               "forced implementation cuda:simt needs tensors of a CUDA device, the context's device is cpu",
               bf16_gemm_nt({.a = poisoned(DType::bf16, {3, 8}),
                             .b = poisoned(DType::bf16, {5, 8}),
                             .out = poisoned(DType::f32, {3, 5})},
                            forced_context("cuda:simt")));
}

TEST_F(OnCuda, EveryTensorIsOnTheContextsDevice) {
  const Tensor host = poisoned(DType::bf16, {5, 8});
  EXPECT_ERROR(InvalidArgument,
               "bf16_gemm_nt: 'b' must be on cuda:0, the context's device, got a tensor in host memory",
               bf16_gemm_nt({.a = view(DType::bf16, {3, 8}), .b = host, .out = view(DType::f32, {3, 5})},
                            context({})));
  EXPECT_ERROR(InvalidArgument, "'out' must be on cuda:0, the context's device, got one on cuda:1",
               bf16_gemm_nt({.a = view(DType::bf16, {3, 8}),
                             .b = view(DType::bf16, {5, 8}),
                             .out = view(DType::f32, {3, 5}, 1)},
                            context({})));
}

TEST_F(OnCuda, EmptyResultsLaunchNothing) {
  bf16_gemm_nt(
      {.a = view(DType::bf16, {0, 8}), .b = view(DType::bf16, {5, 8}), .out = view(DType::f32, {0, 5})},
      context({}));
  bf16_gemm_nt(
      {.a = view(DType::bf16, {3, 8}), .b = view(DType::bf16, {0, 8}), .out = view(DType::f32, {3, 0})},
      context({}));
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 0);
}

TEST_F(OnCuda, AlgorithmsOfTheHostDecline) {
  EXPECT_ERROR(
      NoImplementation, "cuda:simt: needs algorithm auto or native, got cpu",
      linear_bf16_fp32(
          {.x = view(DType::bf16, {3, 8}), .w = view(DType::bf16, {5, 8}), .out = view(DType::f32, {3, 5})},
          context({.linear_algorithm = "cpu"})));
}

}  // namespace
}  // namespace fathom
