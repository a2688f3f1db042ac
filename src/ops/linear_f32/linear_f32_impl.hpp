// The implementations of linear_f32.
#pragma once
#include "fathom/ops/linear_f32.hpp"

namespace fathom {
void linear_f32_ref(const LinearF32Problem& problem, const LinearF32Args& args, const Context& context);
void linear_f32_cpu(const LinearF32Problem& problem, const LinearF32Args& args, const Context& context);
}  // namespace fathom
