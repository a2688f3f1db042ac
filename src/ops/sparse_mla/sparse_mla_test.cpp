#include "fathom/ops/sparse_mla.hpp"

#include <cmath>

#include "ops/op_test.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

TEST(SparseMla, HandComputed) {
  // Two entries with logits log 1 and log 3: weights 1/4 and 3/4.
  const Tensor cache = tensor_of<double>(DType::f32, {3, 3}, {4, 8, 0, 99, 99, 99, 8, 16, std::log(3.0)});
  const Tensor q = tensor_of<double>(DType::f32, {2, 1, 3}, {0, 0, 1, 0, 0, 1});
  const Tensor indices = tensor_of<int>(DType::i32, {2, 4}, {-1, 0, -1, 2, -1, -1, -1, -1});
  const Tensor out = poisoned(DType::f32, {2, 1, 2});
  sparse_mla({.q = q, .cache = cache, .indices = indices, .softmax_scale = 1, .out = out}, test_context());
  expect_close(out, tensor_of<int>(DType::f32, {2, 1, 2}, {7, 14, 0, 0}), {.relative = 1e-6});
}

}  // namespace
}  // namespace fathom
