// The vector form of layout/silu.cuh: the same operations in the same order, so the same bytes. Included once
// per target.
#include <hwy/highway.h>

#include "ops/silu.hpp"

#if defined(FATHOM_CPU_SILU_TARGET) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_CPU_SILU_TARGET
#undef FATHOM_CPU_SILU_TARGET
#else
#define FATHOM_CPU_SILU_TARGET
#endif

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Mul and Add, never MulAdd: no target may fuse what another one cannot.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpForSigmoid(D d, V t) {
  using C = ExpConstants;
  const hn::RebindToUnsigned<D> du;
  t = hn::Max(t, hn::Set(d, C::kLeast));
  t = hn::Min(t, hn::Set(d, C::kMost));
  const V shifted = hn::Add(hn::Mul(t, hn::Set(d, C::kLog2E)), hn::Set(d, C::kRound));
  const V n = hn::Sub(shifted, hn::Set(d, C::kRound));
  const V r = hn::Sub(hn::Sub(t, hn::Mul(n, hn::Set(d, C::kLn2High))), hn::Mul(n, hn::Set(d, C::kLn2Low)));
  V p = hn::Add(hn::Mul(hn::Set(d, C::kP4), r), hn::Set(d, C::kP3));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, C::kP2));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, C::kP1));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, C::kP0));
  const V y = hn::Add(hn::Add(hn::Mul(hn::Mul(r, r), p), r), hn::Set(d, 1.0f));
  const auto power = hn::ShiftLeft<23>(hn::Add(hn::BitCast(du, shifted), hn::Set(du, 126u)));
  return hn::Mul(hn::Mul(y, hn::BitCast(d, power)), hn::Set(d, 2.0f));
}

/// silu(gate) * up; `limit` is the clamp of gate and up if kClamp.
template <bool kClamp, class D, class V = hn::Vec<D>>
HWY_INLINE V SiluMul(D d, V gate, V up, V limit) {
  if constexpr (kClamp) {
    gate = hn::IfThenElse(hn::Gt(gate, limit), limit, gate);
    up = hn::IfThenElse(hn::Gt(up, limit), limit, up);
    up = hn::IfThenElse(hn::Lt(up, hn::Neg(limit)), hn::Neg(limit), up);
  }
  const V denominator = hn::Add(hn::Set(d, 1.0f), ExpForSigmoid(d, hn::Neg(gate)));
  return hn::Mul(hn::Div(gate, denominator), up);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
