// The general product of rows of many groups with their own weights, in every layout: the tiles of simt/gemm.cuh.
//
// Counts, offsets and ids are read here, and brought into range: whatever they are, nothing outside of the tensors
// is read or written. A row has the bytes that the product of its group alone gives.
#pragma once
#include "simt/gemm.cuh"

namespace fathom::simt {

/// Rows that are stored: all, or those of one group.
struct RowsOf {
  const int* row_to_group;  // null: all
  int group;
  __device__ bool operator()(long long row) const { return row_to_group == nullptr || row_to_group[row] == group; }
};

__device__ inline long long clamped(long long value, long long low, long long high) {
  return value < low ? low : value > high ? high : value;
}
__device__ inline long long row_tiles(long long rows) { return (rows + kSimtTile - 1) / kSimtTile; }

/// The least group above `after` that a row of [row, row + kSimtTile) names, or `groups`. Every warp finds the same.
__device__ inline int next_group(const SimtGroupedArgs& args, long long row, int after) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int least = args.groups;
  for (int i = lane; i < kSimtTile; i += 32) {
    if (row + i >= args.gemm.m) continue;
    const int group = args.index[row + i];
    if (group > after && group < least) least = group;
  }
  for (int step = 16; step > 0; step /= 2) least = min(least, __shfl_xor_sync(0xffffffffu, least, step));
  return least;
}

/// One product of one group: rows [begin, end) of a block, from `row` of them on.
struct Part {
  int group;
  long long block, begin, end, row;
};

__device__ inline bool part_of_offsets(const SimtGroupedArgs& args, long long row_tile, Part& part) {
  for (int g = 0; g < args.groups; ++g) {
    const long long begin = clamped(args.index[g], 0, args.gemm.m);
    const long long end = clamped(args.index[g + 1], begin, args.gemm.m);
    const long long tiles = row_tiles(end - begin);
    if (row_tile < tiles) {
      part = {g, 0, begin, end, row_tile * kSimtTile};
      return true;
    }
    row_tile -= tiles;
  }
  return false;
}

__device__ inline bool part_of_masked(const SimtGroupedArgs& args, long long row_tile, Part& part) {
  const long long each = row_tiles(args.gemm.m);
  const int g = static_cast<int>(row_tile / each);
  part = {g, g, 0, clamped(args.index[g], 0, args.gemm.m), row_tile % each * kSimtTile};
  return part.row < part.end;
}

/// The part of a tile of rows that comes after `part`; the first has group -1 before it. Only ids give several.
__device__ inline bool next_part(const SimtGroupedArgs& args, long long row_tile, Part& part) {
  if (args.layout == SimtGroupedArgs::contiguous) {
    part = {next_group(args, row_tile * kSimtTile, part.group), 0, 0, args.gemm.m, row_tile * kSimtTile};
    return part.group < args.groups;
  }
  if (part.group >= 0) return false;
  return args.layout == SimtGroupedArgs::offsets ? part_of_offsets(args, row_tile, part)
                                                 : part_of_masked(args, row_tile, part);
}

/// The part as a product of its own.
template <class Element>
__device__ void describe(const SimtGroupedArgs& args, const Part& part, SimtGemmArgs& gemm) {
  const SimtGroupedArgs::Weights& weights = args.weights[part.group - args.first];
  gemm = args.gemm;
  gemm.a = static_cast<const typename Element::Bits*>(gemm.a) + part.block * args.a_block + part.begin * gemm.a_row;
  const long long out = part.block * args.out_block + part.begin * gemm.out_row;
  gemm.out = static_cast<unsigned char*>(gemm.out) + out * (gemm.out_bf16 ? 2 : 4);
  gemm.b = weights.b;
  gemm.b_row = weights.b_row;
  gemm.m = part.end - part.begin;
  if (gemm.a_scale.data == nullptr) return;
  const long long scale = part.block * args.a_scale_block + part.begin * gemm.a_scale.row_stride;
  gemm.a_scale.data = static_cast<const unsigned*>(gemm.a_scale.data) + scale;  // f32 or words
  gemm.b_scale.data = weights.b_scale;
  gemm.b_scale.row_stride = weights.b_scale_row;
}

/// As many tiles of rows as there can be; those that are not are passed over.
__device__ inline long long most_row_tiles(const SimtGroupedArgs& args) {
  const long long tiles = row_tiles(args.gemm.m);
  if (args.layout == SimtGroupedArgs::contiguous) return tiles;
  return args.layout == SimtGroupedArgs::offsets ? tiles + args.groups : tiles * args.groups;
}

template <class Element>
__device__ void grouped_gemm(const SimtGroupedArgs& args) {
  __shared__ SharedMemory shared;
  __shared__ SimtGemmArgs gemm;
  const long long columns = (args.gemm.n + kSimtTile - 1) / kSimtTile;
  const long long tiles = most_row_tiles(args) * columns;
  const int* ids = args.layout == SimtGroupedArgs::contiguous ? args.index : nullptr;
  for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    Part part{.group = -1};
    while (next_part(args, tile / columns, part)) {
      if (part.group < args.first || part.group >= args.last) continue;
      __syncthreads();  // the part before is done
      if (threadIdx.x == 0) describe<Element>(args, part, gemm);
      __syncthreads();
      compute_tile<Element>(gemm, shared, part.row, tile % columns * kSimtTile, RowsOf{ids, part.group});
    }
  }
}

}  // namespace fathom::simt
