// silu_mul_quant of bf16 on 16 bytes that loads a team's next group before it works on this one: as many blocks as run
// at once take turns, so that memory has work while codes are computed.
#pragma once
#include "simt/silu.cuh"

namespace fathom::simt {

/// The group that a team works on, and the lane's part of it.
struct Piece {
  const Bf16Bits* row;  // of gate_up
  long long matrix, line, group, column;
  int n;  // outputs of this lane: 0 if there is no such group
  bool there;
};

/// The gates and ups of 16 outputs as they lie in memory: in two halves.
struct GateUp {
  uint4 bits[4];
};
template <bool kSwizzled>
__device__ __forceinline__ GateUp load_gate_up(const Piece& piece, long long dim) {
  const auto* first = reinterpret_cast<const uint4*>(piece.row + (kSwizzled ? 2 : 1) * piece.column);
  const uint4* second = first + (kSwizzled ? 2 : dim / 8);
  GateUp loaded{};
  if (piece.n > 0) {
    loaded.bits[0] = __ldg(first);
    loaded.bits[1] = __ldg(first + 1);
    loaded.bits[2] = __ldg(second);
    loaded.bits[3] = __ldg(second + 1);
  }
  return loaded;
}
template <bool kSwizzled>
__device__ __forceinline__ void unpack(float (&gate)[kQuantEach], float (&up)[kQuantEach], const GateUp& loaded) {
  constexpr int kUp = kSwizzled ? 1 : 2;  // swizzled: 8 gates, 8 ups, and once more
  unpack(gate, 0, loaded.bits[0], Bf16Bits{});
  unpack(gate, 8, loaded.bits[3 - kUp], Bf16Bits{});
  unpack(up, 0, loaded.bits[kUp], Bf16Bits{});
  unpack(up, 8, loaded.bits[3], Bf16Bits{});
}

/// kMasked: the experts of kMaskWindow at a time; else one matrix.
template <bool kSwizzled, bool kClamp, bool kUe8m0, bool kMasked>
__device__ void silu_mul_quant_ahead(const SiluMulQuantKernelArgs& args) {
  __shared__ long long ends[kMasked ? kMaskWindow : 1];
  __shared__ long long shared[kQuantThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % kQuantLanes;
  const long long groups = args.scale.groups;
  const long long team = static_cast<long long>(blockIdx.x) * kQuantTeams + threadIdx.x / kQuantLanes;
  const long long step = static_cast<long long>(gridDim.x) * kQuantTeams;
  for (long long window = 0; window < (kMasked ? args.experts : 1); window += kMaskWindow) {
    long long rows = args.rows;
    if constexpr (kMasked) {
      __syncthreads();  // everybody is done with the counts before
      rows = count_rows(args, window, ends, shared);
    }
    const long long total = rows * groups;
    const auto locate = [&](long long item) {
      Piece piece{};
      piece.there = item < total;
      const Quotient place = divide(piece.there ? item : 0, groups);
      piece.line = place.quotient;
      piece.group = place.rest;
      if constexpr (kMasked) {
        const int expert = piece.there ? find_end(ends, piece.line) : 0;
        piece.line -= expert > 0 ? ends[expert - 1] : 0;
        piece.matrix = window + expert;
      }
      piece.n = piece.there ? lane_elements(args.dim, piece.group, lane) : 0;
      piece.column = piece.group * 128 + lane * kQuantEach;
      piece.row = static_cast<const Bf16Bits*>(args.gate_up) + piece.matrix * args.gate_up_matrix +
                  piece.line * args.gate_up_row;
      return piece;
    };
    Piece piece = locate(team);
    GateUp loaded = load_gate_up<kSwizzled>(piece, args.dim);
    // A warp goes on as long as one of its teams has a group: all of it takes part in the shuffles.
    for (long long item = team; item / 4 * 4 < total; item += step) {
      const Piece next = locate(item + step);
      const GateUp next_loaded = load_gate_up<kSwizzled>(next, args.dim);
      unsigned codes[kQuantEach / 4];
      const GroupScale group = activate_group<Bf16Bits, kSwizzled, kClamp, kUe8m0>(
          args, piece.row, piece.column, piece.n, codes,
          [&](auto& gate, auto& up) { unpack<kSwizzled>(gate, up, loaded); });
      auto* q = static_cast<unsigned char*>(args.q) + piece.matrix * args.q_matrix + piece.line * args.q_row;
      store_codes<true>(q + piece.column, codes, piece.n);
      if (piece.there && lane == 0) write_scale(args.scale, piece.matrix, piece.line, piece.group, group.scale);
      piece = next;
      loaded = next_loaded;
    }
  }
}

}  // namespace fathom::simt
