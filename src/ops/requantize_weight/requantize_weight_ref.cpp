#include <algorithm>
#include <vector>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/requantize_weight/requantize_weight_impl.hpp"

namespace fathom {
namespace {

void requantize_block(const RequantizeWeightArgs& matrix, std::int64_t row_block, std::int64_t column_block) {
  const std::int64_t row = row_block * kQuantGroup;
  const std::int64_t column = column_block * kQuantGroup;
  const std::int64_t row_end = std::min(row + kQuantGroup, matrix.w.size(0));
  const std::int64_t column_end = std::min(column + kQuantGroup, matrix.w.size(1));
  const float old_scale = at(matrix.w_scale, row_block, column_block);
  std::vector<float> values;  // read as a whole first: the outputs may be the inputs
  float amax = 0;
  for (std::int64_t i = row; i < row_end; ++i) {
    for (std::int64_t j = column; j < column_end; ++j) {
      values.push_back(bf16_to_float(float_to_bf16(at(matrix.w, i, j) * old_scale)));
      amax = update_amax(amax, values.back());
    }
  }
  const GroupScale block = block_scale(ScaleFormat::ue8m0, amax);
  put(matrix.scale, row_block, column_block, block.scale);
  std::size_t next = 0;
  for (std::int64_t i = row; i < row_end; ++i) {
    for (std::int64_t j = column; j < column_end; ++j) {
      matrix.q.as<std::uint8_t>()[i * matrix.q.step(0) + j] = block.quantize(values[next++]);
    }
  }
}

}  // namespace

void requantize_weight_ref(const RequantizeWeightProblem& problem, const RequantizeWeightArgs& args,
                           const Context&) {
  for (std::int64_t e = 0; e < (args.w.rank == 3 ? problem.experts : 1); ++e) {
    const RequantizeWeightArgs matrix{.w = matrix_of(args.w, e),
                                      .w_scale = matrix_of(args.w_scale, e),
                                      .q = matrix_of(args.q, e),
                                      .scale = matrix_of(args.scale, e)};
    for (std::int64_t i = 0; i < scale_groups(problem.n); ++i) {
      for (std::int64_t j = 0; j < scale_groups(problem.k); ++j) requantize_block(matrix, i, j);
    }
  }
}

}  // namespace fathom
