// The implementations of quantize_weight.
#pragma once
#include "fathom/ops/quantize_weight.hpp"

namespace fathom {
void quantize_weight_ref(const QuantizeWeightProblem& problem, const QuantizeWeightArgs& args,
                         const Context& context);
void quantize_weight_cpu(const QuantizeWeightProblem& problem, const QuantizeWeightArgs& args,
                         const Context& context);

/// One block of any size and contents, by the reference: 2-D views.
void quantize_weight_block(const TensorView& w, const TensorView& q, const TensorView& scale,
                           ScaleFormat format, std::int64_t row_block, std::int64_t column_block);
}  // namespace fathom
