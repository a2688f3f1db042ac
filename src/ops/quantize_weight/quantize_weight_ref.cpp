#include <algorithm>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/quantize_weight/quantize_weight_impl.hpp"

namespace fathom {

void quantize_weight_block(const TensorView& w, const TensorView& q, const TensorView& scale,
                           ScaleFormat format, std::int64_t row_block, std::int64_t column_block) {
  const std::int64_t row = row_block * kQuantGroup;
  const std::int64_t column = column_block * kQuantGroup;
  const std::int64_t row_end = std::min(row + kQuantGroup, w.size(0));
  const std::int64_t column_end = std::min(column + kQuantGroup, w.size(1));
  float amax = 0;
  for (std::int64_t i = row; i < row_end; ++i) {
    for (std::int64_t j = column; j < column_end; ++j) amax = update_amax(amax, at(w, i, j));
  }
  const GroupScale block = block_scale(format, amax);
  put(scale, row_block, column_block, block.scale);
  for (std::int64_t i = row; i < row_end; ++i) {
    for (std::int64_t j = column; j < column_end; ++j) {
      q.as<std::uint8_t>()[i * q.step(0) + j] = block.quantize(at(w, i, j));
    }
  }
}

void quantize_weight_ref(const QuantizeWeightProblem& problem, const QuantizeWeightArgs& args,
                         const Context&) {
  for (std::int64_t e = 0; e < (args.w.rank == 3 ? problem.experts : 1); ++e) {
    for (std::int64_t i = 0; i < scale_groups(problem.n); ++i) {
      for (std::int64_t j = 0; j < scale_groups(problem.k); ++j) {
        quantize_weight_block(matrix_of(args.w, e), matrix_of(args.q, e), matrix_of(args.scale, e),
                              problem.scale_format, i, j);
      }
    }
  }
}

}  // namespace fathom
