// The gated activation silu(gate) * up, and the same quantised to FP8 in one pass.
//
// The quantised form gives the bytes of the host with the arithmetic of the special function unit: an estimate of every
// product is within kError of what the fixed sequence of layout/silu.cuh gives. The few products that may decide a
// group's scale, and those whose code the error might change, are computed by the fixed sequence.
#pragma once
#include "layout/silu.cuh"
#include "ptx/convert.cuh"
#include "simt/group_quant.cuh"
#include "simt/scan.cuh"

namespace fathom::simt {

/// Relative error of estimate() against silu(gate) * up, for gates from -87 on: the exponent's product with log2(e) is
/// off by 2^-17 at most; all else is far smaller. Below -87 both are too small for a code other than 0, if ups stay
/// below kMostUp.
constexpr float kError = 0x1p-16f;
constexpr float kMostUp = 0x1p60f;

__device__ __forceinline__ float estimate(float gate, float up) {
  return gate * ptx::rcp(1.0f + ptx::exp2(gate * -ExpConstants::kLog2E)) * up;
}

/// Where gate and up of output i of a row are, seen from the row's start.
struct GateUpPlace {
  long long gate, up;
};
template <bool kSwizzled>
__device__ __forceinline__ GateUpPlace gate_up_place(long long i, long long dim) {
  if (!kSwizzled) return {i, dim + i};
  const long long gate = i / 8 * 16 + i % 8;
  return {gate, gate + 8};
}

template <bool kClamp>
__device__ __forceinline__ float exact_product(float gate, float up, float limit) {
  if (kClamp) {
    gate = clamp_gate(gate, limit);
    up = clamp_up(up, limit);
  }
  return silu(gate) * up;
}

/// The first n of the 16 gates and ups from output `at` on, then zeros.
template <class T, bool kSwizzled>
__device__ __forceinline__ void load_gate_up(float (&gate)[kQuantEach], float (&up)[kQuantEach], const T* row,
                                             long long at, long long dim, int n) {
#pragma unroll
  for (int i = 0; i < kQuantEach; ++i) {
    const GateUpPlace place = gate_up_place<kSwizzled>(at + i, dim);
    gate[i] = i < n ? to_float(row[place.gate]) : 0.0f;
    up[i] = i < n ? to_float(row[place.up]) : 0.0f;
  }
}

/// One group of one row, by kLanes lanes that have kEach of its outputs each: load(gate, up) gets a lane's gates and
/// ups, clamped, and exact(i) gives the product of one of them by the fixed sequence. Bits of `live` say which outputs
/// count. All lanes of the warp take part.
template <int kEach, int kLanes, bool kUe8m0, class Load, class Exact>
__device__ __forceinline__ GroupScale activate_group(unsigned live, unsigned (&codes)[kEach / 4], const Load& load,
                                                     const Exact& exact) {
  float v[kEach];
  float ups = 0;
  {
    float gate[kEach], up[kEach];
    load(gate, up);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      ups += fabsf(up[i]);
      v[i] = estimate(gate[i], up[i]);
    }
  }
  float near_amax = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) near_amax = fmaxf(near_amax, fabsf(v[i]));
  // Estimates that say nothing: every product of this lane is computed. Also if an up is NaN.
  bool blind = !(ups < kMostUp);
  if (blind) near_amax = 0;
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    near_amax = fmaxf(near_amax, __shfl_xor_sync(~0u, near_amax, step));
  }
  blind = blind || !(near_amax < 1e37f);
  // The largest product is among those whose estimates are near the largest one; below the floor it does not matter.
  const float bar = near_amax > 0.9e-10f ? near_amax * (1 - 4 * kError) : 1e38f;
  unsigned open = 0;  // bit i: product i is above the bar
#pragma unroll
  for (int i = kEach - 1; i >= 0; --i) open = open << 1 | __float_as_uint(bar - fabsf(v[i])) >> 31;
  if (blind) open = ~0u;
  open &= live;
  float amax = 0;
  for (; open != 0; open &= open - 1) amax = fmaxf(amax, fabsf(exact(__ffs(open) - 1)));
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, step));
  const GroupScale group = group_scale<kSiluMul, kUe8m0>(amax);

  const float low = group.factor * (1 - 2 * kError);
  const float high = group.factor * (1 + 2 * kError);
  unsigned different = 0;
