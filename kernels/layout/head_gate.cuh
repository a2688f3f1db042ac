// What the host and the general head gate kernel agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// out[t, h] = (x[t] . w[h]) * factor * q_scale[t, h]; x and w are f32 or bf16, as the kernel says.
struct HeadGateKernelArgs {
  const void* x;
  const void* w;
  const float* q_scale;  // null: 1
  float* out;
  long long x_row, w_row, q_scale_row, out_row;  // elements between neighbouring rows
  long long tokens, heads, hidden;
  float factor;
};

inline constexpr int kHeadGateThreads = 256;

}  // namespace fathom
