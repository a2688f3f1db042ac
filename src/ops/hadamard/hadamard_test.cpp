#include "fathom/ops/hadamard.hpp"

#include <bit>
#include <cmath>

#include "ops/hadamard/hadamard_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(Hadamard, AgreesWithTheMatrix) {
  for (const std::int64_t dim : {1, 2, 4, 8, 16, 32, 64, 128, 512}) {
    SCOPED_TRACE(dim);
    Random random(dim);
    const Tensor x = random.normal(DType::f32, {3, dim});
    Tensor got = poisoned(DType::f32, {3, dim});
    hadamard({.x = x, .out = got}, test_context());
    Tensor expected(DType::f32, {3, dim});
    for (std::int64_t r = 0; r < 3; ++r) {
      for (std::int64_t i = 0; i < dim; ++i) {
        double sum = 0;
        for (std::int64_t j = 0; j < dim; ++j) {
          sum += (std::popcount(static_cast<std::uint64_t>(i & j)) % 2 ? -1 : 1) * x[r * dim + j];
        }
        expected.set(r * dim + i, sum / std::sqrt(static_cast<double>(dim)));
      }
    }
    expect_close(got, expected, {.relative = 1e-6, .absolute = 2e-6});
  }
}

TEST(Hadamard, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 12});
  EXPECT_ERROR(InvalidArgument, "hadamard: 'dim' must be a power of two, got 12",
               hadamard({.x = x, .out = x}, test_context()));
}

}  // namespace
}  // namespace fathom
