// Rotation, Walsh-Hadamard transform and copies of rows: every value has the bytes that the CPU op gives it.
#pragma once
#include "layout/rows.cuh"
#include "simt/elements.cuh"

namespace fathom::simt {

__device__ __forceinline__ long long integer_at(const SimtIntegers& values, long long i) {
  return values.wide ? static_cast<const long long*>(values.data)[i * values.step]
                     : static_cast<const int*>(values.data)[i * values.step];
}

/// Calls body(task) for tasks of a warp each, in [0, tasks).
template <class Body>
__device__ __forceinline__ void for_each_warp_task(long long tasks, Body body) {
  const long long warps = static_cast<long long>(gridDim.x) * (kRowThreads / 32);
  for (long long task = static_cast<long long>(blockIdx.x) * (kRowThreads / 32) + threadIdx.x / 32; task < tasks;
       task += warps) {
    body(task);
  }
}
__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % 32); }

/// The cosines of a token, and `half` further on its sines; null if its position is not in the table.
__device__ __forceinline__ const float* angles_of(const SimtRotation& rotation, long long token) {
  const long long position = integer_at(rotation.positions, token);
  if (position < 0 || position >= rotation.max_positions) return nullptr;
  return rotation.cos_sin + position * rotation.cos_sin_row;
}

/// Calls put(at, value) for the rotated values of a row, where get(at) gives what they were. Threads of `threads` take
/// pairs in turn; both values of a pair are read before they are put.
template <class Get, class Put>
__device__ __forceinline__ void rotate_pairs(const SimtRotation& rotation, const float* cos, int thread, int threads,
                                             Get get, Put put) {
  const float* sin = cos + rotation.half;
  for (long long i = thread; i < rotation.half; i += threads) {
    const long long first = rotation.offset + (rotation.interleaved ? 2 * i : i);
    const long long second = rotation.interleaved ? first + 1 : first + rotation.half;
    const float a = get(first);
    const float b = get(second);
    put(first, a * cos[i] - b * sin[i]);
    put(second, b * cos[i] + a * sin[i]);
  }
}

/// Blocks (x, head): a warp rotates one head of one token. A position that is not in the table leaves its token as it
/// is.
__device__ inline void rope(const RopeKernel& args) {
  for_each_warp_task(args.tokens, [&](long long token) {
    const float* cos = angles_of(args.rotation, token);
    if (cos == nullptr) return;
    for (long long head = blockIdx.y; head < args.heads; head += gridDim.y) {
      const long long begin = token * args.x.row + head * args.x.head;
      rotate_pairs(
          args.rotation, cos, lane_id(), 32,
          [&](long long i) { return load_element(args.x.data, args.x.bf16, begin + i); },
          [&](long long i, float value) { store_element(args.x.data, args.x.bf16, begin + i, value); });
    }
  });
}

/// A block rotates whole rows, at least kHadamardElements elements of them, in dynamic shared memory.
__device__ inline void hadamard(const HadamardKernel& args) {
  extern __shared__ float values[];
  const int dim = static_cast<int>(args.dim);
  const int rows = dim < kHadamardElements ? kHadamardElements / dim : 1;
  for (long long first = static_cast<long long>(blockIdx.x) * rows; first < args.rows;
       first += static_cast<long long>(gridDim.x) * rows) {
    const long long left = args.rows - first;
    const int count = static_cast<int>(left < rows ? left : rows) * dim;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads) {
      values[i] = load_element(args.x.data, args.x.bf16, (first + i / dim) * args.x.row + i % dim);
    }
    __syncthreads();
    for (int half = 1; half < dim; half *= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < count / 2; i += kRowThreads) {
        const int at = i / half * 2 * half + i % half;
        const float a = values[at];
        const float b = values[at + half];
        values[at] = a + b;
        values[at + half] = a - b;
      }
      __syncthreads();
    }
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads) {
      store_element(args.out.data, args.out.bf16, (first + i / dim) * args.out.row + i % dim, values[i] * args.scale);
    }
    __syncthreads();
  }
}

/// Blocks (x, head, part): a warp copies up to kCopyElements elements of one head. A selection that is no row of x
/// copies nothing.
__device__ inline void copy_rows(const CopyRowsKernel& args) {
  const bool bits = args.x.bf16 == args.out.bf16 && !args.accumulate;
  for_each_warp_task(args.tokens, [&](long long token) {
    const long long row = args.selection.data != nullptr ? integer_at(args.selection, token) : token;
    if (row < 0 || row >= args.x_rows) return;
    for (long long head = blockIdx.y; head < args.heads; head += gridDim.y) {
      const long long from = row * args.x.row + head * args.x.head;
      const long long to = token * args.out.row + head * args.out.head;
      for (long long begin = static_cast<long long>(blockIdx.z) * kCopyElements; begin < args.dim;
           begin += static_cast<long long>(gridDim.z) * kCopyElements) {
        const long long end = begin + kCopyElements < args.dim ? begin + kCopyElements : args.dim;
        for (long long i = begin + lane_id(); i < end; i += 32) {
          if (bits && args.x.bf16) {
            static_cast<unsigned short*>(args.out.data)[to + i] = static_cast<const unsigned short*>(args.x.data)[from + i];
          } else if (bits) {
            static_cast<unsigned*>(args.out.data)[to + i] = static_cast<const unsigned*>(args.x.data)[from + i];
          } else {
            const float value = load_element(args.x.data, args.x.bf16, from + i);
            const float sum = args.accumulate ? load_element(args.out.data, args.out.bf16, to + i) + value : value;
            store_element(args.out.data, args.out.bf16, to + i, sum);
          }
        }
      }
    }
  });
}

}  // namespace fathom::simt
