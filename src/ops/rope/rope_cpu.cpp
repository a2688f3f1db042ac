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

constexpr std::int64_t kPairs = 128;  // whose angles are spread at a time

// Pairs [begin, pairs) of a head, one by one: the same products and sums as the vectors.
template <DType kDType>
void RotateTail(void* data, std::int64_t first, std::int64_t apart, std::int64_t step, const float* cos,
                const float* sin, std::int64_t begin, std::int64_t pairs) {
  for (std::int64_t i = begin; i < pairs; ++i) {
    const std::int64_t at = first + i * step;
    const float a = load_element(data, kDType, at);
    const float b = load_element(data, kDType, at + apart);
    store_element(data, kDType, at, a * cos[i] - b * sin[i]);
    store_element(data, kDType, at + apart, b * cos[i] + a * sin[i]);
  }
}

// Pairs (i, i + half): the angles fit as they lie in the table.
template <DType kDType>
void RotateHalves(const RopeProblem& problem, const RopeArgs& args, std::int64_t token, const float* cos,
                  const float* sin) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t half = problem.rope_dim / 2;
  void* data = args.x.data;
  for (std::int64_t h = 0; h < problem.heads; ++h) {
    const std::int64_t head = token + h * args.x.step(1);
    std::int64_t i = 0;
    for (; i + lanes <= half; i += lanes) {
      const auto a = LoadFloats(d, data, kDType, head + i, lanes);
      const auto b = LoadFloats(d, data, kDType, head + half + i, lanes);
      const auto c = hn::LoadU(d, cos + i);
      const auto s = hn::LoadU(d, sin + i);
      StoreFloats(d, hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), data, kDType, head + i, lanes);
      StoreFloats(d, hn::Add(hn::Mul(b, c), hn::Mul(a, s)), data, kDType, head + half + i, lanes);
    }
    if (i < half) RotateTail<kDType>(data, head, half, 1, cos, sin, i, half);
  }
}

#if HWY_TARGET != HWY_SCALAR  // a vector of one float holds no pair
template <DType kDType, class D>
HWY_INLINE void RotatePairVector(D d, void* data, std::int64_t at, const float* c, const float* s) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto x = LoadFloats(d, data, kDType, at, lanes);
  const auto swapped = hn::Shuffle2301(x);
  const auto rotated = hn::Add(hn::Mul(x, hn::LoadU(d, c)), hn::Mul(swapped, hn::LoadU(d, s)));
  StoreFloats(d, rotated, data, kDType, at, lanes);
}
#endif

// Pairs (2i, 2i+1). With c = cos, cos and s = -sin, sin for every pair, the pair (a, b) becomes
// (a, b) * c + (b, a) * s: one shuffle a vector, and the angles are spread once for all heads.
template <DType kDType>
void RotatePairs(const RopeProblem& problem, const RopeArgs& args, std::int64_t token, const float* cos,
                 const float* sin) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t half = problem.rope_dim / 2;
  void* data = args.x.data;
  HWY_ALIGN float c[2 * kPairs];
  HWY_ALIGN float s[2 * kPairs];
  for (std::int64_t begin = 0; begin < half; begin += kPairs) {
    const std::int64_t pairs = std::min(kPairs, half - begin);
    for (std::int64_t i = 0; i + lanes <= pairs; i += lanes) {
      const auto one_c = hn::LoadU(d, cos + begin + i);
      const auto one_s = hn::LoadU(d, sin + begin + i);
      hn::StoreInterleaved2(one_c, one_c, d, c + 2 * i);
      hn::StoreInterleaved2(hn::Neg(one_s), one_s, d, s + 2 * i);
    }
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::int64_t head = token + h * args.x.step(1) + 2 * begin;
      std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
      for (; i + 2 * lanes <= 2 * pairs; i += 2 * lanes) {
        RotatePairVector<kDType>(d, data, head + i, c + i, s + i);
        RotatePairVector<kDType>(d, data, head + i + lanes, c + i + lanes, s + i + lanes);
      }
#endif
      if (i < 2 * pairs) RotateTail<kDType>(data, head, 1, 2, cos + begin, sin + begin, i / 2, pairs);
    }
  }
}

template <DType kDType>
void RotateTokens(const RopeProblem& problem, const RopeArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t t = begin; t < end; ++t) {
    const float* cos = args.cos_sin.as<float>() + rope_position(args.positions, t) * args.cos_sin.step(0);
    const float* sin = cos + problem.rope_dim / 2;
    const std::int64_t token = t * args.x.step(0) + problem.offset;
    if (problem.style == RopeStyle::interleaved) {
      RotatePairs<kDType>(problem, args, token, cos, sin);
    } else {
      RotateHalves<kDType>(problem, args, token, cos, sin);
    }
  }
}

void RopeTokens(const RopeProblem& problem, const RopeArgs& args, std::int64_t begin, std::int64_t end) {
  problem.x == DType::f32 ? RotateTokens<DType::f32>(problem, args, begin, end)
                          : RotateTokens<DType::bf16>(problem, args, begin, end);
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