#pragma unroll
  for (int i = 0; i < kEach / 4; ++i) {
    const float* x = v + 4 * i;
    codes[i] = float_to_f8e4m3x2(x[0] * low, x[1] * low) | float_to_f8e4m3x2(x[2] * low, x[3] * low) << 16;
    const unsigned upper =
        float_to_f8e4m3x2(x[0] * high, x[1] * high) | float_to_f8e4m3x2(x[2] * high, x[3] * high) << 16;
    // One bit for every byte that differs: neighbouring codes differ in their lowest bit.
    const unsigned bits = (codes[i] ^ upper) & 0x01010101u;
    different |= (bits * 0x01020408u >> 24) << (4 * i);
  }
  if (blind) different = ~0u;
  for (different &= live; different != 0; different &= different - 1) {
    const int i = __ffs(different) - 1;
    const unsigned code = float_to_f8e4m3x2(exact(i) * group.factor, 0.0f) & 0xffu;
    const unsigned mask = 0xffu << 8 * (i % 4);
#pragma unroll
    for (int w = 0; w < kEach / 4; ++w) {  // an index known to the compiler keeps the words in registers
      const unsigned here = i / 4 == w ? mask : 0;
      codes[w] = (codes[w] & ~here) | (code * 0x01010101u & here);
    }
  }
  return group;
}

/// Rows of up to 32 experts, a lane each.
class ExpertRows {
 public:
  __device__ __forceinline__ ExpertRows(const SiluMulQuantKernelArgs& args, long long first, long long last) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const long long expert = first + lane;
    const long long count = expert < last ? __ldg(args.masked_m + expert * args.masked_m_step) : 0;
    end_ = warp_inclusive_sum(count < 0 ? 0 : count > args.rows ? args.rows : count, lane);
    total_ = __shfl_sync(~0u, end_, 31);
  }
  __device__ long long total() const { return total_; }
  /// The expert that has row `row` of all, which becomes its row of that expert. The whole warp calls it.
  __device__ __forceinline__ int find(long long& row) const {
    int expert = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      if (__shfl_sync(~0u, end_, expert + step - 1) <= row) expert += step;
    }
    const long long before = __shfl_sync(~0u, end_, expert > 0 ? expert - 1 : 0);
    if (expert > 0) row -= before;
    return expert;
  }

 private:
  long long end_;  // rows of the experts up to this lane's
  long long total_;
};

/// The group that a team works on, and the lane's part of it.
template <class T>
struct Piece {
  const T* row;  // of gate_up
  long long matrix, line;
  int group, column;
  int n;  // outputs of this lane: 0 if there is no such group
  bool there;
};

/// The gates and ups of 16 outputs as they lie in memory, on 16 bytes.
template <class T, bool kSwizzled>
struct GateUp {
  static constexpr int kWords = kQuantEach * sizeof(T) / 16;  // of either half
  uint4 bits[2 * kWords];

  /// A lane without outputs has those of its team's first lane, which change no maximum.
  __device__ __forceinline__ void load(const Piece<T>& piece, long long dim) {
    const int column = piece.n > 0 ? piece.column : piece.group * 128;
    const auto* first = reinterpret_cast<const uint4*>(piece.row + (kSwizzled ? 2 : 1) * column);
    const auto* second = kSwizzled ? first + kWords : reinterpret_cast<const uint4*>(piece.row + dim + column);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      bits[i] = __ldg(first + i);
      bits[kWords + i] = __ldg(second + i);
    }
  }
  __device__ __forceinline__ void unpack(float (&gate)[kQuantEach], float (&up)[kQuantEach]) const {
    constexpr int kPerWord = 16 / sizeof(T);
#pragma unroll
    for (int i = 0; i < 2 * kWords; ++i) {
      const int at = i * kPerWord;  // swizzled: 8 gates, 8 ups, and once more
      if (kSwizzled) {
        simt::unpack(at % 16 < 8 ? gate : up, at / 16 * 8 + at % 8, bits[i], T{});
      } else {
        simt::unpack(at < kQuantEach ? gate : up, at % kQuantEach, bits[i], T{});
      }
    }
  }
};

