// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/hadamard/hadamard_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cmath>

#include "cpu/simd.hpp"
#include "fathom/core/buffer.hpp"
#include "ops/hadamard/hadamard_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Butterflies inside one vector: lane i becomes x[i] + x[i ^ half], or x[i ^ half] - x[i] for the upper one
// of the pair, for half = 1, 2, ... below the lanes.
template <class D>
class InsideButterflies {
 public:
  explicit InsideButterflies(D d) {
    const hn::RebindToUnsigned<D> du;
    const auto lane = hn::Iota(du, 0u);
    for (std::uint32_t stage = 0; stage < 4; ++stage) {
      const auto half = hn::Set(du, (1u << stage) & static_cast<std::uint32_t>(hn::Lanes(d) - 1));
      partner_[stage] = hn::Xor(lane, half);
      const auto upper = hn::VecFromMask(du, hn::Ne(hn::And(lane, half), hn::Zero(du)));
      sign_[stage] = hn::BitCast(d, hn::And(upper, hn::Set(du, 0x80000000u)));
    }
  }

  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    if constexpr (hn::MaxLanes(D()) > 1) x = Stage(d, x, 0);
    if constexpr (hn::MaxLanes(D()) > 2) x = Stage(d, x, 1);
    if constexpr (hn::MaxLanes(D()) > 4) x = Stage(d, x, 2);
    if constexpr (hn::MaxLanes(D()) > 8) x = Stage(d, x, 3);
    return x;
  }

 private:
  HWY_INLINE hn::Vec<D> Stage(D d, hn::Vec<D> x, int stage) const {
    const auto partner = hn::TableLookupLanes(x, hn::IndicesFromVec(d, partner_[stage]));
    return hn::Add(partner, hn::Xor(x, sign_[stage]));
  }
  hn::Vec<hn::RebindToUnsigned<D>> partner_[4];
  hn::Vec<D> sign_[4];
};

template <class V>
HWY_INLINE void Butterfly(V& a, V& b) {
  const V sum = a + b;
  b = a - b;
  a = sum;
}

// Eight neighbouring vectors: all butterflies inside and among them, in registers.
template <class D, class T>
HWY_INLINE void ButterflyBlock(D d, const InsideButterflies<D>& inside, const T* HWY_RESTRICT x,
                               float* HWY_RESTRICT out) {
  const std::size_t n = hn::Lanes(d);
  auto v0 = inside(d, LoadWhole(d, x)), v1 = inside(d, LoadWhole(d, x + n));
  auto v2 = inside(d, LoadWhole(d, x + 2 * n)), v3 = inside(d, LoadWhole(d, x + 3 * n));
  auto v4 = inside(d, LoadWhole(d, x + 4 * n)), v5 = inside(d, LoadWhole(d, x + 5 * n));
  auto v6 = inside(d, LoadWhole(d, x + 6 * n)), v7 = inside(d, LoadWhole(d, x + 7 * n));
  Butterfly(v0, v1), Butterfly(v2, v3), Butterfly(v4, v5), Butterfly(v6, v7);
  Butterfly(v0, v2), Butterfly(v1, v3), Butterfly(v4, v6), Butterfly(v5, v7);
  Butterfly(v0, v4), Butterfly(v1, v5), Butterfly(v2, v6), Butterfly(v3, v7);
  hn::Store(v0, d, out), hn::Store(v1, d, out + n), hn::Store(v2, d, out + 2 * n),
      hn::Store(v3, d, out + 3 * n);
  hn::Store(v4, d, out + 4 * n), hn::Store(v5, d, out + 5 * n), hn::Store(v6, d, out + 6 * n);
  hn::Store(v7, d, out + 7 * n);
}

// All butterflies of one row into `row`; dim is at least Lanes.
template <class D, class T>
HWY_INLINE void Butterflies(D d, const InsideButterflies<D>& inside, const T* HWY_RESTRICT x,
                            std::int64_t dim, float* HWY_RESTRICT row) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t half = lanes;
  if (dim >= 8 * lanes) {
    for (std::int64_t i = 0; i < dim; i += 8 * lanes) ButterflyBlock(d, inside, x + i, row + i);
    half = 8 * lanes;
  } else {
    for (std::int64_t i = 0; i < dim; i += lanes) hn::Store(inside(d, LoadWhole(d, x + i)), d, row + i);
  }
  for (; half < dim; half *= 2) {
    for (std::int64_t pair = 0; pair < dim; pair += 2 * half) {
      for (std::int64_t i = pair; i < pair + half; i += lanes) {
        auto a = hn::Load(d, row + i);
        auto b = hn::Load(d, row + i + half);
        Butterfly(a, b);
        hn::Store(a, d, row + i);
        hn::Store(b, d, row + i + half);
      }
    }
  }
}

// A row shorter than a vector.
void ShortRow(const void* x, DType dtype, std::int64_t first, std::int64_t dim, float* row) {
  for (std::int64_t i = 0; i < dim; ++i) row[i] = load_element(x, dtype, first + i);
  for (std::int64_t half = 1; half < dim; half *= 2) {
    for (std::int64_t i = 0; i < dim; ++i) {
      if ((i & half) == 0) Butterfly(row[i], row[i + half]);
    }
  }
}

// `row` is scratch for max(dim, Lanes) floats, aligned.
void HadamardRows(const HadamardProblem& problem, const HadamardArgs& args, float* HWY_RESTRICT row,
                  std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = problem.dim;
  const InsideButterflies inside(d);
  const auto scale = hn::Set(d, static_cast<float>(1 / std::sqrt(static_cast<double>(dim))));
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t first = r * args.x.step(0);
    if (dim < lanes) {
      ShortRow(args.x.data, problem.x, first, dim, row);
    } else if (problem.x == DType::f32) {
      Butterflies(d, inside, args.x.as<float>() + first, dim, row);
    } else {
      Butterflies(d, inside, args.x.as<std::uint16_t>() + first, dim, row);
    }
    for (std::int64_t i = 0; i < dim; i += lanes) {
      StoreFloats(d, hn::Mul(hn::Load(d, row + i), scale), args.out.data, problem.out,
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
    alignas(64) float stack[kOnStack];       // HWY_ALIGN is that of the last target here
    if (problem.dim <= kOnStack) return rows(problem, args, stack, begin, end);
    const Buffer heap(problem.dim * size_of(DType::f32));
    rows(problem, args, reinterpret_cast<float*>(heap.data()), begin, end);
  };
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / problem.dim);
  if (problem.rows <= rows_per_task) return body(0, problem.rows);
  context.parallel_for(problem.rows, rows_per_task, body);
}
}  // namespace fathom
#endif
