// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/quantize_weight/quantize_weight_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/group_quant.hpp"
#include "ops/quantize_weight/quantize_weight_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// False, with nothing written, if the block holds an infinity or NaN: that is left to the reference.
template <class T>
HWY_INLINE bool QuantizeBlock(const T* HWY_RESTRICT w, std::int64_t w_step, std::int64_t rows,
                              ScaleFormat format, std::uint8_t* HWY_RESTRICT q, std::int64_t q_step,
                              float* HWY_RESTRICT scale) {
  const hn::ScalableTag<float> d;
  std::int32_t amax = 0;
  for (std::int64_t i = 0; i < rows; ++i) amax = std::max(amax, GroupAmaxBits(d, w + i * w_step));
  if (amax >= 0x7f800000) return false;
  const GroupScale block = block_scale(format, std::bit_cast<float>(amax));
  for (std::int64_t i = 0; i < rows; ++i) EncodeGroup(d, w + i * w_step, block, q + i * q_step);
  *scale = block.scale;
  return true;
}

// The same for a block that is narrower than 128.
bool QuantizeWeightBlock(const TensorView& w, const TensorView& q, const TensorView& scale,
                         ScaleFormat format, std::int64_t row_block, std::int64_t column_block) {
  const std::int64_t row = row_block * kQuantGroup;
  const std::int64_t column = column_block * kQuantGroup;
  if (column + kQuantGroup > w.size(1)) return false;
  const std::int64_t rows = std::min(kQuantGroup, w.size(0) - row);
  const std::int64_t first = row * w.step(0) + column;
  std::uint8_t* out = q.as<std::uint8_t>() + row * q.step(0) + column;
  float* s = scale.as<float>() + row_block * scale.step(0) + column_block;
  if (w.dtype == DType::f32)
    return QuantizeBlock(w.as<float>() + first, w.step(0), rows, format, out, q.step(0), s);
  return QuantizeBlock(w.as<std::uint16_t>() + first, w.step(0), rows, format, out, q.step(0), s);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(QuantizeWeightBlock);

void quantize_weight_cpu(const QuantizeWeightProblem& problem, const QuantizeWeightArgs& args,
                         const Context& context) {
  const auto quantize_block = HWY_DYNAMIC_DISPATCH(QuantizeWeightBlock);
  const std::int64_t n_blocks = scale_groups(problem.n);
  const std::int64_t k_blocks = scale_groups(problem.k);
  const std::int64_t experts = args.w.rank == 3 ? problem.experts : 1;
  const auto body = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t index = begin; index < end; ++index) {
      const std::int64_t expert = index / k_blocks / n_blocks;
      const std::int64_t row_block = index / k_blocks % n_blocks;
      const TensorView w = matrix_of(args.w, expert);
      const TensorView q = matrix_of(args.q, expert);
      const TensorView scale = matrix_of(args.scale, expert);
      if (!quantize_block(w, q, scale, problem.scale_format, row_block, index % k_blocks)) {
        quantize_weight_block(w, q, scale, problem.scale_format, row_block, index % k_blocks);
      }
    }
  };
  context.parallel_for(experts * n_blocks * k_blocks, 4, body);
}
}  // namespace fathom
#endif