/// As many blocks as run at once take turns. kVector: rows lie on 16 bytes, and a team loads its next group before it
/// works on this one, so that memory has work while codes are computed.
template <class T, bool kSwizzled, bool kClamp, bool kUe8m0, bool kVector, SiluRows kRows>
__device__ void silu_mul_quant(const SiluMulQuantKernelArgs& args) {
  // Of one expert: asked for before anything else, for all loads wait for it.
  const long long own = kRows == SiluRows::one ? __ldg(args.masked_m + blockIdx.y * args.masked_m_step) : 0;
  const int lane = static_cast<int>(threadIdx.x) % kQuantLanes;
  const int groups = static_cast<int>(args.scale.groups);
  const int team = static_cast<int>(blockIdx.x) * kQuantTeams + static_cast<int>(threadIdx.x) / kQuantLanes;
  const int step = static_cast<int>(gridDim.x) * kQuantTeams;
  const int step_rows = step / groups;
  const int step_groups = step - step_rows * groups;
  long long at = team / groups;  // the row of this team's next group
  int group = team - static_cast<int>(at) * groups;
  const auto process = [&](long long rows, const auto& find) {
    const auto locate = [&] {
      Piece<T> piece;
      piece.there = at < rows;
      piece.line = piece.there ? at : 0;
      piece.matrix = find(piece.line);
      if (!piece.there) piece.matrix = 0;  // it may be none that exists
      piece.group = group;
      piece.column = group * 128 + lane * kQuantEach;
      piece.n = piece.there ? lane_elements(args.dim, group, lane) : 0;
      piece.row = static_cast<const T*>(args.gate_up) + piece.matrix * args.gate_up_matrix +
                  piece.line * args.gate_up_row;
      return piece;
    };
    Piece<T> piece = locate();
    GateUp<T, kSwizzled> loaded;
    if constexpr (kVector) loaded.load(piece, args.dim);
    // A warp goes on as long as one of its teams has a group: all of it takes part in the shuffles.
    while (__any_sync(~0u, piece.there)) {
      if (piece.there) {
        at += step_rows;
        group += step_groups;
        if (group >= groups) {
          group -= groups;
          ++at;
        }
      }
      Piece<T> next = piece;
      next.there = at < rows;
      GateUp<T, kSwizzled> next_loaded = loaded;
      if (__any_sync(~0u, next.there)) {
        next = locate();
        if constexpr (kVector) next_loaded.load(next, args.dim);
      }
      unsigned codes[kQuantEach / 4];
      const GroupScale scale = activate_group<kQuantEach, kQuantLanes, kUe8m0>(
          (1u << piece.n) - 1, codes,  // others are copies
          [&](auto& gate, auto& up) {
            if constexpr (kVector) {
              loaded.unpack(gate, up);
            } else {
              load_gate_up<T, kSwizzled>(gate, up, piece.row, piece.column, args.dim, piece.n);
            }
#pragma unroll
            for (int i = 0; i < kQuantEach && kClamp; ++i) {
              gate[i] = clamp_gate(gate[i], args.limit);
              up[i] = clamp_up(up[i], args.limit);
            }
          },
          [&](int i) {
            const GateUpPlace place = gate_up_place<kSwizzled>(piece.column + i, args.dim);
            return exact_product<kClamp>(to_float(piece.row[place.gate]), to_float(piece.row[place.up]), args.limit);
          });
      auto* q = static_cast<unsigned char*>(args.q) + piece.matrix * args.q_matrix + piece.line * args.q_row;
      store_codes<kVector>(q + piece.column, codes, piece.n);
      if (piece.there && lane == 0) write_scale(args.scale, piece.matrix, piece.line, piece.group, scale.scale);
      piece = next;
      loaded = next_loaded;
    }
  };
  if constexpr (kRows == SiluRows::one) {
    process(own < 0 ? 0 : own < args.rows ? own : args.rows,
            [](long long&) { return static_cast<long long>(blockIdx.y); });
  } else if constexpr (kRows == SiluRows::each) {
    for (long long first = 0; first < args.experts; first += 32) {
      const ExpertRows rows(args, first, args.experts);
      process(rows.total(), [&](long long& row) { return first + rows.find(row); });
      at -= rows.total();
    }
  } else {
    process(args.rows, [](long long&) { return 0ll; });
  }
}

/// A thread has 8 neighbouring outputs of a row.
template <class T, class Out, bool kClamp, bool kVector>
__device__ void silu_mul(const SiluMulKernelArgs& args) {
  const long long pieces = (args.dim + kSiluEach - 1) / kSiluEach;
  const long long total = args.rows * pieces;
  for (long long item = static_cast<long long>(blockIdx.x) * kSiluThreads + threadIdx.x; item < total;
       item += static_cast<long long>(gridDim.x) * kSiluThreads) {
    const Quotient place = divide(item, pieces);
    const long long column = place.rest * kSiluEach;
    const long long left = args.dim - column;
    const int n = left < kSiluEach ? static_cast<int>(left) : kSiluEach;
    const T* row = static_cast<const T*>(args.gate_up) + place.quotient * args.gate_up_row;
    float gate[kSiluEach], up[kSiluEach];
    load_values<T, kVector>(gate, row + column, n);
    load_values<T, kVector>(up, row + args.dim + column, n);
#pragma unroll
    for (int i = 0; i < kSiluEach; ++i) gate[i] = exact_product<kClamp>(gate[i], up[i], args.limit);
    store_values<kVector>(static_cast<Out*>(args.out) + place.quotient * args.out_row + column, gate, n);
  }
}

}  // namespace fathom::simt
