// What the host and the general kernels over rows agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// Elements of f32 or bf16 with unit stride in the last axis. Distances count elements.
struct SimtRows {
  void* data;
  long long row;   // to the next row (token)
  long long head;  // to the next head of a row, where there are heads
  int bf16;        // 0: f32
};
/// One axis of i32 or i64.
struct SimtIntegers {
  const void* data;
  long long step;
  int wide;  // 0: i32
};

struct NormKernel {
  SimtRows x, out;
  SimtRows weight, bias;  // one row each
  long long rows, dim;
  float epsilon;
};

/// Elements [offset, offset + 2 * half) of a row, by the angles of its position.
struct SimtRotation {
  SimtIntegers positions;
  const float* cos_sin;
  long long cos_sin_row, max_positions;
  long long half, offset;
  int interleaved;
};

struct RopeKernel {
  SimtRows x;
  SimtRotation rotation;
  long long tokens, heads;
};

struct HadamardKernel {
  SimtRows x, out;
  long long rows, dim;
  float scale;
};

struct CopyRowsKernel {
  SimtRows x, out;
  SimtIntegers selection;  // no data: 0, 1, 2, ...
  long long x_rows, tokens, heads, dim;
  int accumulate;
};

/// A block of threads; eight warps where a warp has a task of its own.
inline constexpr int kRowThreads = 256;
/// Elements of a row that one warp copies.
inline constexpr int kCopyElements = 1024;
/// Elements that a block of the Hadamard kernel rotates at least, in rows as whole.
inline constexpr int kHadamardElements = 2048;

}  // namespace fathom
