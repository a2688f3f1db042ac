// rope with vectors. Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rope/rope_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/simd.hpp"
#include "ops/rope/rope_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The pairs left over by the vectors: the same products and sums.
void RotateTail(const RopeProblem& problem, void* data, std::int64_t head, const float* cos, const float* sin,
                std::int64_t begin) {
  const std::int64_t half = problem.rope_dim / 2;
  const bool interleaved = problem.style == RopeStyle::interleaved;
  for (std::int64_t i = begin; i < half; ++i) {
    const std::int64_t first = head + (interleaved ? 2 * i : i);
    const std::int64_t second = interleaved ? first + 1 : first + half;
    const float a = load_element(data, problem.x, first);
    const float b = load_element(data, problem.x, second);
    store_element(data, problem.x, first, a * cos[i] - b * sin[i]);
    store_element(data, problem.x, second, b * cos[i] + a * sin[i]);
  }
}

// Neighbouring pairs of f32 or bf16 apart, and back.
template <class D>
HWY_INLINE void LoadPairs(D d, const void* data, DType dtype, std::int64_t index, hn::Vec<D>& a,
                          hn::Vec<D>& b) {
  if (dtype == DType::f32) return hn::LoadInterleaved2(d, static_cast<const float*>(data) + index, a, b);
  // A pair of bf16 is one word: its halves, moved to the upper half, are the two floats.
  const hn::RebindToUnsigned<D> du;
  const auto* words = reinterpret_cast<const std::uint32_t*>(static_cast<const std::uint16_t*>(data) + index);
  const auto both = hn::LoadU(du, words);
  a = hn::BitCast(d, hn::ShiftLeft<16>(both));
  b = hn::BitCast(d, hn::And(both, hn::Set(du, 0xffff0000u)));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> RoundToBf16(D, hn::Vec<D> value) {  // as float_to_bf16
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
  const auto nan = hn::RebindMask(du, hn::IsNaN(value));
  return hn::IfThenElse(nan, hn::Or(upper, hn::Set(du, 0x40u)), rounded);
}

template <class D>
HWY_INLINE void StorePairs(D d, hn::Vec<D> a, hn::Vec<D> b, void* data, DType dtype, std::int64_t index) {
  if (dtype == DType::f32) return hn::StoreInterleaved2(a, b, d, static_cast<float*>(data) + index);
  const hn::RebindToUnsigned<D> du;
  auto* words = reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(data) + index);
  hn::StoreU(hn::Or(RoundToBf16(d, a), hn::ShiftLeft<16>(RoundToBf16(d, b))), du, words);
}

void RopeTokens(const RopeProblem& problem, const RopeArgs& args, std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t half = problem.rope_dim / 2;
  const bool interleaved = problem.style == RopeStyle::interleaved;
  void* data = args.x.data;
  for (std::int64_t t = begin; t < end; ++t) {
    const float* cos = args.cos_sin.as<float>() + rope_position(args.positions, t) * args.cos_sin.step(0);
    const float* sin = cos + half;
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::int64_t head = t * args.x.step(0) + h * args.x.step(1) + problem.offset;
      std::int64_t i = 0;
      for (; i + lanes <= half; i += lanes) {
        hn::Vec<decltype(d)> a;
        hn::Vec<decltype(d)> b;
        if (interleaved) {
          LoadPairs(d, data, problem.x, head + 2 * i, a, b);
        } else {
          a = LoadFloats(d, data, problem.x, head + i, lanes);
          b = LoadFloats(d, data, problem.x, head + half + i, lanes);
        }
        const auto c = hn::LoadU(d, cos + i);
        const auto s = hn::LoadU(d, sin + i);
        const auto first = hn::Sub(hn::Mul(a, c), hn::Mul(b, s));
        const auto second = hn::Add(hn::Mul(b, c), hn::Mul(a, s));
        if (interleaved) {
          StorePairs(d, first, second, data, problem.x, head + 2 * i);
        } else {
          StoreFloats(d, first, data, problem.x, head + i, lanes);
          StoreFloats(d, second, data, problem.x, head + half + i, lanes);
        }
      }
      RotateTail(problem, data, head, cos, sin, i);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(RopeTokens);

void rope_cpu(const RopeProblem& problem, const RopeArgs& args, const Context& context) {
  const auto tokens = HWY_DYNAMIC_DISPATCH(RopeTokens);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  const std::int64_t row = std::max<std::int64_t>(1, problem.heads * problem.rope_dim);
  const std::int64_t grain = std::max<std::int64_t>(1, kElementsPerTask / row);
  if (problem.tokens <= grain) return tokens(problem, args, 0, problem.tokens);
  context.parallel_for(problem.tokens, grain,
                       [&](std::int64_t begin, std::int64_t end) { tokens(problem, args, begin, end); });
}
}  // namespace fathom
#endif
