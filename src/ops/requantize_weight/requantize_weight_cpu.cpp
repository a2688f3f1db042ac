// Requantises through a table: within a block the new code is a function of the old one, and amax of the
// largest.
#include <algorithm>
#include <array>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/requantize_weight/requantize_weight_impl.hpp"

namespace fathom {
namespace {

// The largest code without its sign; 0x7f (NaN) does not count. kColumns is known for all but the last block
// of a row: the loop then becomes one of vectors.
template <std::int64_t kColumns>
std::uint8_t largest_code(const std::uint8_t* w, std::int64_t step, std::int64_t rows, std::int64_t columns) {
  std::array<std::uint8_t, kQuantGroup> largest{};  // per column
  for (std::int64_t i = 0; i < rows; ++i, w += step) {
    for (std::int64_t j = 0; j < (kColumns > 0 ? kColumns : columns); ++j) {
      // NaN turns into 0 by leaving the 7 bits: (0x7f + 1) & 0x7f; the others keep their order one higher.
      const auto rank = static_cast<std::uint8_t>((w[j] + 1) & 0x7f);
      const auto column = static_cast<std::size_t>(j);
      largest[column] = largest[column] > rank ? largest[column] : rank;
    }
  }
  const std::uint8_t rank = *std::max_element(largest.begin(), largest.end());
  return rank == 0 ? 0 : static_cast<std::uint8_t>(rank - 1);
}

void requantize_block(const RequantizeWeightArgs& matrix, std::int64_t row_block, std::int64_t column_block) {
  const std::int64_t row = row_block * kQuantGroup;
  const std::int64_t column = column_block * kQuantGroup;
  const std::int64_t rows = std::min(kQuantGroup, matrix.w.size(0) - row);
  const std::int64_t columns = std::min(kQuantGroup, matrix.w.size(1) - column);
  const std::uint8_t* w = matrix.w.as<std::uint8_t>() + row * matrix.w.step(0) + column;
  std::uint8_t* q = matrix.q.as<std::uint8_t>() + row * matrix.q.step(0) + column;
  const float old_scale = at(matrix.w_scale, row_block, column_block);
  const auto value = [&](std::uint8_t code) {
    return bf16_to_float(float_to_bf16(f8e4m3_to_float(code) * old_scale));
  };
  const std::int64_t w_step = matrix.w.step(0);
  const std::int64_t q_step = matrix.q.step(0);
  const std::uint8_t largest = columns == kQuantGroup ? largest_code<kQuantGroup>(w, w_step, rows, columns)
                                                      : largest_code<0>(w, w_step, rows, columns);
  const GroupScale block = block_scale(ScaleFormat::ue8m0, update_amax(0, value(largest)));
  std::array<std::uint8_t, 256> table{};
  for (std::size_t code = 0; code < table.size(); ++code) {
    table[code] = block.quantize(value(static_cast<std::uint8_t>(code)));
  }
  put(matrix.scale, row_block, column_block, block.scale);
  for (std::int64_t i = 0; i < rows; ++i, w += w_step, q += q_step) {
    for (std::int64_t j = 0; j < columns; ++j) q[j] = table[w[j]];
  }
}

}  // namespace

void requantize_weight_cpu(const RequantizeWeightProblem& problem, const RequantizeWeightArgs& args,
                           const Context& context) {
  const std::int64_t n_blocks = scale_groups(problem.n);
  const std::int64_t k_blocks = scale_groups(problem.k);
  const std::int64_t experts = args.w.rank == 3 ? problem.experts : 1;
  context.parallel_for(experts * n_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t index = begin; index < end; ++index) {
      const std::int64_t e = index / n_blocks;
      const RequantizeWeightArgs matrix{.w = matrix_of(args.w, e),
                                        .w_scale = matrix_of(args.w_scale, e),
                                        .q = matrix_of(args.q, e),
                                        .scale = matrix_of(args.scale, e)};
      for (std::int64_t j = 0; j < k_blocks; ++j) requantize_block(matrix, index % n_blocks, j);
    }
  });
}

}  // namespace fathom
