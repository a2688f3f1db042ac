// Uses the library as a stranger would: public headers, one target, one op whose result is known.
#include <cmath>
#include <cstdio>

#include "fathom/core/context.hpp"
#include "fathom/ops/rms_norm.hpp"

int main() {
  float x[2] = {3, 4};  // root mean square sqrt(12.5)
  float weight[2] = {1, 2};
  float out[2] = {};
  using fathom::DType;
  using fathom::TensorView;
  const fathom::Context context;
  fathom::rms_norm({.x = TensorView::contiguous(x, DType::f32, {1, 2}),
                    .weight = TensorView::contiguous(weight, DType::f32, {2}),
                    .out = TensorView::contiguous(out, DType::f32, {1, 2}),
                    .epsilon = 12.5f},
                   context);
  std::printf("fathom %s: %g %g\n", std::string(fathom::version()).c_str(), static_cast<double>(out[0]),
              static_cast<double>(out[1]));
  return std::abs(out[0] - 0.6f) < 1e-6f && std::abs(out[1] - 1.6f) < 1e-6f ? 0 : 1;
}
