// The implementation of transform_scale_ue8m0.
#pragma once
#include "fathom/ops/transform_scale_ue8m0.hpp"

namespace fathom {
void transform_scale_ue8m0_ref(const TransformScaleUe8m0Problem& problem, const TransformScaleUe8m0Args& args,
                               const Context& context);
}  // namespace fathom
