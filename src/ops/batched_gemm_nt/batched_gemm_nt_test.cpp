#include "fathom/ops/batched_gemm_nt.hpp"

#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

using Problem = BatchedGemmNtProblem;

// x as heads of a wider query [tokens, groups, k + 3], out as a slice of [groups, tokens, n + 1].
void check(const Problem& p, const Context& context) {
  SCOPED_TRACE(problem_string(p));
  Random random(p.tokens + p.groups * 3 + p.n * 7 + p.k * 31);
  const Tensor query = random.normal(p.x, {p.tokens, p.groups, p.k + 3});
  TensorView x = query.view();
  x.shape[2] = p.k;
  const Tensor w = random.normal(p.w, {p.groups, p.n, p.k});
  const std::int64_t row_blocks = (p.n + 127) / 128;
  const std::int64_t blocks = (p.k + 127) / 128;
  const Tensor scale = random.uniform(DType::f32, {p.groups, row_blocks, blocks}, 0.5, 2);
  const bool scaled = p.w == DType::f8e4m3;
  const Tensor buffer = poisoned(p.out, {p.groups, p.tokens, p.n + 1});
  TensorView out = buffer.view();
  out.shape = {p.tokens, p.groups, p.n};
  std::swap(out.stride[0], out.stride[1]);
  batched_gemm_nt({.x = x, .w = w, .out = out, .w_scale = scaled ? scale.view() : TensorView{}}, context);
  for (std::int64_t g = 0; g < p.groups; ++g) {
    const GemmOracle oracle = gemm_oracle(
        p.tokens, p.n, p.k, p.out,
        [&](std::int64_t i, std::int64_t c) { return static_cast<double>(at(x, i, g, c)); },
        [&](std::int64_t j, std::int64_t c) {
          return static_cast<double>(at(w, g, j, c)) *
                 (scaled ? static_cast<double>(at(scale, g, j / 128, c / 128)) : 1.0);
        },
        [](std::int64_t, std::int64_t) { return 0.0; });
    TensorView slice = buffer.view();
    slice.data = buffer.as<std::byte>() + g * buffer.view().step(0) * size_of(p.out);
    slice.rank = 2;
    slice.shape = {p.tokens, p.n};
    slice.stride = {p.n + 1, 1};
    if (p.k > 0) expect_within(slice, oracle.expected, oracle.bound);
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      for (std::int64_t j = 0; j < p.n; ++j) EXPECT_FALSE(std::isnan(at(slice, t, j)));
      EXPECT_TRUE(std::isnan(at(slice, t, p.n)));
    }
  }
}

TEST(BatchedGemmNt, AgreesWithOracle) {
  constexpr std::array<DType, 3> kTypes[] = {
      {DType::bf16, DType::f8e4m3, DType::bf16}, {DType::bf16, DType::f8e4m3, DType::f32},
      {DType::f32, DType::f8e4m3, DType::f32},   {DType::bf16, DType::bf16, DType::bf16},
      {DType::bf16, DType::bf16, DType::f32},    {DType::f32, DType::f32, DType::f32},
      {DType::f32, DType::bf16, DType::f32}};
  for (const auto& [x, w, out] : kTypes) {
    for (const auto& [tokens, groups, n, k] : {std::array<std::int64_t, 4>{1, 8, 512, 128},
                                               {3, 5, 33, 130},
                                               {20, 2, 128, 512},
                                               {1, 1, 1, 1},
                                               {0, 2, 3, 4},
                                               {2, 0, 3, 4},
                                               {2, 2, 0, 4},
                                               {2, 2, 3, 0}}) {
      const Problem p{.tokens = tokens, .groups = groups, .n = n, .k = k, .x = x, .w = w, .out = out};
      check(p, test_context());
      check(p, forced_context("ref:any"));
    }
  }
}

TEST(BatchedGemmNt, TokensDoNotDependOnOneAnother) {
  for (const auto& [dtype, w_dtype] : {std::pair{DType::bf16, DType::bf16},
                                       {DType::bf16, DType::f8e4m3},
                                       {DType::f32, DType::f32},
                                       {DType::f32, DType::f8e4m3}}) {
    Random random(3);
    const Tensor x = random.normal(dtype, {70, 6, 200});
    const Tensor w = random.normal(w_dtype, {6, 90, 200});
    const Tensor scale = random.uniform(DType::f32, {6, 1, 2}, 0.5, 2);
    const TensorView w_scale = w_dtype == DType::f8e4m3 ? scale.view() : TensorView{};
    Tensor together = poisoned(DType::f32, {70, 6, 90});
    batched_gemm_nt({.x = x, .w = w, .out = together, .w_scale = w_scale}, test_context(2));
    for (const std::int64_t tokens : {1, 3, 8, 35}) {
      Tensor parts = poisoned(DType::f32, {70, 6, 90});
      for (std::int64_t t = 0; t < 70; t += tokens) {
        const std::int64_t end = std::min<std::int64_t>(70, t + tokens);
        batched_gemm_nt(
            {.x = x.view().rows(t, end), .w = w, .out = parts.view().rows(t, end), .w_scale = w_scale},
            test_context(1));
      }
      expect_same_bytes(parts, together);
    }
  }
}

TEST(BatchedGemmNt, RejectsBadArguments) {
  const Tensor x = poisoned(DType::bf16, {2, 3, 8});
  const Tensor w = poisoned(DType::bf16, {3, 4, 8});
  const Tensor out = poisoned(DType::bf16, {2, 3, 4});
  EXPECT_ERROR(InvalidArgument, "batched_gemm_nt: 'w' must have shape [3,*,8], got [2,3,8]",
               batched_gemm_nt({.x = x, .w = x, .out = out}, test_context()));
  EXPECT_ERROR(InvalidArgument, "batched_gemm_nt: 'out' must have shape [2,3,4], got [2,3,8]",
               batched_gemm_nt({.x = x, .w = w, .out = x}, test_context()));
  EXPECT_ERROR(InvalidArgument, "batched_gemm_nt: 'out' must be f32, got bf16",
               batched_gemm_nt({.x = poisoned(DType::f32, {2, 3, 8}), .w = w, .out = out}, test_context()));
}

}  // namespace
}  // namespace fathom
