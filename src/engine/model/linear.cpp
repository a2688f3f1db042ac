#include "engine/model/linear.hpp"

#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "fathom/ops/linear_f32.hpp"
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/m_grouped_linear_f32.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "fathom/ops/silu_mul_quant.hpp"

namespace fathom {

Linear::Arithmetic Linear::arithmetic(const TensorView& w) const {
  if (precision_ == Precision::fp32 || w.dtype == DType::f32) return Arithmetic::f32;
  return w.dtype == DType::bf16 ? Arithmetic::bf16 : Arithmetic::fp8;
}

const TensorView& Linear::prepare(const TensorView& w, Activation& x) const {
  switch (arithmetic(w)) {
    case Arithmetic::f32:
      return x.f32;
    case Arithmetic::bf16:
      if (!x.bf16.given()) {
        x.bf16 = arena_.take(DType::bf16, {x.f32.size(0), x.f32.size(1)});
        copy_rows({.x = x.f32, .out = x.bf16}, context_);
      }
      return x.bf16;
    case Arithmetic::fp8:
      if (!x.fp8.given()) {
        x.fp8 = arena_.take(DType::f8e4m3, {x.f32.size(0), x.f32.size(1)});
        x.scale = arena_.take(DType::f32, {x.f32.size(0), scale_groups(x.f32.size(1))});
        quantize_groups({.x = x.f32, .q = x.fp8, .scale = x.scale, .rule = QuantRule::per_token_group},
                        context_);
      }
      return x.fp8;
  }
  __builtin_unreachable();
}

Activation Linear::permuted(const TensorView& w, Activation& x, const TensorView& ids,
                            const TensorView& slot_to_row, const TensorView& offsets) const {
  const TensorView& from = prepare(w, x);
  const std::int64_t rows = ids.size(0) * ids.size(1);
  Activation out;
  TensorView& to = &from == &x.f32 ? out.f32 : &from == &x.bf16 ? out.bf16 : out.fp8;
  to = arena_.take(from.dtype, {rows, from.size(1)});
  const bool scaled = &from == &x.fp8;
  if (scaled) out.scale = arena_.take(DType::f32, {rows, x.scale.size(1)});
  moe_permute({.ids = ids,
               .x = from,
               .x_scale = scaled ? x.scale : TensorView{},
               .groups = offsets.size(0) - 1,
               .out = to,
               .out_scale = out.scale,
               .slot_to_row = slot_to_row,
               .offsets = offsets},
              context_);
  return out;
}

void Linear::count(const TensorView& values, const TensorView& scale) const {
  read_ += values.count() * size_of(values.dtype);
  if (scale.given()) read_ += scale.count() * size_of(scale.dtype);
}

void Linear::operator()(const Weight& w, Activation& x, const TensorView& out, bool accumulate) const {
  prepare(w.values, x);
  count(w.values, w.scale);
  switch (arithmetic(w.values)) {
    case Arithmetic::f32:
      return linear_f32({.x = x.f32, .w = w.values, .w_scale = w.scale, .out = out, .accumulate = accumulate},
                        context_);
    case Arithmetic::bf16:
      if (accumulate)
        return bf16_gemm_nt({.a = x.bf16, .b = w.values, .out = out, .accumulate = true}, context_);
      return linear_bf16_fp32({.x = x.bf16, .w = w.values, .out = out}, context_);
    case Arithmetic::fp8:
      return fp8_gemm_nt({.a = x.fp8,
                          .a_scale = x.scale,
                          .b = w.values,
                          .b_scale = w.scale,
                          .out = out,
                          .accumulate = accumulate},
                         context_);
  }
}

TensorView Linear::operator()(const Weight& w, Activation& x) const {
  const TensorView out = arena_.take(DType::f32, {x.rows(), w.values.size(0)});
  (*this)(w, x, out);
  return out;
}

void Linear::grouped(const ExpertWeights& w, const Activation& x, const GroupedRows& rows,
                     const TensorView& out) const {
  const bool known = rows.offsets.device.kind == DeviceKind::host;
  for (std::size_t e = 0; known && e < w.values.size(); ++e) {  // only experts that have rows are read
    const std::int32_t* ends = rows.offsets.as<std::int32_t>() + e;
    if (ends[0] < ends[1]) count(w.values[e], w.scales.empty() ? TensorView{} : w.scales[e]);
  }
  switch (arithmetic(w.values[0])) {
    case Arithmetic::f32:
      return m_grouped_linear_f32({.a = x.f32, .b = w.values, .b_scale = w.scales, .rows = rows, .out = out},
                                  context_);
    case Arithmetic::bf16:
      return m_grouped_bf16_gemm_nt({.a = x.bf16, .b = w.values, .rows = rows, .out = out}, context_);
    case Arithmetic::fp8:
      return m_grouped_fp8_gemm_nt(
          {.a = x.fp8, .a_scale = x.scale, .b = w.values, .b_scale = w.scales, .rows = rows, .out = out},
          context_);
  }
}

Activation Linear::gated(const TensorView& gate_up, const TensorView& next) const {
  const std::int64_t rows = gate_up.size(0);
  const std::int64_t dim = gate_up.size(1) / 2;
  Activation x;
  switch (arithmetic(next)) {
    case Arithmetic::f32:
      x.f32 = arena_.take(DType::f32, {rows, dim});
      silu_mul({.gate_up = gate_up, .out = x.f32}, context_);
      break;
    case Arithmetic::bf16:
      x.bf16 = arena_.take(DType::bf16, {rows, dim});
      silu_mul({.gate_up = gate_up, .out = x.bf16}, context_);
      break;
    case Arithmetic::fp8:
      x.fp8 = arena_.take(DType::f8e4m3, {rows, dim});
      x.scale = arena_.take(DType::f32, {rows, scale_groups(dim)});
      silu_mul_quant({.gate_up = gate_up, .q = x.fp8, .scale = x.scale}, context_);
      break;
  }
  return x;
}

}  // namespace fathom
