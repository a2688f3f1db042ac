// The implementations of m_grouped_linear_f32.
#pragma once
#include "fathom/ops/m_grouped_linear_f32.hpp"

namespace fathom {
void m_grouped_linear_f32_ref(const MGroupedLinearF32Problem& problem, const MGroupedLinearF32Args& args,
                              const Context& context);
void m_grouped_linear_f32_cpu(const MGroupedLinearF32Problem& problem, const MGroupedLinearF32Args& args,
                              const Context& context);
}  // namespace fathom
