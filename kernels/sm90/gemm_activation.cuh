// How a warpgroup of a grouped product turns gates and ups into what the next product takes: silu(gate) * up in e4m3,
// with a scale for 128 outputs. The bytes are those of simt/silu.cuh over gates and ups that were stored as bf16.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "simt/silu.cuh"
#include "sm90/gemm_store.cuh"

namespace fathom {

/// `tile` is the shared address of c.store_bytes(), aligned to 1024.
template <GemmPrefillConfig c>
struct GemmActivation {
  static_assert(c.grouped && c.fp8 && !c.swapped && c.subs() == 1 && c.block_n == 256 && !c.stores_whole());
  static constexpr int kEach = 32;  // outputs of a thread in a row, whose others its three neighbours have

  const GroupedGemmArgs& all;
  u32 tile;
  GemmPlace place_in;

  /// 64 rows from token0 on, outputs from column0 on.
  __device__ void store(const float (&sum)[c.block_n / 2], int token0, int column0) const {
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x));  // or addresses are kept while blocks are summed
    const int lane = thread % 32;
    const int token = token0 + thread / 32 % 4 * 16;
    const u32 stored = __ballot_sync(0xffffffff, place_in.stores(token + lane % 16));
    if (stored == 0) return;
    u32 codes[2][kEach / 4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 8 * half + lane / 4;
      const bool live = stored >> row & 1;
      const float scale = activate(sum, half, live, codes[half]);
      if (live && lane % 4 == 0) {
        all.out_scale[place_in.plane * all.out_scale_plane + (token + row) * all.out_scale_row + column0 / 128] = scale;
      }
    }
    const u32 chunk = tile + thread / 32 * c.warp_bytes;
    const auto place_of = [=](int row, int unit) { return chunk + row * 128 + (unit ^ row % 8) * 16; };
    __syncwarp();  // what was in the chunk has been read
#pragma unroll
    for (int unit = 0; unit < 8; unit += 2) {
      ptx::stmatrix_x4(place_of(lane % 16, unit + lane / 16), codes[0][unit], codes[1][unit], codes[0][unit + 1],
                       codes[1][unit + 1]);
    }
    __syncwarp();
    u8* out = static_cast<u8*>(all.gemm.out_data) + place_in.offset + column0 + lane % 8 * 16;
#pragma unroll
    for (int row = lane / 8; row < 16; row += 4) {
      const float4 mixed = ptx::ld_shared_4(place_of(row, lane % 8));
      // A word has two outputs of the first eight and the two of the last eight below them.
      const u32 x = __float_as_uint(mixed.x), y = __float_as_uint(mixed.y);
      const u32 z = __float_as_uint(mixed.z), w = __float_as_uint(mixed.w);
      if (stored >> row & 1) {
        *reinterpret_cast<uint4*>(out + (token + row) * all.gemm.out_row) = {
            __byte_perm(x, y, 0x5410), __byte_perm(z, w, 0x5410), __byte_perm(x, y, 0x7632), __byte_perm(z, w, 0x7632)};
      }
    }
  }

 private:
  /// A thread's 32 outputs in a row of its upper or lower eight: two in every eight columns.
  static __device__ float activate(const float (&sum)[c.block_n / 2], int half, bool live, u32 (&codes)[kEach / 4]) {
    u32 gates[kEach / 2], ups[kEach / 2];  // two bf16 each
#pragma unroll
    for (int j = 0; j < kEach / 2; ++j) {
      const float* gate = sum + 4 * j + 2 * half;
      const float* up = gate + c.block_n / 4;
      gates[j] = ptx::cvt_bf16x2(gate[0], gate[1]);
      ups[j] = ptx::cvt_bf16x2(up[0], up[1]);
    }
    const auto load = [&](float (&gate)[kEach], float (&up)[kEach]) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        gate[i] = of_two(gates[i / 2], i % 2);
        up[i] = of_two(ups[i / 2], i % 2);
      }
    };
    const auto exact = [&](int i) {
      return simt::exact_product<false>(of_two(pick(gates, i / 2), i % 2), of_two(pick(ups, i / 2), i % 2), 0);
    };
    return simt::activate_group<kEach, 4, false>(live ? ~0u : 0, codes, load, exact).scale;
  }
  static __device__ float of_two(u32 two, int i) { return __uint_as_float(i == 0 ? two << 16 : two & 0xffff0000u); }
  /// words[at], from registers.
  static __device__ u32 pick(const u32 (&words)[kEach / 2], int at) {
    u32 word = words[0];
#pragma unroll
    for (int i = 1; i < kEach / 2; ++i) word = at == i ? words[i] : word;
    return word;
  }
};

}  // namespace fathom
