// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/hadamard/hadamard_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cmath>
#include <vector>

#include "cpu/simd.hpp"
#include "ops/hadamard/hadamard_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Butterflies of distance kHalf inside one vector: lane i becomes x[i] + x[i ^ kHalf], or x[i ^ kHalf] - x[i]
// for the upper one of the pair.
template <class D>
HWY_INLINE hn::Vec<D> ButterflyInside(D d, hn::Vec<D> x, std::uint32_t half) {
  const hn::RebindToUnsigned<D> du;
  const auto lane = hn::Iota(du, 0u);
  const auto partner = hn::TableLookupLanes(x, hn::IndicesFromVec(d, hn::Xor(lane, hn::Set(du, half))));
  const auto upper = hn::MaskFromVec(
      hn::BitCast(d, hn::VecFromMask(du, hn::Ne(hn::And(lane, hn::Set(du, half)), hn::Zero(du)))));
  return hn::Add(partner, hn::IfThenElse(upper, hn::Neg(x), x));
}

void HadamardRows(const HadamardProblem& problem, const HadamardArgs& args, float* HWY_RESTRICT row,
                  std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = problem.dim;
  const auto scale = hn::Set(d, static_cast<float>(1 / std::sqrt(static_cast<double>(dim))));
  const auto inside = static_cast<std::uint32_t>(std::min(lanes, dim));
  for (std::int64_t r = begin; r < end; ++r) {
    for (std::int64_t i = 0; i < dim; i += lanes) {
      auto x = LoadFloats(d, args.x.data, problem.x, r * args.x.step(0) + i, dim - i);
      for (std::uint32_t half = 1; half < inside; half *= 2) x = ButterflyInside(d, x, half);
      hn::StoreU(x, d, row + i);
    }
    for (std::int64_t half = lanes; half < dim; half *= 2) {
      for (std::int64_t pair = 0; pair < dim; pair += 2 * half) {
        for (std::int64_t i = pair; i < pair + half; i += lanes) {
          const auto a = hn::LoadU(d, row + i);
          const auto b = hn::LoadU(d, row + i + half);
          hn::StoreU(hn::Add(a, b), d, row + i);
          hn::StoreU(hn::Sub(a, b), d, row + i + half);
        }
      }
    }
    for (std::int64_t i = 0; i < dim; i += lanes) {
      StoreFloats(d, hn::Mul(hn::LoadU(d, row + i), scale), args.out.data, problem.out,
                  r * args.out.step(0) + i, dim - i);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(HadamardRows);

void hadamard_cpu(const HadamardProblem& problem, const HadamardArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(HadamardRows);
  const auto body = [&](std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t kOnStack = 2048;  // floats; longer rows are rare and pay for an allocation
    HWY_ALIGN float stack[kOnStack];
    if (problem.dim <= kOnStack) return rows(problem, args, stack, begin, end);
    std::vector<float> heap(static_cast<std::size_t>(problem.dim));
    rows(problem, args, heap.data(), begin, end);
  };
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / problem.dim);
  if (problem.rows <= rows_per_task) return body(0, problem.rows);
  context.parallel_for(problem.rows, rows_per_task, body);
}
}  // namespace fathom
#endif
