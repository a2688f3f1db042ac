// What the host and the kernels that quantise groups of 128 agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// Where the scales of [matrices, rows, groups] go: f32, or UE8M0 exponents packed four to a word. Strides count
/// words of four bytes.
struct ScaleTarget {
  void* data;
  long long matrix_stride, row_stride, column_stride;
  long long groups;
  int packed;
};

/// Rows of f32 or bf16, as the kernel says, to f8e4m3.
struct QuantizeKernelArgs {
  const void* x;
  void* q;
  long long x_row, q_row;  // elements between neighbouring rows
  long long rows, k;
  ScaleTarget scale;
};

/// A team of 8 threads has one group, 16 neighbouring elements each.
inline constexpr int kQuantThreads = 128;
inline constexpr int kQuantLanes = 8;
inline constexpr int kQuantEach = 16;
inline constexpr int kQuantTeams = kQuantThreads / kQuantLanes;

}  // namespace fathom
