// bf16 products of few weights in the decode class, which have a kernel of their own on Hopper: up to 64
// weights always, up to 256 for up to 32 tokens.
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "on_device.hpp"

namespace fathom {
namespace {

constexpr const char* kFew = "bf16_gemm_nt=sm90:wgmma";

class FewWeightsOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    const OnDevice one(Tensor(DType::bf16, {1, 8}));
    const OnDevice out(Tensor(DType::bf16, {1, 1}));
    try {
      bf16_gemm_nt({.a = one, .b = one, .out = out, .decode = true}, device_context(kFew));
    } catch (const NoImplementation& error) {
      GTEST_SKIP() << error.what();
    }
  }
};

void check(const Bf16GemmNtProblem& p, std::int64_t padding, double odd = 0) {
  SCOPED_TRACE(problem_string(p));
  Random random(p.m + p.n + p.k);
  Tensor a = random.normal(DType::bf16, {p.m, p.k});
  const Tensor b = random.normal(DType::bf16, {p.n, p.k});
  if (odd != 0) a.set(p.m / 2 * p.k + p.k / 3, odd);  // in one row
  const Tensor base = random.normal(p.out, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const OnDevice device_a(strided(a, padding));
  const OnDevice device_b(strided(b, padding));
  const Strided before = strided(p.accumulate ? base : nan, padding / 8 * 3);
  const OnDevice out(before);
  bf16_gemm_nt({.a = device_a, .b = device_b, .out = out, .accumulate = p.accumulate, .decode = p.decode},
               device_context(kFew));
  const Strided got = out.download();
  const GemmOracle oracle = gemm_oracle(
      p.m, p.n, p.k, p.out, [&](std::int64_t i, std::int64_t c) { return a[i * p.k + c]; },
      [&](std::int64_t j, std::int64_t c) { return b[j * p.k + c]; },
      [&](std::int64_t i, std::int64_t j) { return p.accumulate ? base[i * p.n + j] : 0.0; });
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) {
      const double expected = oracle.expected[i * p.n + j];
      const auto value = static_cast<double>(at(got.view, i, j));
      if (std::isfinite(expected)) {
        ASSERT_LE(std::abs(value - expected), 4 * oracle.bound[i * p.n + j]) << i << ", " << j;
      } else {
        ASSERT_FALSE(std::isfinite(value)) << i << ", " << j;
      }
    }
  }
  TensorView between = got.buffer.view();
  TensorView between_before = before.buffer.view();
  for (TensorView* view : {&between, &between_before}) {
    view->data = view->as<std::byte>() + p.n * size_of(p.out);
    view->shape[1] -= p.n;
  }
  expect_same_bytes(between, between_before);
}

TEST_F(FewWeightsOnDevice, AgreesWithOracle) {
  Random random(std::random_device{}());
  for (int i = 0; i < 12 && !HasFailure(); ++i) {
    const bool accumulate = random.integer(0, 2) == 0;
    check({.m = random.integer(1, 140),
           .n = random.integer(1, random.integer(0, 1) == 0 ? 64 : 256),
           .k = 8 * random.integer(1, 250),
           .out = accumulate || random.integer(0, 1) == 1 ? DType::f32 : DType::bf16,
           .accumulate = accumulate,
           .decode = true},
          8 * random.integer(0, 2));
  }
  check({.m = 9, .n = 64, .k = 7168, .out = DType::f32, .decode = true}, 0);
  check({.m = 33, .n = 20, .k = 7240, .out = DType::f32, .decode = true}, 16);
}

TEST_F(FewWeightsOnDevice, ValuesThatAreNotFiniteStayInTheirRow) {
  for (const double odd : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    check({.m = 5, .n = 64, .k = 136, .out = DType::f32, .decode = true}, 8, odd);
    check({.m = 70, .n = 33, .k = 1000, .out = DType::f32, .decode = true}, 0, odd);
    check({.m = 5, .n = 200, .k = 1544, .out = DType::f32, .decode = true}, 8, odd);
    check({.m = 29, .n = 71, .k = 7168, .out = DType::f32, .decode = true}, 0, odd);
  }
}

// The bytes of `m` rows, `rows` at a time.
Strided bytes(const OnDevice& a, const OnDevice& b, std::int64_t rows) {
  const std::int64_t m = a.view().size(0);
  const OnDevice out(poisoned(DType::f32, {m, b.view().size(0)}));
  for (std::int64_t first = 0; first < m; first += rows) {
    const std::int64_t last = std::min(m, first + rows);
    bf16_gemm_nt(
        {.a = a.view().rows(first, last), .b = b, .out = out.view().rows(first, last), .decode = true},
        device_context(kFew));
  }
  cuda::synchronize(device_context(kFew));
  return out.download();
}

TEST_F(FewWeightsOnDevice, BytesOfARowDoNotDependOnTheOthers) {
  Random random(3);
  for (const auto& [n, k] : {std::pair{40, 1032}, {200, 1544}}) {
    const OnDevice a(random.normal(DType::bf16, {34, k}));
    const OnDevice b(random.normal(DType::bf16, {n, k}));
    const Strided together = bytes(a, b, 34);
    for (const std::int64_t rows : {7, 16, 29}) expect_same_bytes(bytes(a, b, rows).buffer, together.buffer);
  }
}

TEST_F(FewWeightsOnDevice, BytesAreFixedAtTheSizesOfTheModel) {
  for (const std::int64_t n : {64, 40, 256, 96}) {
    Random random(n);
    const OnDevice a(random.normal(DType::bf16, {128, 7168}));
    const OnDevice b(random.normal(DType::bf16, {n, 7168}));
    const Strided together = bytes(a, b, 128);
    for (const std::int64_t rows : {1, 2, 8, 9, 16, 17, 32, 33, 63, 64, 65, 127})
      expect_same_bytes(bytes(a, b, rows).buffer, together.buffer);
    for (const std::int64_t rows : {16, 64, 128}) {
      for (int i = 0; i < 200 && !HasFailure(); ++i)
        expect_same_bytes(bytes(a, b, rows).buffer, together.buffer);
    }
  }
}

}  // namespace
}  // namespace fathom
