#include "fathom/ops/silu_mul_quant.hpp"

#include <cmath>
#include <cstring>

#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "ops/op_test.hpp"
#include "ops/silu_mul_quant/silu_mul_quant_impl.hpp"

namespace fathom {
namespace {

// The product kept in f32, then quantised by the rule: two ops must give the bytes of the fused one.
TEST(SiluMulQuant, EqualsItsTwoParts) {
  for (const std::int64_t dim : {8, 128, 200, 513}) {
    SCOPED_TRACE(dim);
    Random random(dim);
    const Tensor gate_up = random.normal(DType::bf16, {5, 2 * dim}, 4);
    Tensor q = poisoned(DType::f8e4m3, {5, dim});
    Tensor scale = poisoned(DType::f32, {5, scale_groups(dim)});
    silu_mul_quant({.gate_up = gate_up, .q = q, .scale = scale}, test_context());
    Tensor v = poisoned(DType::f32, {5, dim});
    Tensor expected_q = poisoned(DType::f8e4m3, {5, dim});
    Tensor expected_scale = poisoned(DType::f32, {5, scale_groups(dim)});
    silu_mul({.gate_up = gate_up, .out = v}, test_context());
    quantize_groups({.x = v, .q = expected_q, .scale = expected_scale, .rule = QuantRule::silu_mul},
                    test_context());
    expect_same_bytes(q, expected_q);
    expect_same_bytes(scale, expected_scale);
  }
}

}  // namespace
}  // namespace fathom
